"""The screens of dead letters: groups, those that a filter finds, one of them whole, drop and restore. Edge."""

from __future__ import annotations

import asyncio
from base64 import b64decode
from http import HTTPStatus
from typing import Final

from pydantic import JsonValue
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route

from services.ops.audit.views import AuditView
from services.ops.console.client import Api, Apis, Refused, attempt, quoted
from services.ops.console.console import Console, Done, path_of
from services.ops.console.forms import Form
from services.ops.console.views.audit import entry_of
from services.ops.console.views.bodies import SHOWN_BYTES, body_of, diff, pretty
from services.ops.console.views.filters import LETTER_FIELDS, address, asked, chips, given, pager
from services.ops.console.views.letters import (
    PATH,
    change_sentence,
    changed_sentence,
    count_of,
    found_count,
    group_row,
    offers,
    selection_of,
    trend,
    typed,
)
from services.ops.console.views.looks import COOKIE, Look
from services.ops.console.views.problems import ProblemView
from services.ops.letters.letter import editable
from services.ops.letters.views import (
    Changed,
    GroupView,
    LetterCounts,
    LetterLine,
    LetterStatus,
    LetterView,
    Suggestions,
)
from services.ops.replays.views import ReplayOfLetterView, ReplayView
from shared.contract.answers import KIND_PREFIX, Mistake, Page, Problem
from shared.contract.text import read_json

_ANY: Final = "any"
_VERBS: Final = ("drop", "restore")
#: How long a browser remembers what was seen.
_REMEMBERED_SECONDS: Final = 90 * 24 * 3600


def routes(console: Console) -> list[Route]:
    """Return the routes of dead letters."""
    screens = _Letters(console)
    return [
        Route(PATH, screens.show_all, methods=["GET"]),
        Route(f"{PATH}/seen", screens.all_seen, methods=["POST"]),
        Route(f"{PATH}/drop", screens.show_change, methods=["GET"]),
        Route(f"{PATH}/drop", screens.change, methods=["POST"]),
        Route(f"{PATH}/restore", screens.show_change, methods=["GET"]),
        Route(f"{PATH}/restore", screens.change, methods=["POST"]),
        Route(f"{PATH}/{{number}}", screens.show_one, methods=["GET"]),
        Route(f"{PATH}/{{number}}/body", screens.save_body, methods=["GET"]),
        Route(f"{PATH}/{{number}}/edit", screens.show_edit, methods=["GET"]),
        Route(f"{PATH}/{{number}}/edit", screens.edit, methods=["POST"]),
    ]


class _Letters:
    def __init__(self, console: Console) -> None:
        self._console = console

    # Lists

    async def show_all(self, request: Request) -> Response:
        chosen = given(request.query_params, LETTER_FIELDS)
        if set(chosen) - {"status"} or request.query_params.get("show") == "list":
            return await self._show_list(request, chosen)
        return await self._show_groups(request, chosen.get("status", LetterStatus.OPEN.value))

    async def _show_groups(self, request: Request, status: str) -> Response:
        console, ops = self._console, self._console.apis(request).ops
        now, cursor = console.clock(), request.query_params.get("cursor")
        known = Look.read(request.cookies.get(COOKIE, ""))
        look = (known or Look.first(now)).again(now)
        wanted = None if status == _ANY else status
        groups, counts, newest = await asyncio.gather(
            ops.get(
                Page[GroupView],
                "/dead-letter-groups",
                {"status": wanted, "seen": str(look.seen) if known else None, "cursor": cursor},
            ),
            ops.get(LetterCounts, "/dead-letter-counts"),
            ops.get(Page[LetterLine], "/dead-letters", {"limit": "1"}),
        )
        shown = look.showing(max((each.number for each in newest.items), default=0))
        response = await console.render(
            request,
            "letters.html",
            rows=[group_row(each, wanted) for each in groups.items],
            counts=counts,
            open_letters=counts.open,
            chosen_status=status,
            new=sum(each.new for each in groups.items),
            look=look,
            pager=pager(PATH, {"status": status}, cursor=cursor, following=groups.next_cursor),
        )
        # The first time, everything is known from now on.
        self._remember(request, response, shown if known else shown.all_seen(now))
        return response

    async def all_seen(self, request: Request) -> Response:
        now = self._console.clock()
        response = RedirectResponse(PATH, status_code=HTTPStatus.SEE_OTHER)
        look = Look.read(request.cookies.get(COOKIE, "")) or Look.first(now)
        self._remember(request, response, look.all_seen(now))
        return response

    def _remember(self, request: Request, response: Response, look: Look) -> None:
        self._console.set_cookie(request, response, COOKIE, look.cookie(), seconds=_REMEMBERED_SECONDS)

    async def _show_list(self, request: Request, chosen: dict[str, str]) -> Response:
        console, ops = self._console, self._console.apis(request).ops
        now, cursor = console.clock(), request.query_params.get("cursor")
        wanted = asked(chosen, now)
        letters, suggestions, group = await asyncio.gather(
            ops.get(Page[LetterLine], "/dead-letters", {**wanted, "cursor": cursor}),
            ops.get(Suggestions, "/dead-letter-suggestions", wanted),
            _find_group(ops, chosen.get("fingerprint")),
        )
        return await console.render(
            request,
            "letters_found.html",
            letters=letters.items,
            chosen=chosen,
            fields=LETTER_FIELDS,
            statuses=list(LetterStatus),
            chips=chips(PATH, chosen, LETTER_FIELDS),
            offers=offers(suggestions, chosen),
            typed=typed(suggestions),
            found=found_count(suggestions),
            group=group,
            trend=None if group is None else trend(group, now),
            replay_all=address("/replays/new", wanted, {"status": None}) if set(chosen) - {"status"} else None,
            drop_all=address(f"{PATH}/drop", wanted, {"status": None}) if set(chosen) - {"status"} else None,
            pager=pager(PATH, {**chosen, "show": "list"}, cursor=cursor, following=letters.next_cursor),
        )

    # One

    async def show_one(self, request: Request) -> Response:
        console, ops = self._console, self._console.apis(request).ops
        letter = await ops.get(LetterView, _of(request), {"body_limit_bytes": str(SHOWN_BYTES)})
        replays, entries = await asyncio.gather(
            attempt(ops.get(Page[ReplayOfLetterView], f"/dead-letters/{letter.number}/replays", {"limit": "20"})),
            attempt(ops.get(Page[AuditView], "/audit", {"target": f"dead letter {letter.number}", "limit": "20"})),
        )
        body = body_of(letter)
        whole = None if body.is_cut else body.text
        past = replays.items if isinstance(replays, Page) else ()
        return await console.render(
            request,
            "letter.html",
            letter=letter,
            body=body,
            text=None if body.text is None else pretty(body.text) if body.tree is not None else body.text,
            may_edit=not body.is_cut and _editable(letter) is not None,
            replays=[
                (each, None if each.edited_body is None or whole is None else diff(whole, each.edited_body))
                for each in past
            ],
            entries=[entry_of(each) for each in entries.items] if isinstance(entries, Page) else [],
        )

    async def save_body(self, request: Request) -> Response:
        answer = await self._console.apis(request).ops.ask("GET", f"{_of(request)}/body", limit_bytes=None)
        kept = ("content-type", "content-disposition")
        return Response(answer.content, headers={name: answer.headers[name] for name in kept})

    # Edit

    async def show_edit(self, request: Request) -> Response:
        return await self._edit_form(request)

    async def _edit_form(
        self, request: Request, *, typed: Form | None = None, problem: ProblemView | None = None
    ) -> Response:
        ops = self._console.apis(request).ops
        letter = await ops.get(LetterView, _of(request))
        before = _editable(letter)
        return await self._console.render(
            request,
            "letter_edit.html",
            letter=letter,
            is_editable=before is not None,
            text=before if typed is None else typed.get("body", ""),
            reason="" if typed is None else typed.text("reason"),
            problem=problem,
        )

    async def edit(self, request: Request) -> Response:
        """Predict what the edited dead letter would do: it is sent from the replay's own page."""

        async def work(apis: Apis, form: Form) -> Done:
            body = {"body": _json(form.get("body", "")), "reason": form.text("reason"), "dry_run": True}
            made = await apis.ops.post(ReplayView, f"{_of(request)}/edit-and-replay", body, key=form.get("key"))
            return Done(f"/replays/{made.id}", "Nothing is sent yet: look at what it would do, then start it.", "info")

        async def again(problem: ProblemView) -> Response:
            return await self._edit_form(request, typed=self._console.form(request), problem=problem)

        return await self._console.write(request, work, again=again)

    # Drop and restore

    async def show_change(self, request: Request) -> Response:
        verb = path_of(request).rpartition("/")[2]
        now, query = self._console.clock(), request.query_params
        selection = selection_of(query.getlist("letters"), asked(given(query, LETTER_FIELDS), now))
        body = {**selection.body, "reason": "a dry run", "dry_run": True}
        planned = await self._console.apis(request).ops.post(Changed, f"/dead-letters/{verb}", body)
        return await self._console.render(
            request,
            "letters_change.html",
            verb=verb,
            selection=selection,
            planned=planned,
            sentence=change_sentence(verb, planned),
        )

    async def change(self, request: Request) -> Response:
        verb = path_of(request).rpartition("/")[2]

        async def work(apis: Apis, form: Form) -> Done:
            selection = selection_of(form.all("letters"), given(form, LETTER_FIELDS))
            up_to = form.text("up_to")
            body = {**selection.body, "reason": form.text("reason"), "up_to": count_of(up_to) if up_to else None}
            changed = await apis.ops.post(Changed, f"/dead-letters/{verb}", body, key=form.get("key"))
            numbers = form.all("letters")
            back = f"{PATH}/{numbers[0]}" if len(numbers) == 1 else PATH
            return Done(back, changed_sentence(verb, changed))

        return await self._console.write(request, work)


def _of(request: Request) -> str:
    """Return the API's path of the dead letter of this page."""
    return f"/dead-letters/{quoted(request.path_params['number'])}"


async def _find_group(ops: Api, fingerprint: str | None) -> GroupView | None:
    if fingerprint is None:
        return None
    found = await ops.get(Page[GroupView], "/dead-letter-groups", {"fingerprint": fingerprint, "limit": "1"})
    return found.items[0] if found.items else None


def _editable(letter: LetterView) -> str | None:
    return editable(letter.queue, letter.content_type, b64decode(letter.body_base64))


def _json(text: str) -> JsonValue:
    try:
        return read_json(text)
    except ValueError as error:
        said = Mistake(pointer="#/body", detail=str(error))
        kind, detail = f"{KIND_PREFIX}invalid", "the body cannot be sent"
        raise Refused(Problem(type=kind, title="invalid", status=422, detail=detail, errors=[said])) from error
