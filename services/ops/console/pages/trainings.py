"""The screens of trainings: the list, the changes of models by time, and one training's walk. Edge."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from functools import partial
from http import HTTPStatus
from typing import Any, Final

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from services.ops.audit.first import noted_first
from services.ops.console.answers import (
    STAGES,
    ChangeAnswer,
    EventDeliveryAnswer,
    FactAnswer,
    OutputAnswer,
    TimelineAnswer,
    TrainingAnswer,
)
from services.ops.console.client import BY_BUTTON, Apis, Away, Refused, ServiceDown, attempt, quoted
from services.ops.console.console import Console, Done
from services.ops.console.forms import Form
from services.ops.console.views.filters import address, asked, given, pager
from services.ops.console.views.problems import ProblemView
from services.ops.console.views.timeline import delivered, entries
from services.ops.console.views.trainings import (
    may_cancel,
    may_retry,
    progress_of,
    took,
    training_path,
    user_path,
    why,
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
#: What the templates of these screens call.
HELPERS: Final[dict[str, Any]] = {
    "user_path": user_path,
    "progress_of": progress_of,
    "took": took,
    "why": why,
}


def routes(console: Console) -> list[Route]:
    """Return the routes of trainings."""

    async def show_list(request: Request) -> Response:
        if request.query_params.get("show") == "changes":
            return await _show_changes(console, request)
        chosen, cursor = given(request.query_params, _FIELDS), request.query_params.get("cursor")
        page = await console.apis(request).state.get(
            Page[TrainingAnswer], PATH, {**chosen, "limit": _PAGE, "cursor": cursor}
        )
        return await console.render(
            request,
            "trainings.html",
            trainings=page.items,
            chosen=chosen,
            stages=STAGES,
            here=address(PATH, chosen),
            pager=pager(PATH, chosen, cursor=cursor, following=page.next_cursor),
            **HELPERS,
        )

    async def show_training(request: Request) -> Response:
        return await _show_training(console, request)

    async def retry_extraction(request: Request) -> Response:
        async def work(apis: Apis, form: Form) -> Done:
            name = _name(request)
            key = form.text("key")
            ask = partial(apis.state.post, TrainingAnswer, f"/trainings/{quoted(name)}/retry-extraction", key=key)
            note = partial(apis.audit, "training.retry_extraction", f"training {name}", BY_BUTTON)
            await noted_first(note, "another extraction", ask, refusal=Refused, key=key)
            return Done(training_path(name), "The extraction was requested. Its outcome will appear in the timeline.")

        return await _write(console, request, work)

    async def cancel(request: Request) -> Response:
        async def work(apis: Apis, form: Form) -> Done:
            name = _name(request)
            ask = partial(apis.state.post, TrainingAnswer, f"/trainings/{quoted(name)}/cancel")
            note = partial(apis.audit, "training.cancel", f"training {name}", BY_BUTTON)
            await noted_first(note, "to cancel it", ask, refusal=Refused, key=form.text("key"))
            return Done(
                training_path(name), "Replicate was asked to cancel it. The stage changes when Replicate says so."
            )

        return await _write(console, request, work)

    return [
        Route(PATH, show_list),
        Route("/trainings/{training}", show_training, methods=["GET"]),
        Route("/trainings/{training}/retry-extraction", retry_extraction, methods=["POST"]),
        Route("/trainings/{training}/cancel", cancel, methods=["POST"]),
    ]


async def _show_changes(console: Console, request: Request) -> Response:
    chosen, cursor = given(request.query_params, _TIMES), request.query_params.get("cursor")
    page = await console.apis(request).state.get(
        Page[ChangeAnswer], "/swaps", {**asked(chosen, console.clock()), "limit": _PAGE, "cursor": cursor}
    )
    return await console.render(
        request,
        "changes.html",
        changes=page.items,
        chosen=chosen,
        pager=pager(PATH, {**chosen, "show": "changes"}, cursor=cursor, following=page.next_cursor),
        **HELPERS,
    )


async def _write(console: Console, request: Request, work: Callable[[Apis, Form], Awaitable[Done]]) -> Response:
    async def again(problem: ProblemView) -> Response:
        return await _show_training(console, request, problem)

    return await console.write(request, work, again=again)


async def _show_training(console: Console, request: Request, problem: ProblemView | None = None) -> Response:
    apis, name = console.apis(request), _name(request)
    training = await apis.state.get(TrainingAnswer, f"/trainings/{quoted(name)}")
    timeline, output, letters = await asyncio.gather(
        attempt(apis.state.get(TimelineAnswer, f"/trainings/{quoted(name)}/timeline")),
        attempt(_find_output(apis, name)),
        attempt(_find_letters(apis, training)),
    )
    deliveries = [] if isinstance(timeline, Away) else await attempt(_find_deliveries(apis, timeline))
    facts: list[FactAnswer] = [] if isinstance(timeline, Away) else list(timeline.items)
    lines: list[LetterLine] = [] if isinstance(letters, Away) else list(letters)
    text = "" if output is None or isinstance(output, Away) else json.dumps(output.output, ensure_ascii=False)
    session = console.session(request)
    return await console.render(
        request,
        "training.html",
        training=training,
        progress=progress_of(training, console.clock()),
        entries=entries(facts, lines, [] if isinstance(deliveries, Away) else deliveries),
        is_complete=not isinstance(timeline, Away) and timeline.is_complete,
        away=[
            (part, what)
            for part, what in (
                (timeline, "The timeline"),
                (output, "The output"),
                (letters, "Its dead letters"),
                (deliveries, "What webhook endpoints got"),
            )
            if isinstance(part, Away)
        ],
        output=None if isinstance(output, Away) else output,
        output_text=text[:_OUTPUT_CHARACTERS],
        output_size=len(text),
        letters=lines,
        problem=problem,
        may_retry=session.may_write and may_retry(training),
        may_cancel=session.may_write and may_cancel(training),
        here=training_path(training.name),
        **HELPERS,
    )


async def _find_output(apis: Apis, name: str) -> OutputAnswer | None:
    try:
        return await apis.state.get(OutputAnswer, f"/trainings/{quoted(name)}/output")
    except Refused as error:
        if error.status == HTTPStatus.NOT_FOUND:
            return None
        raise


async def _find_deliveries(apis: Apis, timeline: TimelineAnswer) -> list[EventDeliveryAnswer]:
    queries = [{"event_id": event_id, "limit": _DELIVERIES} for event_id in delivered(timeline.items)]
    asked = (apis.notifier.get(Page[EventDeliveryAnswer], "/deliveries", query) for query in queries)
    try:
        pages = await asyncio.gather(*asked)
    except Refused as error:
        # While versions are mixed. The rest of the page is shown all the same.
        raise ServiceDown(f"the notifier answers {error.status}: {error}") from error
    return [each for page in pages for each in page.items]


async def _find_letters(apis: Apis, training: TrainingAnswer) -> list[LetterLine]:
    if training.training_id is None:
        return []
    query = {"training_id": training.training_id, "limit": _LETTERS}
    return list((await apis.ops.get(Page[LetterLine], "/dead-letters", query)).items)


def _name(request: Request) -> str:
    name: str = request.path_params["training"]
    return name
