"""The screen Queues: processes, queues, overdue trainings, subscriptions and webhook endpoints. Edge."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import Final, TypeVar

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from services.ops.console.answers import EndpointAnswer, WebhooksAnswer
from services.ops.console.client import Apis, Away, Refused, attempt
from services.ops.console.console import Console
from services.ops.console.views.missed import missed
from services.ops.console.views.queues import queues_page
from services.ops.processes.views import Processes, Queues
from services.ops.reconcile.views import Reconciliation
from services.ops.subscriptions.views import SubscriptionView
from shared.contract.answers import Page

T = TypeVar("T")

#: So many of each list; the command line shows all.
_MOST: Final = "100"
#: A part that hangs must not hold up the page.
_PATIENCE_SECONDS: Final = 4.0


def routes(console: Console) -> list[Route]:
    """Return the route of the screen."""

    async def show_queues(request: Request) -> Response:
        apis = console.apis(request)
        # What is in this process answers always: the rest may be away, and the page says so.
        processes, queues, reconciliation, webhooks, subscriptions, endpoints = await asyncio.gather(
            apis.ops.get(Processes, "/processes"),
            apis.ops.get(Queues, "/queues"),
            part(apis.ops.get(Reconciliation, "/reconciliation", {"limit": _MOST})),
            part(apis.state.get(WebhooksAnswer, "/webhook-statistics", {"hours": "24"})),
            part(subscriptions_of(apis)),
            part(endpoints_of(apis)),
        )
        page = queues_page(
            processes,
            queues,
            None if isinstance(reconciliation, Away) else reconciliation,
            [] if isinstance(subscriptions, Away) else subscriptions,
            [] if isinstance(endpoints, Away) else endpoints,
        )
        return await console.render(
            request,
            "queues.html",
            page=page,
            at=queues.at,
            reconciliation=reconciliation,
            missed=None if isinstance(webhooks, Away) else missed(webhooks),
            subscriptions=subscriptions,
            endpoints=endpoints,
        )

    return [Route("/queues", show_queues)]


async def subscriptions_of(apis: Apis) -> list[SubscriptionView]:
    """Return the subscriptions."""
    return list((await apis.ops.get(Page[SubscriptionView], "/subscriptions", {"limit": _MOST})).items)


async def endpoints_of(apis: Apis) -> list[EndpointAnswer]:
    """Return the webhook endpoints."""
    return list((await apis.notifier.get(Page[EndpointAnswer], "/webhook-endpoints", {"limit": _MOST})).items)


async def part(asked: Awaitable[T], *, seconds: float = _PATIENCE_SECONDS) -> T | Away:
    """
    Return the result of *asked*, or why there is none within *seconds*.

    A refusal, such as a missing setting, hides only this part of the page.
    """
    try:
        async with asyncio.timeout(seconds):
            return await attempt(asked)
    except TimeoutError:
        return Away(f"There is no answer within {seconds:g} seconds.")
    except Refused as refused:
        return Away(refused.problem.detail)
