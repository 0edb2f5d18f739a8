"""The screens of trainings: the list, the changes of models by time, and one training's walk. Edge."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from http import HTTPStatus
from typing import Final

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from services.ops.audit.first import noted_first
from services.ops.console.client import BY_BUTTON, Api, Apis, Parts, Refused, ServiceDown, quoted
from services.ops.console.console import Console, Done, form_route, page_route
from services.ops.console.views.filters import address, asked, given, pager
from services.ops.console.views.problems import ProblemView
from services.ops.console.views.queues import EventDeliveryAnswer
from services.ops.console.views.timeline import FactAnswer, TimelineAnswer, delivered, entries
from services.ops.console.views.trainings import (
    STAGES,
    ChangeAnswer,
    OutputAnswer,
    TrainingAnswer,
    progress_of,
    training_path,
)
from services.ops.letters.views import LetterLine
from shared.contract.answers import Page

PATH: Final = "/trainings"
_FIELDS: Final = ("stage", "user_id")
_TIMES: Final = ("since", "until")
_PAGE: Final = "50"
_LETTERS: Final = "50"
_DELIVERIES: Final = "20"
#: Characters of an output that are shown as text.
_OUTPUT_CHARACTERS: Final = 20_000


def routes(console: Console) -> list[Route]:
    return [
        page_route(console, PATH, _show_list),
        page_route(console, "/trainings/{training}", _show_training),
        form_route(console, "/trainings/{training}/retry-extraction", _retry_extraction, again=_show_training),
        form_route(console, "/trainings/{training}/cancel", _cancel, again=_show_training),
    ]


async def _show_list(console: Console, request: Request) -> Response:
    if request.query_params.get("show") == "changes":
        return await _show_changes(console, request)
    chosen, cursor = given(request.query_params, _FIELDS), request.query_params.get("cursor")
    found = await console.apis(request).state.get(
        Page[TrainingAnswer], PATH, {**chosen, "limit": _PAGE, "cursor": cursor}
    )
    return await console.render(
        request,
        "trainings.html",
        trainings=found.items,
        chosen=chosen,
        stages=STAGES,
        here=address(PATH, chosen),
        pager=pager(PATH, chosen, cursor=cursor, following=found.next_cursor),
    )


async def _show_changes(console: Console, request: Request) -> Response:
    chosen, cursor = given(request.query_params, _TIMES), request.query_params.get("cursor")
    found = await console.apis(request).state.get(
        Page[ChangeAnswer], "/swaps", {**asked(chosen, console.clock()), "limit": _PAGE, "cursor": cursor}
    )
    return await console.render(
        request,
        "changes.html",
        changes=found.items,
        chosen=chosen,
        pager=pager(PATH, {**chosen, "show": "changes"}, cursor=cursor, following=found.next_cursor),
    )


async def _show_training(console: Console, request: Request, problem: ProblemView | None = None) -> Response:
    apis, name, parts = console.apis(request), _name(request), Parts()
    training = await apis.state.get(TrainingAnswer, f"/trainings/{quoted(name)}")
    timeline, output, letters = await asyncio.gather(
        parts.of("The timeline", apis.state.get(TimelineAnswer, f"/trainings/{quoted(name)}/timeline")),
        parts.of("The output", _find_output(apis, name)),
        parts.of("Its dead letters", _find_letters(apis, training)),
    )
    facts = timeline.items if timeline else ()
    deliveries = await parts.of("What webhook endpoints got", _find_deliveries(apis, facts))
    text = json.dumps(output.output, ensure_ascii=False) if output else ""
    return await console.render(
        request,
        "training.html",
        training=training,
        progress=progress_of(training, console.clock()),
        entries=entries(facts, letters or (), deliveries or ()),
        is_complete=timeline is not None and timeline.is_complete,
        away=parts.away,
        output=output,
        output_text=text[:_OUTPUT_CHARACTERS],
        output_size=len(text),
        letters=letters,
        problem=problem,
        here=training_path(training.name),
    )


async def _retry_extraction(console: Console, request: Request) -> Done:
    name, key = _name(request), console.form(request).get("key")
    async with _noted(console, request, "retry_extraction", "another extraction") as state:
        await state.post(TrainingAnswer, f"/trainings/{quoted(name)}/retry-extraction", key=key)
    return Done(training_path(name), "The extraction was requested. Its outcome will appear in the timeline.")


async def _cancel(console: Console, request: Request) -> Done:
    name = _name(request)
    async with _noted(console, request, "cancel", "to cancel it") as state:
        await state.post(TrainingAnswer, f"/trainings/{quoted(name)}/cancel")
    return Done(training_path(name), "Replicate was asked to cancel it. The stage changes when Replicate says so.")


@asynccontextmanager
async def _noted(console: Console, request: Request, verb: str, asked: str) -> AsyncIterator[Api]:
    """Give the API of state to what asks it for a change, which is in the audit."""
    apis, key = console.apis(request), console.form(request).get("key")
    entry = (console.session(request).name, f"training.{verb}", f"training {_name(request)}", BY_BUTTON)
    async with noted_first(apis.audit, entry, asked, refusal=Refused, key=key):
        yield apis.state


async def _find_output(apis: Apis, name: str) -> OutputAnswer | None:
    try:
        return await apis.state.get(OutputAnswer, f"/trainings/{quoted(name)}/output")
    except Refused as error:
        if error.status == HTTPStatus.NOT_FOUND:
            return None
        raise


async def _find_deliveries(apis: Apis, facts: Sequence[FactAnswer]) -> list[EventDeliveryAnswer]:
    queries = [{"event_id": event_id, "limit": _DELIVERIES} for event_id in delivered(facts)]
    asked = (apis.notifier.get(Page[EventDeliveryAnswer], "/deliveries", query) for query in queries)
    try:
        pages = await asyncio.gather(*asked)
    except Refused as error:
        # While versions are mixed. The rest of the page is shown all the same.
        raise ServiceDown(f"the notifier answers {error.status}: {error}") from error
    return [each for page in pages for each in page.items]


async def _find_letters(apis: Apis, training: TrainingAnswer) -> Sequence[LetterLine]:
    if training.training_id is None:
        return ()
    query = {"training_id": training.training_id, "limit": _LETTERS}
    return (await apis.ops.get(Page[LetterLine], "/dead-letters", query)).items


def _name(request: Request) -> str:
    name: str = request.path_params["training"]
    return name
