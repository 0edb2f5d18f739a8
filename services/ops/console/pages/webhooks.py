"""A webhook endpoint: its deliveries, to be sent again one by one or by time. Edge."""

from __future__ import annotations

import asyncio
import shlex
from datetime import datetime
from http import HTTPStatus
from typing import Final, NamedTuple

from pydantic import JsonValue
from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.routing import Route

from services.ops.console.console import Console, Done, Visit, form_route, page_route
from services.ops.console.forms import Form
from services.ops.console.views.filters import pager
from services.ops.console.views.letters import count_of
from services.ops.console.views.problems import ProblemView
from services.ops.console.views.queues import PERIODS, STATUSES, DeliveryAnswer, EndpointAnswer
from services.ops.endpoints.views import DeliveriesResent, DeliveryResent, EndpointEnabled
from shared.contract.answers import Page
from shared.contract.text import plural

_PAGE: Final = "50"
#: A cookie has room for the sentence after a form, and no more.
_REASON_LENGTH: Final = 200
_ONE: Final = "/queues/webhooks/{endpoint:uuid}"


class _Preview(NamedTuple):
    """What a form would send again."""

    found: DeliveriesResent
    since: datetime
    #: ``on``: also those that were delivered.
    all: str


def routes(console: Console) -> list[Route]:
    return [
        page_route(console, _ONE, _show),
        form_route(console, _ONE + "/deliveries/{delivery:uuid}/resend", _resend_one),
        page_route(console, _ONE + "/preview", _preview, method="POST"),
        form_route(console, _ONE + "/resend", _resend, again=_show),
        form_route(console, _ONE + "/enable", _enable),
    ]


async def _show(visit: Visit, problem: ProblemView | None = None, *, preview: _Preview | None = None) -> Response:
    notifier, path, here = visit.apis.notifier, _api_path(visit), _page_path(visit)
    status, cursor = (visit.query.get(name) for name in ("status", "cursor"))
    if status is not None and status not in STATUSES:
        raise HTTPException(HTTPStatus.NOT_FOUND, "there is no such status of deliveries")
    query = {"status": status, "cursor": cursor, "limit": _PAGE}
    endpoint, deliveries = await asyncio.gather(
        notifier.get(EndpointAnswer, path), notifier.get(Page[DeliveryAnswer], f"{path}/deliveries", query)
    )
    return await visit.render(
        "webhook_endpoint.html",
        endpoint=endpoint,
        here=here,
        deliveries=deliveries.items,
        statuses=STATUSES,
        chosen=status,
        pager=pager(here, {"status": status}, cursor=cursor, following=deliveries.next_cursor),
        periods=list(PERIODS),
        preview=preview,
        problem=problem,
    )


async def _preview(visit: Visit) -> Response:
    """Show how many deliveries the form would send again."""
    form = visit.form
    since = visit.now - PERIODS.get(form.text("period"), PERIODS["the last day"])
    body = {**_body(form), "since": since.isoformat(), "dry_run": True}
    found = await visit.apis.notifier.post(DeliveriesResent, f"{_api_path(visit)}/resend", body)
    return await _show(visit, preview=_Preview(found, since, form.text("all")))


async def _resend(visit: Visit) -> Done:
    ops, form = visit.apis.ops, visit.form
    up_to = form.text("up_to")
    body = {**_body(form), **_because(form), "up_to": count_of(up_to) if up_to else None}
    sent = await ops.post(DeliveriesResent, f"{_api_path(visit)}/resend", body, key=form.get("key"))
    said = plural(sent.deliveries, "delivery is", "deliveries are")
    return Done(_page_path(visit), f"{said} sent again.{_more(visit, form, sent)}")


async def _resend_one(visit: Visit) -> Done:
    ops, form = visit.apis.ops, visit.form
    path = f"{_api_path(visit)}/deliveries/{visit.params['delivery']}/resend"
    sent = await ops.post(DeliveryResent, path, _because(form), key=form.get("key"))
    return Done(_page_path(visit), f"The delivery of {sent.event} is sent again.")


async def _enable(visit: Visit) -> Done:
    ops, form = visit.apis.ops, visit.form
    await ops.post(EndpointEnabled, f"{_api_path(visit)}/enable", _because(form), key=form.get("key"))
    return Done(_page_path(visit), "The endpoint is enabled. Its waiting deliveries are sent.")


def _more(visit: Visit, form: Form, sent: DeliveriesResent) -> str:
    """Return how those are sent that were more than are sent at a time."""
    if sent.next_since is None:
        return ""
    # To the microsecond: from earlier on, some would go out twice.
    since = f"--since {sent.next_since.isoformat()}{' --all' if form.text('all') else ''}"
    reason = shlex.quote(form.text("reason")[:_REASON_LENGTH])
    return f" There are more: modelswap webhooks resend {visit.params['endpoint']} {since} --reason {reason}"


def _api_path(visit: Visit) -> str:
    return f"/webhook-endpoints/{visit.params['endpoint']}"


def _page_path(visit: Visit) -> str:
    return f"/queues/webhooks/{visit.params['endpoint']}"


def _body(form: Form) -> dict[str, JsonValue]:
    return {"since": form.text("since"), "all": form.text("all") == "on"}


def _because(form: Form) -> dict[str, JsonValue]:
    return {"reason": form.text("reason")}
