"""The screens of dead letters: groups, those that a filter finds, one of them whole, drop and restore. Edge."""

from __future__ import annotations

import asyncio
from http import HTTPStatus
from typing import Final

from pydantic import JsonValue
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route

from services.ops.console.client import Api, Parts, Refused, quoted
from services.ops.console.console import Console, Done, Visit, form_route, page_route
from services.ops.console.views.audit import Entry
from services.ops.console.views.bodies import SHOWN_BYTES, Letter, diff
from services.ops.console.views.filters import LETTER_FIELDS, asked, chips, given, pager
from services.ops.console.views.letters import (
    PATH,
    Group,
    change_sentence,
    changed_sentence,
    count_of,
    found_count,
    narrowed,
    offers,
    selection_of,
    typed,
)
from services.ops.console.views.looks import COOKIE, Look
from services.ops.console.views.problems import ProblemView
from services.ops.letters.letter import SEARCHED_BYTES
from services.ops.letters.views import (
    Changed,
    LetterCounts,
    LetterLine,
    LetterStatus,
    Suggestions,
)
from services.ops.replays.views import ReplayOfLetterView, ReplayView
from shared.contract.answers import KIND_PREFIX, Mistake, Page, Problem
from shared.contract.text import read_json

_ANY: Final = "any"
#: How long a browser remembers what was seen.
_REMEMBERED_SECONDS: Final = 90 * 24 * 3600


def routes(console: Console) -> list[Route]:
    return [
        page_route(console, PATH, _show_all),
        page_route(console, f"{PATH}/seen", _all_seen, method="POST"),
        page_route(console, f"{PATH}/drop", _show_change),
        form_route(console, f"{PATH}/drop", _change),
        page_route(console, f"{PATH}/restore", _show_change),
        form_route(console, f"{PATH}/restore", _change),
        page_route(console, f"{PATH}/{{number}}", _show_one),
        page_route(console, f"{PATH}/{{number}}/body", _save_body),
        page_route(console, f"{PATH}/{{number}}/edit", _show_edit),
        form_route(console, f"{PATH}/{{number}}/edit", _edit, again=_show_edit),
    ]


async def _show_all(visit: Visit) -> Response:
    chosen = given(visit.query, LETTER_FIELDS)
    if chosen.keys() - {"status"} or visit.query.get("show") == "list":
        return await _show_list(visit, chosen)
    return await _show_groups(visit, chosen.get("status", LetterStatus.OPEN.value))


async def _show_groups(visit: Visit, status: str) -> Response:
    ops, now, cursor = visit.apis.ops, visit.now, visit.cursor
    known = Look.read(visit.request.cookies.get(COOKIE, ""))
    look = (known or Look.first(now)).again(now)
    wanted = None if status == _ANY else status
    groups, counts, newest = await asyncio.gather(
        ops.get(
            Page[Group],
            "/dead-letter-groups",
            {"status": wanted, "seen": str(look.seen) if known else None, "cursor": cursor},
        ),
        ops.get(LetterCounts, "/dead-letter-counts"),
        ops.get(Page[LetterLine], "/dead-letters", {"limit": "1"}),
    )
    shown = look.showing(max((each.number for each in newest.items), default=0))
    response = await visit.render(
        "letters.html",
        groups=groups.items,
        wanted=wanted,
        counts=counts,
        open_letters=counts.open,
        chosen_status=status,
        new=sum(each.new for each in groups.items),
        look=look,
        pager=pager(PATH, {"status": status}, cursor=cursor, following=groups.next_cursor),
    )
    # The first time, everything is known from now on.
    _remember(visit, response, shown if known else shown.all_seen(now))
    return response


async def _all_seen(visit: Visit) -> Response:
    now = visit.now
    response = RedirectResponse(PATH, status_code=HTTPStatus.SEE_OTHER)
    look = Look.read(visit.request.cookies.get(COOKIE, "")) or Look.first(now)
    _remember(visit, response, look.all_seen(now))
    return response


def _remember(visit: Visit, response: Response, look: Look) -> None:
    visit.set_cookie(response, COOKIE, look.cookie(), seconds=_REMEMBERED_SECONDS)


async def _show_list(visit: Visit, chosen: dict[str, str]) -> Response:
    ops, now, cursor = visit.apis.ops, visit.now, visit.cursor
    wanted = asked(chosen, now)
    letters, suggestions, group = await asyncio.gather(
        ops.get(Page[LetterLine], "/dead-letters", {**wanted, "cursor": cursor}),
        ops.get(Suggestions, "/dead-letter-suggestions", wanted),
        _find_group(ops, chosen.get("fingerprint")),
    )
    # Nothing is done to all that there are.
    selective = {**wanted, "status": None} if chosen.keys() - {"status"} else None
    return await visit.render(
        "letters_found.html",
        letters=letters.items,
        chosen=chosen,
        fields=LETTER_FIELDS,
        statuses=list(LetterStatus),
        chips=chips(PATH, chosen, LETTER_FIELDS),
        offers=offers(suggestions, chosen),
        narrowed=narrowed,
        typed=typed(suggestions),
        found=found_count(suggestions),
        group=group,
        selective=selective,
        pager=pager(PATH, {**chosen, "show": "list"}, cursor=cursor, following=letters.next_cursor),
    )


async def _show_one(visit: Visit) -> Response:
    ops, parts = visit.apis.ops, Parts()
    letter = await ops.get(Letter, _of(visit), {"body_limit_bytes": str(SHOWN_BYTES)})
    target = f"dead letter {letter.number}"
    replays, entries = await asyncio.gather(
        parts.of("replays", ops.get(Page[ReplayOfLetterView], f"{_of(visit)}/replays", {"limit": "20"})),
        parts.of("audit", ops.get(Page[Entry], "/audit", {"target": target, "limit": "20"})),
    )
    whole = None if letter.is_cut else letter.body_text
    return await visit.render(
        "letter.html",
        letter=letter,
        replays=[
            (each, None if each.edited_body is None or whole is None else diff(whole, each.edited_body))
            for each in (replays.items if replays else ())
        ],
        entries=entries.items if entries else (),
    )


async def _save_body(visit: Visit) -> Response:
    answer = await visit.apis.ops.ask("GET", f"{_of(visit)}/body", limit_bytes=None)
    kept = ("content-type", "content-disposition")
    return Response(answer.content, headers={name: answer.headers[name] for name in kept})


async def _show_edit(visit: Visit, problem: ProblemView | None = None) -> Response:
    # One byte more than can be edited tells that the body is too large; the rest of it may be many MiB.
    query = {"body_limit_bytes": str(SEARCHED_BYTES + 1)}
    letter = await visit.apis.ops.get(Letter, _of(visit), query)
    before = letter.editable
    typed = visit.form if problem else None
    return await visit.render(
        "letter_edit.html",
        letter=letter,
        is_editable=before is not None,
        text=before if typed is None else typed.get("body", ""),
        reason="" if typed is None else typed.text("reason"),
        problem=problem,
    )


async def _edit(visit: Visit) -> Done:
    """Predict what the edited dead letter would do: it is sent from the replay's own page."""
    ops, form = visit.apis.ops, visit.form
    body = {"body": _json(form.get("body", "")), "reason": form.text("reason"), "dry_run": True}
    made = await ops.post(ReplayView, f"{_of(visit)}/edit-and-replay", body, key=form.get("key"))
    return Done(f"/replays/{made.id}", "Nothing is sent yet: look at what it would do, then start it.", "info")


async def _show_change(visit: Visit) -> Response:
    verb, query = _verb(visit), visit.query
    selection = selection_of(query.getlist("letters"), asked(given(query, LETTER_FIELDS), visit.now))
    body = {**selection.body, "reason": "a dry run", "dry_run": True}
    planned = await visit.apis.ops.post(Changed, f"/dead-letters/{verb}", body)
    return await visit.render(
        "letters_change.html",
        verb=verb,
        selection=selection,
        planned=planned,
        sentence=change_sentence(verb, planned),
    )


async def _change(visit: Visit) -> Done:
    ops, form, verb = visit.apis.ops, visit.form, _verb(visit)
    numbers, up_to = form.all("letters"), form.text("up_to")
    selection = selection_of(numbers, given(form, LETTER_FIELDS))
    body = {**selection.body, "reason": form.text("reason"), "up_to": count_of(up_to) if up_to else None}
    changed = await ops.post(Changed, f"/dead-letters/{verb}", body, key=form.get("key"))
    return Done(f"{PATH}/{numbers[0]}" if len(numbers) == 1 else PATH, changed_sentence(verb, changed))


def _verb(visit: Visit) -> str:
    """Return ``drop`` or ``restore``."""
    return visit.path.rpartition("/")[2]


def _of(visit: Visit) -> str:
    """Return the API's path of the dead letter of this page."""
    return f"/dead-letters/{quoted(visit.params['number'])}"


async def _find_group(ops: Api, fingerprint: str | None) -> Group | None:
    if fingerprint is None:
        return None
    found = await ops.get(Page[Group], "/dead-letter-groups", {"fingerprint": fingerprint, "limit": "1"})
    return found.items[0] if found.items else None


def _json(text: str) -> JsonValue:
    try:
        return read_json(text)
    except ValueError as error:
        said = Mistake(pointer="#/body", detail=str(error))
        kind, detail = f"{KIND_PREFIX}invalid", "the body cannot be sent"
        raise Refused(Problem(type=kind, title="invalid", status=422, detail=detail, errors=[said])) from error
