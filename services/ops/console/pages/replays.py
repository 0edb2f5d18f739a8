"""The screens of replays: what would happen, what happens, what it came to, and undo. Edge."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Final

from pydantic import JsonValue
from starlette.responses import Response
from starlette.routing import Route

from services.ops.console.client import Parts, quoted
from services.ops.console.console import Console, Done, Visit, form_route, page_route
from services.ops.console.forms import Form
from services.ops.console.views.filters import LETTER_FIELDS, address, asked, given, pager
from services.ops.console.views.letters import found_count, offers, selection_of
from services.ops.console.views.problems import ProblemView
from services.ops.console.views.replays import Replay, number_of, steps_of
from services.ops.letters.views import LetterStatus, Suggestions
from services.ops.replays.views import (
    DEFAULT_RATE,
    DEFAULT_STEPS,
    DEFAULT_STOP_SHARE,
    ReplayedLetterView,
    ReplayedUserView,
    UndonePreview,
)
from shared.contract.answers import Page

PATH: Final = "/replays"
#: The buttons, by the API's verbs, and what is said afterwards.
_VERBS: Final[Mapping[str, str]] = {
    "start": "It is running.",
    "pause": "It is paused: no more are sent. What was sent still gets its outcome.",
    "resume": "It is running again. Failures so far no longer count.",
    "cancel": "It is canceled: dead letters that were not sent are open again.",
    "undo": "The models are being taken back, user by user.",
}
_TYPED: Final[Mapping[str, str]] = {
    "reason": "",
    "rate": f"{DEFAULT_RATE:g}",
    "steps": ", ".join(map(str, DEFAULT_STEPS)),
    "stop": f"{DEFAULT_STOP_SHARE * 100:g}",
}


def routes(console: Console) -> list[Route]:
    return [
        page_route(console, PATH, _show_all),
        form_route(console, PATH, _create, again=_show_form),
        page_route(console, f"{PATH}/new", _show_form),
        page_route(console, f"{PATH}/{{replay}}", _show_one),
        page_route(console, f"{PATH}/{{replay}}/undo", _show_undo),
        *(form_route(console, f"{PATH}/{{replay}}/{verb}", partial(_steer, verb=verb)) for verb in _VERBS),
    ]


async def _show_all(visit: Visit) -> Response:
    cursor = visit.cursor
    found = await visit.apis.ops.get(Page[Replay], PATH, {"limit": "30", "cursor": cursor})
    return await visit.render(
        "replays.html",
        replays=found.items,
        pager=pager(PATH, {}, cursor=cursor, following=found.next_cursor),
    )


async def _show_form(visit: Visit, problem: ProblemView | None = None) -> Response:
    if problem:
        typed = visit.form
        numbers, chosen = typed.all("letters"), given(typed, LETTER_FIELDS)
    else:
        typed, query = Form(), visit.query
        numbers, chosen = query.getlist("letters"), asked(given(query, LETTER_FIELDS), visit.now)
    selection = selection_of(numbers, chosen)
    found = None
    if not numbers and selection.fields:
        wanted = {**chosen, "status": LetterStatus.OPEN.value}
        found = await visit.apis.ops.get(Suggestions, "/dead-letter-suggestions", wanted)
    return await visit.render(
        "replay_new.html",
        selection=selection,
        found=None if found is None else found_count(found),
        offers=[] if found is None else offers(found, {"status": "", **chosen}),
        fields=LETTER_FIELDS,
        typed={name: typed.get(name, default) for name, default in _TYPED.items()},
        problem=problem,
    )


async def _create(visit: Visit) -> Done:
    """Predict what a replay would do: it is started from its own page."""
    form = visit.form
    share = number_of(form.text("stop"))
    body: dict[str, JsonValue] = {
        **selection_of(form.all("letters"), given(form, LETTER_FIELDS)).body,
        "reason": form.text("reason"),
        "rate_per_second": number_of(form.text("rate")),
        "steps": steps_of(form.text("steps")),
        "stop_when_failed_share": share / 100 if isinstance(share, float) else share,
        "dry_run": True,
    }
    made = await visit.apis.ops.post(Replay, PATH, body, key=form.get("key"))
    return Done(f"{PATH}/{made.id}", "Nothing is sent yet: look at what it would do, then start it.", "info")


async def _show_one(visit: Visit) -> Response:
    ops, query = visit.apis.ops, visit.query
    replay = await ops.get(Replay, _of(visit))
    path, cursor = f"{PATH}/{replay.id}", query.get("cursor")
    shows = "letters" if query.get("show") == "letters" else "users"
    here = {name: query.get(name) for name in ("show", "outcome", "predicted")}
    asked_for = {"outcome": here["outcome"], "cursor": cursor}
    found: Page[ReplayedUserView] | Page[ReplayedLetterView]
    if shows == "users":
        found = await ops.get(Page[ReplayedUserView], f"{path}/users", asked_for)
    else:
        asked_for["predicted"] = here["predicted"]
        found = await ops.get(Page[ReplayedLetterView], f"{path}/letters", asked_for)
    return await visit.render(
        "replay.html",
        replay=replay,
        shows=shows,
        rows=found.items,
        chosen=here["outcome"] or here["predicted"] or "",
        here=address(path, here, {"cursor": cursor}),
        pager=pager(path, here, cursor=cursor, following=found.next_cursor),
    )


async def _steer(visit: Visit, *, verb: str) -> Done:
    reason = visit.form.text("reason")
    record = await visit.apis.ops.post(Replay, f"{_of(visit)}/{verb}", {"reason": reason})
    return Done(f"{PATH}/{record.id}", _VERBS[verb])


async def _show_undo(visit: Visit) -> Response:
    ops, cursor = visit.apis.ops, visit.cursor
    replay = await ops.get(Replay, _of(visit))
    parts, path = Parts(), f"{PATH}/{replay.id}/undo"
    preview = await parts.of(
        "What an undo would do", ops.get(Page[UndonePreview], f"{_of(visit)}/undo-preview", {"cursor": cursor})
    )
    return await visit.render(
        "replay_undo.html",
        replay=replay,
        users=preview.items if preview else (),
        away=parts.away,
        pager=pager(path, {}, cursor=cursor, following=preview.next_cursor if preview else None),
    )


def _of(visit: Visit) -> str:
    """Return the API's path of the replay of this page."""
    return f"/replays/{quoted(visit.params['replay'])}"
