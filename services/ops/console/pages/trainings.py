"""The screens of trainings: the list, the changes of models by time, and one training's walk. Edge."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from http import HTTPStatus
from typing import Final

from starlette.responses import Response
from starlette.routing import Route

from services.ops.audit.first import noted_first
from services.ops.console.client import BY_BUTTON, Api, Apis, Parts, Refused, ServiceDown, quoted
from services.ops.console.console import Console, Done, Visit, form_route, page_route
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


async def _show_list(visit: Visit) -> Response:
    if visit.query.get("show") == "changes":
        return await _show_changes(visit)
    chosen, cursor = given(visit.query, _FIELDS), visit.cursor
    found = await visit.apis.state.get(Page[TrainingAnswer], PATH, {**chosen, "limit": _PAGE, "cursor": cursor})
    return await visit.render(
        "trainings.html",
        trainings=found.items,
        chosen=chosen,
        stages=STAGES,
        here=address(PATH, chosen),
        pager=pager(PATH, chosen, cursor=cursor, following=found.next_cursor),
    )


async def _show_changes(visit: Visit) -> Response:
    chosen, cursor = given(visit.query, _TIMES), visit.cursor
    found = await visit.apis.state.get(
        Page[ChangeAnswer], "/swaps", {**asked(chosen, visit.now), "limit": _PAGE, "cursor": cursor}
    )
    return await visit.render(
        "changes.html",
        changes=found.items,
        chosen=chosen,
        pager=pager(PATH, {**chosen, "show": "changes"}, cursor=cursor, following=found.next_cursor),
    )


async def _show_training(visit: Visit, problem: ProblemView | None = None) -> Response:
    apis, name, parts = visit.apis, _name(visit), Parts()
    training = await apis.state.get(TrainingAnswer, f"/trainings/{quoted(name)}")
    timeline, output, letters = await asyncio.gather(
        parts.of("The timeline", apis.state.get(TimelineAnswer, f"/trainings/{quoted(name)}/timeline")),
        parts.of("The output", _find_output(apis, name)),
        parts.of("Its dead letters", _find_letters(apis, training)),
    )
    facts = timeline.items if timeline else ()
    deliveries = await parts.of("What webhook endpoints got", _find_deliveries(apis, facts))
    text = json.dumps(output.output, ensure_ascii=False) if output else ""
    return await visit.render(
        "training.html",
        training=training,
        progress=progress_of(training, visit.now),
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


async def _retry_extraction(visit: Visit) -> Done:
    name, key = _name(visit), visit.form.get("key")
    async with _noted(visit, "retry_extraction", "another extraction") as state:
        await state.post(TrainingAnswer, f"/trainings/{quoted(name)}/retry-extraction", key=key)
    return Done(training_path(name), "The extraction was requested. Its outcome will appear in the timeline.")


async def _cancel(visit: Visit) -> Done:
    name = _name(visit)
    async with _noted(visit, "cancel", "to cancel it") as state:
        await state.post(TrainingAnswer, f"/trainings/{quoted(name)}/cancel")
    return Done(training_path(name), "Replicate was asked to cancel it. The stage changes when Replicate says so.")


@asynccontextmanager
async def _noted(visit: Visit, verb: str, asked: str) -> AsyncIterator[Api]:
    """Give the API of state to what asks it for a change, which is in the audit."""
    apis, key = visit.apis, visit.form.get("key")
    entry = (visit.session.name, f"training.{verb}", f"training {_name(visit)}", BY_BUTTON)
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


def _name(visit: Visit) -> str:
    name: str = visit.params["training"]
    return name
