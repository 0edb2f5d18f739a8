"""The screens of replays: what would happen, what happens, what it came to, and undo. Edge."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Final

from pydantic import JsonValue
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from services.ops.console.client import Apis, attempt, quoted
from services.ops.console.console import Console, Done
from services.ops.console.forms import Form
from services.ops.console.views.filters import LETTER_FIELDS, address, asked, given, pager
from services.ops.console.views.letters import found_count, offers, selection_of
from services.ops.console.views.problems import ProblemView
from services.ops.console.views.replays import number_of, replay_page, steps_of
from services.ops.letters.views import LetterStatus, Suggestions
from services.ops.replays.views import (
    DEFAULT_RATE,
    DEFAULT_STEPS,
    DEFAULT_STOP_SHARE,
    ReplayedLetterView,
    ReplayedUserView,
    ReplayView,
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
    """Return the routes of replays."""
    screens = _Replays(console)
    return [
        Route(PATH, screens.show_all, methods=["GET"]),
        Route(PATH, screens.create, methods=["POST"]),
        Route(f"{PATH}/new", screens.show_form, methods=["GET"]),
        Route(f"{PATH}/{{replay}}", screens.show_one, methods=["GET"]),
        Route(f"{PATH}/{{replay}}/undo", screens.show_undo, methods=["GET"]),
        *(Route(f"{PATH}/{{replay}}/{verb}", partial(screens.steer, verb=verb), methods=["POST"]) for verb in _VERBS),
    ]


class _Replays:
    def __init__(self, console: Console) -> None:
        self._console = console

    async def show_all(self, request: Request) -> Response:
        cursor = request.query_params.get("cursor")
        found = await self._console.apis(request).ops.get(Page[ReplayView], PATH, {"limit": "30", "cursor": cursor})
        return await self._console.render(
            request,
            "replays.html",
            replays=[replay_page(each) for each in found.items],
            pager=pager(PATH, {}, cursor=cursor, following=found.next_cursor),
        )

    # A new one

    async def show_form(self, request: Request) -> Response:
        query, now = request.query_params, self._console.clock()
        return await self._form(request, query.getlist("letters"), asked(given(query, LETTER_FIELDS), now), _TYPED)

    async def _form(
        self,
        request: Request,
        numbers: list[str],
        chosen: Mapping[str, str],
        typed: Mapping[str, str],
        *,
        problem: ProblemView | None = None,
    ) -> Response:
        selection = selection_of(numbers, chosen)
        found = None
        if not numbers and selection.fields:
            wanted = {**chosen, "status": LetterStatus.OPEN.value}
            found = await self._console.apis(request).ops.get(Suggestions, "/dead-letter-suggestions", wanted)
        return await self._console.render(
            request,
            "replay_new.html",
            selection=selection,
            found=None if found is None else found_count(found),
            offers=[] if found is None else offers(found, {"status": "", **chosen}),
            typed={name: typed.get(name, default) for name, default in _TYPED.items()},
            problem=problem,
        )

    async def create(self, request: Request) -> Response:
        """Predict what a replay would do: it is started from its own page."""
        form = self._console.form(request)
        numbers, chosen = form.all("letters"), given(form, LETTER_FIELDS)

        async def work(apis: Apis, form: Form) -> Done:
            share = number_of(form.text("stop"))
            body: dict[str, JsonValue] = {
                **selection_of(numbers, chosen).body,
                "reason": form.text("reason"),
                "rate_per_second": number_of(form.text("rate")),
                "steps": steps_of(form.text("steps")),
                "stop_when_failed_share": share / 100 if isinstance(share, float) else share,
                "dry_run": True,
            }
            made = await apis.ops.post(ReplayView, PATH, body, key=form.get("key"))
            return Done(f"{PATH}/{made.id}", "Nothing is sent yet: look at what it would do, then start it.", "info")

        async def again(problem: ProblemView) -> Response:
            return await self._form(request, numbers, chosen, form, problem=problem)

        return await self._console.write(request, work, again=again)

    # One

    async def show_one(self, request: Request) -> Response:
        ops, query = self._console.apis(request).ops, request.query_params
        replay = await ops.get(ReplayView, _of(request))
        view, path, cursor = replay_page(replay), f"{PATH}/{replay.id}", query.get("cursor")
        shows = "letters" if query.get("show") == "letters" else "users"
        here = {name: query.get(name) for name in ("show", "outcome", "predicted")}
        asked_for = {"outcome": here["outcome"], "cursor": cursor}
        found: Page[ReplayedUserView] | Page[ReplayedLetterView]
        if shows == "users":
            found = await ops.get(Page[ReplayedUserView], f"{path}/users", asked_for)
        else:
            asked_for["predicted"] = here["predicted"]
            found = await ops.get(Page[ReplayedLetterView], f"{path}/letters", asked_for)
        return await self._console.render(
            request,
            "replay.html",
            view=view,
            replay=replay,
            shows=shows,
            rows=found.items,
            chosen=here["outcome"] or here["predicted"] or "",
            address_of=partial(_address_of, replay, view.is_plan),
            here=address(path, here, {"cursor": cursor}),
            pager=pager(path, here, cursor=cursor, following=found.next_cursor),
        )

    async def steer(self, request: Request, *, verb: str) -> Response:
        async def work(apis: Apis, form: Form) -> Done:
            record = await apis.ops.post(ReplayView, f"{_of(request)}/{verb}", {"reason": form.text("reason")})
            return Done(f"{PATH}/{record.id}", _VERBS[verb])

        return await self._console.write(request, work)

    # Undo

    async def show_undo(self, request: Request) -> Response:
        ops, cursor = self._console.apis(request).ops, request.query_params.get("cursor")
        replay = await ops.get(ReplayView, _of(request))
        preview = await attempt(ops.get(Page[UndonePreview], f"{_of(request)}/undo-preview", {"cursor": cursor}))
        path = f"{PATH}/{replay.id}/undo"
        page = preview if isinstance(preview, Page) else None
        return await self._console.render(
            request,
            "replay_undo.html",
            view=replay_page(replay),
            replay=replay,
            users=page.items if page else (),
            away=None if page else preview,
            pager=pager(path, {}, cursor=cursor, following=page.next_cursor if page else None),
        )


def _of(request: Request) -> str:
    """Return the API's path of the replay of this page."""
    return f"/replays/{quoted(request.path_params['replay'])}"


def _address_of(replay: ReplayView, is_plan: bool, outcome: str) -> str:  # noqa: FBT001 (bound by partial)
    """Return the address of the dead letters that have this outcome, or this prediction."""
    return address(f"{PATH}/{replay.id}", {"show": "letters", "predicted" if is_plan else "outcome": outcome})
