"""What the API shows of the audit. Edge."""

from __future__ import annotations

from services.ops.letters.audit import AuditFilter, AuditView
from services.ops.letters.where import by_number, where_audit
from services.ops.session import Session
from shared.contract.answers import END


class AuditQueries(Session):
    """Reads only."""

    async def list_audit(self, wanted: AuditFilter, *, before: int = END, limit: int) -> list[AuditView]:
        """Return at most *limit* entries numbered below *before*, newest first."""
        conditions, values = where_audit(wanted)
        conditions += f" AND number < ${len(values) + 1} ORDER BY {by_number(wanted)} DESC LIMIT ${len(values) + 2}"
        statement = f"SELECT * FROM ops.audit WHERE {conditions}"  # noqa: S608 (our own columns)
        rows = await self._fetch(statement, *values, before, limit)
        return [AuditView(**row) for row in rows]
