"""The store of the audit: its SQL, in schema `ops`. Edge."""

from __future__ import annotations

from typing import Final

from services.ops.audit.views import AuditFilter, AuditView
from services.ops.session import Session
from services.ops.where import WORDS, by_number, conditions
from shared.contract.answers import END

# The times bound the numbers, by which pages are sorted: otherwise a page of long ago reads every newer entry. Entries
# that are written at the same time may be numbered in another order than their times, by far fewer than 1000.
_COLUMNS: Final = {
    "actor": "actor = {}",
    "action": "action = {}",
    "target": "target = {}",
    "since": "at >= {0} AND number >= coalesce("
    "(SELECT number - 1000 FROM ops.audit WHERE at >= {0} ORDER BY at LIMIT 1), 9223372036854775807)",
    "until": "at < {0} AND number <= coalesce("
    "(SELECT number + 1000 FROM ops.audit WHERE at < {0} ORDER BY at DESC LIMIT 1), 0)",
    "text": WORDS.format("target || ' ' || reason || ' ' || outcome", "{}"),
}


class AuditStore(Session):
    """Add entries (`Session.audit`), and list them."""

    async def list_audit(self, wanted: AuditFilter, *, before: int = END, limit: int) -> list[AuditView]:
        """Return at most *limit* entries numbered below *before*, newest first."""
        found, values = conditions(wanted, _COLUMNS)
        found += f" AND number < ${len(values) + 1} ORDER BY {by_number(wanted.text)} DESC LIMIT ${len(values) + 2}"
        statement = f"SELECT * FROM ops.audit WHERE {found}"  # noqa: S608 (our own columns)
        rows = await self._fetch(statement, *values, before, limit)
        return [AuditView(**row) for row in rows]
