"""The audit: a request to the operators' API, shown as a table or JSON."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from services.cli.choices import Format
from services.cli.operators.client import operators
from services.cli.table import Column, print_list
from services.ops.audit.views import AuditView
from shared.contract.answers import Page

AUDIT: Final[Sequence[Column[AuditView]]] = (
    Column("when", lambda each: each.at, 2),
    Column("who", lambda each: each.actor, 1),
    Column("what", lambda each: each.action),
    Column("of", lambda each: each.target),
    Column("why", lambda each: each.reason, 3, is_prose=True),
    Column("outcome", lambda each: each.outcome, 4, is_prose=True),
)


async def list_audit(chosen: Mapping[str, str | None], *, limit: int, output: Format) -> None:
    async with operators() as api:
        found = await api.list(Page[AuditView], "/v1/audit", chosen, limit=limit)
    print_list(found, AUDIT, output, empty="no such action was taken", limit=limit)
