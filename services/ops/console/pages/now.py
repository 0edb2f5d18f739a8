"""
The screen Now: is all well, what runs, what is held up, how fast are swaps. Edge.

It is kept up to date by asking for the whole page again every few seconds. That needs no open connection for each
viewer, goes on by itself after ops was restarted, and checks the session each time; a stream would save little, as
every figure comes from a query anyway.
"""

from __future__ import annotations

import asyncio
from operator import attrgetter
from typing import Final

from starlette.responses import Response
from starlette.routing import Route

from services.ops.console.client import Api, Parts
from services.ops.console.console import Console, Visit, page_route
from services.ops.console.pages.queues import endpoints_of, subscriptions_of
from services.ops.console.views import now as views
from services.ops.console.views.queues import WebhooksAnswer, health_concerns
from services.ops.console.views.trainings import UNDERWAY, TrainingAnswer
from services.ops.letters.views import GroupView, LetterCounts
from services.ops.processes.views import Processes, Queues
from services.ops.reconcile.views import Reconciliation
from shared.contract.answers import Page

#: So many of each stage are listed; the others are one click away.
_LISTED: Final = "20"


def routes(console: Console) -> list[Route]:
    return [page_route(console, "/", _show)]


async def _show(visit: Visit) -> Response:
    ops, state = (apis := visit.apis).ops, apis.state
    services, others = Parts(), Parts()
    (
        (counts, swaps, webhooks, trainings),
        (letters, groups, reconciliation, processes, queues),
        (subscriptions, endpoints),
    ) = await asyncio.gather(
        asyncio.gather(
            services.of("state", state.get(views.CountsAnswer, "/training-counts")),
            services.of("state", state.get(views.StatisticsAnswer, "/swap-statistics", {"hours": "24"})),
            services.of("state", state.get(WebhooksAnswer, "/webhook-statistics", {"hours": "24"})),
            services.of("state", _on_their_way(state)),
        ),
        asyncio.gather(
            services.of("ops", ops.get(LetterCounts, "/dead-letter-counts")),
            services.of("ops", ops.get(Page[GroupView], "/dead-letter-groups", {"status": "open", "limit": "50"})),
            services.of("ops", ops.get(Reconciliation, "/reconciliation", {"limit": "0"})),
            services.of("ops", ops.get(Processes, "/processes")),
            services.of("ops", ops.get(Queues, "/queues")),
        ),
        # The processes say whether these are away.
        asyncio.gather(
            others.soon("subscriptions", subscriptions_of(apis)), others.soon("endpoints", endpoints_of(apis))
        ),
    )
    failing = sorted(groups.items, key=lambda each: -each.open) if groups else []
    health = health_concerns(
        # What is away is named once.
        processes
        and processes.model_copy(
            update={"processes": [each for each in processes.processes if each.name not in services.away]}
        ),
        queues,
        reconciliation,
        subscriptions or (),
        endpoints or (),
    )
    found = views.concerns(
        health,
        letters=letters,
        groups=failing,
        reconciliation=reconciliation,
        webhooks=webhooks,
        away=services.away,
    )
    unfinished = counts.on_the_way if counts else None
    return await visit.render(
        "now.html",
        verdict=views.verdict(found, unfinished, swaps),
        concerns=found,
        counts=counts,
        running=trainings,
        more=max(0, (unfinished or 0) - len(trainings or ())),
        swaps=swaps,
        groups=failing[:5],
        open_letters=None if letters is None else letters.open,
    )


async def _on_their_way(state: Api) -> list[TrainingAnswer]:
    pages = await asyncio.gather(
        *(state.get(Page[TrainingAnswer], "/trainings", {"stage": stage, "limit": _LISTED}) for stage in UNDERWAY)
    )
    # The oldest first: those need attention first.
    return sorted((each for page in pages for each in page.items), key=attrgetter("requested_at"))
