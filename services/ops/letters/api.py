"""The operators' routes for dead letters. Edge."""

from __future__ import annotations

from dataclasses import dataclass
from operator import attrgetter
from typing import Annotated

from fastapi import Path, Query, Response
from starlette.convertors import StringConvertor, register_url_convertor

from services.ops.letters.store import Store
from services.ops.letters.views import (
    DROP,
    RESTORE,
    Changed,
    Drop,
    DropMany,
    Filter,
    GroupView,
    LetterCounts,
    LetterLine,
    LetterStatus,
    LetterView,
    Move,
    NoLetter,
    Suggestions,
    WrongStatus,
)
from services.ops.requests import Name
from shared.contract.answers import END, Page
from shared.runtime.description import raises
from shared.runtime.http import Asker, Cursor, Key, Limit, Router, from_cursor, page_of


class _Digits(StringConvertor):
    """The number of a dead letter in a path. Other words, like ``drop``, may name another operation."""

    regex = "[0-9]{1,30}"


register_url_convertor("digits", _Digits())

Number = Annotated[int, Path(ge=1, lt=2**63)]
_BodyLimit = Annotated[
    int | None, Query(ge=0, lt=2**31, description="How much of the body is answered; without a limit, all of it.")
]
_Seen = Annotated[
    int | None, Query(ge=0, lt=2**53, description="The newest dead letter that you know; those above it are `new`.")
]


class _Bytes(Response):
    """Bytes that a browser saves, and never shows."""

    media_type = "application/octet-stream"


class _Wanted(Filter):
    """Which dead letters, and how many of them."""

    limit: Limit = 50
    cursor: Cursor = None


def create_router(store: Store) -> Router:
    router, letters = Router("dead letters"), _Routes(store)
    one = "/dead-letters/{number:digits}"
    router.get("/dead-letters")(letters.list_dead_letters)
    router.get("/dead-letter-suggestions")(letters.suggest_dead_letter_filters)
    router.get("/dead-letter-counts")(letters.count_dead_letters)
    router.get("/dead-letter-groups")(letters.list_dead_letter_groups)
    router.post("/dead-letters/drop")(letters.drop_dead_letters)
    router.post("/dead-letters/restore")(letters.restore_dead_letters)
    router.get(one)(letters.get_dead_letter)
    router.post(f"{one}/drop")(letters.drop_dead_letter)
    router.post(f"{one}/restore")(letters.restore_dead_letter)
    router.get(
        f"{one}/body",
        response_class=_Bytes,
        responses={200: {"description": "The body.", "content": {_Bytes.media_type: {"schema": {"type": "string"}}}}},
    )(letters.get_dead_letter_body)
    return router


@dataclass(frozen=True, slots=True)
class _Routes:
    store: Store

    async def list_dead_letters(self, wanted: Annotated[_Wanted, Query()]) -> Page[LetterLine]:
        """Dead letters, newest first. What arrives meanwhile does not move the pages."""
        found = await self.store.list_letters(wanted, before=from_cursor(wanted.cursor, END), limit=wanted.limit + 1)
        return page_of(found, wanted.limit, attrgetter("number"))

    async def count_dead_letters(self) -> LetterCounts:
        """How many dead letters have each status."""
        return await self.store.counts()

    async def list_dead_letter_groups(
        self,
        *,
        status: LetterStatus | None = None,
        fingerprint: Name | None = None,
        seen: _Seen = None,
        limit: Limit = 50,
        cursor: Cursor = None,
    ) -> Page[GroupView]:
        """
        Dead letters that most likely have one cause, together; the newest kind of failure first.

        With a *status*: groups that have a dead letter with it. With a *fingerprint*: that group.
        """
        found = await self.store.list_groups(
            status, before=from_cursor(cursor, END), limit=limit + 1, seen=seen, fingerprint=fingerprint
        )
        return page_of(found, limit, attrgetter("oldest"))

    async def suggest_dead_letter_filters(self, wanted: Annotated[Filter, Query()]) -> Suggestions:
        """
        The most frequent values among dead letters that a filter finds, to narrow it down.

        The newest 10,000 are looked at.
        """
        return await self.store.suggest(wanted)

    @raises(NoLetter)
    async def get_dead_letter(self, number: Number, body_limit_bytes: _BodyLimit = None) -> LetterView:
        """One dead letter, whole: its headers, its bytes, its error."""
        found = await self.store.find(number, body_limit_bytes=body_limit_bytes)
        if found is None:
            raise NoLetter(number)
        return found

    @raises(NoLetter)
    async def get_dead_letter_body(self, number: Number) -> Response:
        """The body of one dead letter, byte for byte, as a file to save."""
        found = await self.store.find_body(number)
        if found is None:
            raise NoLetter(number)
        return _Bytes(
            found,
            headers={
                "Content-Disposition": f'attachment; filename="dead-letter-{number}"',
                "X-Content-Type-Options": "nosniff",
            },
        )

    @raises(NoLetter, WrongStatus)
    async def drop_dead_letter(self, number: Number, body: Drop, asker: Asker) -> LetterView:
        """Say that a dead letter is not to be repaired. It can be restored."""
        return await self._move(number, DROP, body, asker)

    @raises(NoLetter, WrongStatus)
    async def restore_dead_letter(self, number: Number, body: Drop, asker: Asker) -> LetterView:
        """Open a dropped dead letter again."""
        return await self._move(number, RESTORE, body, asker)

    @raises(NoLetter)
    async def drop_dead_letters(self, body: DropMany, asker: Asker, key: Key = None) -> Changed:
        """
        Drop the open ones among dead letters that are named, or that a filter finds and that are here now.

        The others stay as they are, and are counted by their status. A `dry_run` changes nothing and says the same.
        """
        return await self._move_many(DROP, body, asker, key)

    @raises(NoLetter)
    async def restore_dead_letters(self, body: DropMany, asker: Asker, key: Key = None) -> Changed:
        """Open the dropped ones among dead letters again, as dropping them does."""
        return await self._move_many(RESTORE, body, asker, key)

    async def _move(self, number: int, move: Move, body: Drop, asker: Asker) -> LetterView:
        await self.store.move(number, move, actor=asker.name, reason=body.reason)
        return await self.get_dead_letter(number)

    async def _move_many(self, move: Move, body: DropMany, asker: Asker, key: str | None) -> Changed:
        wanted, up_to = body.selected(), body.up_to
        if body.dry_run:
            return await self.store.preview_move(wanted, move, up_to=up_to)
        return await self.store.move_many(wanted, move, actor=asker.name, reason=body.reason, up_to=up_to, key=key)
