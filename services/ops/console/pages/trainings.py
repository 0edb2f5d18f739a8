"""The screens of trainings: the list, the changes of models by time, and one training's walk. Edge."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from http import HTTPStatus
from typing import Any, Final

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from services.ops.console.answers import (
    STAGES,
    ChangeAnswer,
    DeliveryAnswer,
    FactAnswer,
    OutputAnswer,
    TimelineAnswer,
    TrainingAnswer,
)
from services.ops.console.client import BY_BUTTON, Apis, Away, Refused, ServiceDown, attempt, quoted
from services.ops.console.console import Console, Done
from services.ops.console.forms import Form
from services.ops.console.views.problems import ProblemView
from services.ops.console.views.timeline import delivered, entries
from services.ops.console.views.trainings import (
    Span,
    list_path,
    may_cancel,
    may_retry,
    minutes,
    progress_of,
    read_moment,
    took,
    training_path,
    user_path,
    why,
)
from services.ops.letters.views import LetterLine
from shared.contract.answers import Page

_PAGE: Final = "50"
_LETTERS: Final = "50"
_DELIVERIES: Final = "20"
#: Characters of an output that are shown as text.
_OUTPUT_CHARACTERS: Final = 20_000
#: What the templates of these screens call.
HELPERS: Final[dict[str, Any]] = {
    "user_path": user_path,
    "list_path": list_path,
    "progress_of": progress_of,
    "took": took,
    "why": why,
}


def routes(console: Console) -> list[Route]:
    """Return the routes of trainings."""

    async def show_list(request: Request) -> Response:
        given = request.query_params
        if given.get("show") == "changes":
            return await _show_changes(console, request)
        filters = {name: given.get(name, "").strip() for name in ("stage", "user_id")}
        query = {name: value or None for name, value in filters.items()}
        page = await console.apis(request).state.get(
            Page[TrainingAnswer], "/trainings", {**query, "limit": _PAGE, "cursor": given.get("cursor")}
        )
        return await console.render(
            request,
            "trainings.html",
            page=page,
            filters=filters,
            stages=STAGES,
            is_first="cursor" not in given,
            **HELPERS,
        )

    async def show_training(request: Request) -> Response:
        return await _show_training(console, request)

    async def retry_extraction(request: Request) -> Response:
        async def work(apis: Apis, form: Form) -> Done:
            name = _name(request)
            await apis.state.post(TrainingAnswer, f"/trainings/{quoted(name)}/retry-extraction", key=form.text("key"))
            await apis.audit("training.retry_extraction", f"training {name}", BY_BUTTON, "asked")
            return Done(training_path(name), "The extraction was requested. Its outcome will stand in the timeline.")

        return await _write(console, request, work)

    async def cancel(request: Request) -> Response:
        async def work(apis: Apis, _: Form) -> Done:
            name = _name(request)
            await apis.state.post(TrainingAnswer, f"/trainings/{quoted(name)}/cancel")
            await apis.audit("training.cancel", f"training {name}", BY_BUTTON, "Replicate was asked")
            return Done(
                training_path(name), "Replicate was asked to cancel it. The stage changes when Replicate says so."
            )

        return await _write(console, request, work)

    return [
        Route("/trainings", show_list),
        Route("/trainings/{training}", show_training, methods=["GET"]),
        Route("/trainings/{training}/retry-extraction", retry_extraction, methods=["POST"]),
        Route("/trainings/{training}/cancel", cancel, methods=["POST"]),
    ]


async def _show_changes(console: Console, request: Request) -> Response:
    given = request.query_params
    span = Span(read_moment(given.get("since", "")), read_moment(given.get("until", "")))
    page = await console.apis(request).state.get(
        Page[ChangeAnswer], "/swaps", {**span.query(), "limit": _PAGE, "cursor": given.get("cursor")}
    )
    filters = {"show": "changes", "since": given.get("since", ""), "until": given.get("until", "")}
    return await console.render(
        request,
        "changes.html",
        page=page,
        filters=filters,
        since=minutes(span.since),
        until=minutes(span.until),
        is_first="cursor" not in given,
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


async def _find_deliveries(apis: Apis, timeline: TimelineAnswer) -> list[DeliveryAnswer]:
    queries = [{"event_id": event_id, "limit": _DELIVERIES} for event_id in delivered(timeline.items)]
    asked = (apis.notifier.get(Page[DeliveryAnswer], "/deliveries", query) for query in queries)
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
