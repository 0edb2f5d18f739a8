"""The search: one box for trainings, users, models, and dead letters by their number. Edge."""

from __future__ import annotations

import asyncio
import re
from http import HTTPStatus
from typing import Final

from starlette.responses import RedirectResponse, Response
from starlette.routing import Route

from services.ops.console.client import Apis, Parts, Refused
from services.ops.console.console import Console, Visit, page_route
from services.ops.console.views.search import Hit, LetterHit, SearchAnswer, page_of
from services.ops.letters.views import LetterLine

_NUMBER: Final = re.compile(r"#?([0-9]{1,18})")
_LONGEST: Final = 300
#: What state finds.
_STATES: Final = "Trainings, users and models"


def routes(console: Console) -> list[Route]:
    return [page_route(console, "/search", _search)]


async def _search(visit: Visit) -> Response:
    text = visit.query.get("q", "").strip()[:_LONGEST]
    if not text:
        return await visit.render("search.html", text="", hits=[], is_complete=True, away={})
    apis, parts = visit.apis, Parts()
    letters, found = await asyncio.gather(_letter(apis, text), parts.of(_STATES, _trainings(apis, text)))
    hits: list[Hit | LetterHit] = [*letters, *(found.items if found else ())]
    is_complete = found is not None and found.is_complete
    only = page_of(text, hits, is_complete=is_complete)
    if only is not None:
        return RedirectResponse(only, status_code=HTTPStatus.SEE_OTHER)
    return await visit.render("search.html", text=text, hits=hits, is_complete=is_complete, away=parts.away)


async def _trainings(apis: Apis, text: str) -> SearchAnswer:
    try:
        return await apis.state.get(SearchAnswer, "/search", {"q": text})
    except Refused:  # such as for a character that no id has
        return SearchAnswer(items=[], is_complete=True)


async def _letter(apis: Apis, text: str) -> list[LetterHit]:
    number = _NUMBER.fullmatch(text)
    if number is None:
        return []
    try:
        letter = await apis.ops.get(LetterLine, f"/dead-letters/{number[1]}", {"body_limit_bytes": "0"})
    except Refused:
        return []
    return [LetterHit(f"dead letter {letter.number}", f"/dead-letters/{letter.number}", letter.error_text[:200])]
