"""The screen Queues: processes, queues, overdue trainings, subscriptions and webhook endpoints. Edge."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Final

from starlette.responses import Response
from starlette.routing import Route

from services.ops.console.client import Apis, Parts
from services.ops.console.console import Console, Visit, page_route
from services.ops.console.views.queues import (
    EndpointAnswer,
    WebhooksAnswer,
    health_concerns,
    process_badge,
    queue_badge,
    subscription_badge,
)
from services.ops.processes.views import Processes, Queues
from services.ops.reconcile.views import Reconciliation
from services.ops.subscriptions.views import SubscriptionView
from shared.contract.answers import Page

#: So many of each list; the command line shows all.
_MOST: Final = "100"


def routes(console: Console) -> list[Route]:
    return [page_route(console, "/queues", _show)]


async def _show(visit: Visit) -> Response:
    apis, parts = visit.apis, Parts()
    # What is in this process answers always: the rest may be away, and the page says so.
    processes, queues, reconciliation, webhooks, subscriptions, endpoints = await asyncio.gather(
        apis.ops.get(Processes, "/processes"),
        apis.ops.get(Queues, "/queues"),
        parts.soon("How many were missed", apis.ops.get(Reconciliation, "/reconciliation", {"limit": _MOST})),
        parts.soon("Missed webhooks", apis.state.get(WebhooksAnswer, "/webhook-statistics", {"hours": "24"})),
        parts.soon("The subscriptions", subscriptions_of(apis)),
        parts.soon("The webhook endpoints", endpoints_of(apis)),
    )
    return await visit.render(
        "queues.html",
        concerns=health_concerns(processes, queues, reconciliation, subscriptions or (), endpoints or ()),
        processes=processes.processes,
        queues=queues,
        reconciliation=reconciliation,
        webhooks=webhooks,
        subscriptions=subscriptions,
        endpoints=endpoints,
        process_badge=process_badge,
        queue_badge=queue_badge,
        subscription_badge=subscription_badge,
        away=parts.away,
    )


async def subscriptions_of(apis: Apis) -> Sequence[SubscriptionView]:
    return (await apis.ops.get(Page[SubscriptionView], "/subscriptions", {"limit": _MOST})).items


async def endpoints_of(apis: Apis) -> Sequence[EndpointAnswer]:
    return (await apis.notifier.get(Page[EndpointAnswer], "/webhook-endpoints", {"limit": _MOST})).items
