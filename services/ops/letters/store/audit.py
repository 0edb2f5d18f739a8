"""What the API shows of the audit. Edge."""

from __future__ import annotations

from typing import Any, Final

from services.ops.letters.audit import AuditFilter, AuditView
from services.ops.letters.where import WORDS, search
from services.ops.session import END, Session

# The times bound the numbers, by which pages are sorted: otherwise a page of long ago reads every newer entry. Entries
# that are written at the same time may be numbered in another order than their times, by far fewer than 1000.
_CONDITIONS: Final = {
    "actor": "actor = {}",
    "action": "action = {}",
    "target": "target = {}",
    "since": "at >= {0} AND number >= coalesce("
    "(SELECT number - 1000 FROM ops.audit WHERE at >= {0} ORDER BY at LIMIT 1), 9223372036854775807)",
    "until": "at < {0} AND number <= coalesce("
    "(SELECT number + 1000 FROM ops.audit WHERE at < {0} ORDER BY at DESC LIMIT 1), 0)",
    "text": WORDS.format("target || ' ' || reason || ' ' || outcome", "{}"),
}


class AuditQueries(Session):
    """Reads only."""

    async def list_audit(self, wanted: AuditFilter, *, before: int | None, limit: int) -> list[AuditView]:
        """Return at most *limit* entries numbered below *before*, newest first."""
        given: dict[str, Any] = wanted.model_dump(exclude_none=True)
        if "text" in given:
            given["text"] = search(given["text"])
        found = (_CONDITIONS[name].format(f"${place}") for place, name in enumerate(given, start=3))
        conditions = " AND ".join(["number < $1", *found])
        # As in `by_number`: a search for words uses its own index.
        order = "number" if wanted.text is None else "number + 0"
        statement = f"SELECT * FROM ops.audit WHERE {conditions} ORDER BY {order} DESC LIMIT $2"  # noqa: S608 (our own columns)
        rows = await self._fetch(statement, END if before is None else before, limit, *given.values())
        return [AuditView(**row) for row in rows]
