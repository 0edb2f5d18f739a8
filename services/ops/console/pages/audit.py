"""The screen Audit: who did what, why, with what outcome. Edge."""

from __future__ import annotations

from typing import Final

from starlette.responses import Response
from starlette.routing import Route

from services.ops.console.console import Console, Visit, page_route
from services.ops.console.views.audit import Entry
from services.ops.console.views.filters import AUDIT_FIELDS, asked, chips, given, pager
from shared.contract.answers import Page

PATH: Final = "/audit"


def routes(console: Console) -> list[Route]:
    return [page_route(console, PATH, _show)]


async def _show(visit: Visit) -> Response:
    chosen, cursor = given(visit.query, AUDIT_FIELDS), visit.cursor
    wanted = asked(chosen, visit.now)
    found = await visit.apis.ops.get(Page[Entry], PATH, {**wanted, "cursor": cursor})
    return await visit.render(
        "audit.html",
        entries=found.items,
        chosen=chosen,
        fields=AUDIT_FIELDS,
        chips=chips(PATH, chosen, AUDIT_FIELDS),
        actors=sorted({each.actor for each in found.items}),
        actions=sorted({each.action for each in found.items}),
        pager=pager(PATH, chosen, cursor=cursor, following=found.next_cursor),
    )
