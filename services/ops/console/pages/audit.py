"""The screen Audit: who did what, why, with what outcome. Edge."""

from __future__ import annotations

from typing import Final

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from services.ops.console.console import Console, page_route
from services.ops.console.views.audit import Entry
from services.ops.console.views.filters import AUDIT_FIELDS, asked, chips, given, pager
from shared.contract.answers import Page

PATH: Final = "/audit"


def routes(console: Console) -> list[Route]:
    return [page_route(console, PATH, _show)]


async def _show(console: Console, request: Request) -> Response:
    chosen, cursor = given(request.query_params, AUDIT_FIELDS), request.query_params.get("cursor")
    wanted = asked(chosen, console.clock())
    found = await console.apis(request).ops.get(Page[Entry], PATH, {**wanted, "cursor": cursor})
    return await console.render(
        request,
        "audit.html",
        entries=found.items,
        chosen=chosen,
        fields=AUDIT_FIELDS,
        chips=chips(PATH, chosen, AUDIT_FIELDS),
        actors=sorted({each.actor for each in found.items}),
        actions=sorted({each.action for each in found.items}),
        pager=pager(PATH, chosen, cursor=cursor, following=found.next_cursor),
    )
