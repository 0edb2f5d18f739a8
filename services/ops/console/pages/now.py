"""
The screen Now: is all well, what runs, what is held up, how fast are swaps. Edge.

It is kept up to date by asking for the whole page again every few seconds. That needs no open connection for each
viewer, goes on by itself after ops was restarted, and checks the session each time; a stream would save little, as
every figure comes from a query anyway.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import Final, TypeVar

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from services.ops.console.client import Api, Away, attempt
from services.ops.console.console import Console
from services.ops.console.views import now as views
from services.ops.console.views.state_records import SwapsByHour, Training, TrainingCounts
from services.ops.letters.views import GroupView, LetterCounts
from services.ops.processes.views import Processes, Queues
from services.ops.reconcile.views import Reconciliation
from shared.contract.answers import Page

T = TypeVar("T")

#: So many of each stage are listed; the others are one click away.
_LISTED: Final = "20"


def routes(console: Console) -> list[Route]:
    """Return the route of the first page."""

    async def show_now(request: Request) -> Response:
        ops, state = (apis := console.apis(request)).ops, apis.state
        (counts, swaps, trainings), (letters, groups, reconciliation, processes, queues) = await asyncio.gather(
            asyncio.gather(
                attempt(state.get(TrainingCounts, "/training-counts")),
                attempt(state.get(SwapsByHour, "/swap-statistics", {"hours": "24"})),
                attempt(_on_their_way(state)),
            ),
            asyncio.gather(
                _given(ops.get(LetterCounts, "/dead-letter-counts")),
                _given(ops.get(Page[GroupView], "/dead-letter-groups", {"status": "open", "limit": "50"})),
                _given(ops.get(Reconciliation, "/reconciliation", {"limit": "0"})),
                _given(ops.get(Processes, "/processes")),
                _given(ops.get(Queues, "/queues")),
            ),
        )
        away = next((each.why for each in (counts, swaps, trainings) if isinstance(each, Away)), None)
        failing = sorted(groups.items, key=lambda each: -each.open) if groups else []
        found = views.concerns(
            letters=letters,
            groups=failing,
            reconciliation=reconciliation,
            away=away,
            processes=processes,
            queues=queues,
        )
        known_counts = None if isinstance(counts, Away) else counts
        walk, ends = views.steps(known_counts, letters)
        unfinished = views.on_the_way(known_counts)
        on_their_way = None if isinstance(trainings, Away) else trainings
        statistics = None if isinstance(swaps, Away) else swaps
        return await console.render(
            request,
            "now.html",
            verdict=views.verdict(found, unfinished, statistics),
            concerns=found,
            walk=walk,
            ends=ends,
            running=None if on_their_way is None else views.running(on_their_way, console.clock()),
            more=max(0, (unfinished or 0) - len(on_their_way or ())),
            speed=views.speed(statistics) if statistics else None,
            groups=failing[:5],
        )

    return [Route("/", show_now)]


async def _on_their_way(state: Api) -> list[Training]:
    pages = await asyncio.gather(
        *(state.get(Page[Training], "/trainings", {"stage": stage, "limit": _LISTED}) for stage in views.UNFINISHED)
    )
    return [training for page in pages for training in page.items]


async def _given(asked: Awaitable[T]) -> T | None:
    found = await attempt(asked)
    return None if isinstance(found, Away) else found
