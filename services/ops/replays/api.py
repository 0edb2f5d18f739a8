"""The operators' routes for replays. Edge."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from http import HTTPStatus
from operator import attrgetter
from typing import Annotated, Final
from uuid import UUID, uuid4

from fastapi import Header, Path, Query, Response

from services.ops.letters.views import NoLetter
from services.ops.replays.messages import EditRefused, edited
from services.ops.replays.plan import Outcome
from services.ops.replays.records import (
    NewReplay,
    NoReplay,
    NothingSelected,
    NotNow,
    Revert,
    TooManySelected,
)
from services.ops.replays.rounds import Services
from services.ops.replays.store import Store
from services.ops.replays.streams import ReplayStreams
from services.ops.replays.views import (
    EditLetter,
    ReplayedLetterView,
    ReplayedUserView,
    ReplayOfLetterView,
    ReplayView,
    StartReplay,
    UndonePreview,
    UndoReplay,
)
from services.ops.replays.waiting import Waiting
from services.ops.requests import Because
from shared.contract.answers import END, Mistake, Page
from shared.contract.idempotency import IdempotencyKey, KeyReused
from shared.runtime.clock import now
from shared.runtime.description import kind_of, raises
from shared.runtime.http import Asker, Cursor, Invalid, Key, Limit, Router, from_cursor, page_of, to_cursor
from shared.runtime.sse import EventStream

_NO_REASON: Final = Because()
_Number = Annotated[int, Path(ge=1, lt=2**63)]
#: State is asked about each user of a page.
_ASKED_AT_A_TIME: Final = 8
_UndoLimit = Annotated[int, Query(ge=1, le=50)]
#: An edited body may have a megabyte.
_EditsLimit = Annotated[int, Query(ge=1, le=20)]
#: In the API's description.
_EXAMPLE: Final = """\
id: 1764072000000000
event: replay
data: {"replay": {"status": "running", "ended": 40, …}, "letters": [{"letter": 17, "outcome": "swapped", …}], …}

"""


def create_router(store: Store, waiting: Waiting, services: Services, streams: ReplayStreams) -> Router:
    router, replays = Router("replays"), _Replays(store, waiting, services, streams)
    one, letter = "/replays/{replay_id}", "/dead-letters/{number}"
    accepted = HTTPStatus.ACCEPTED
    stream = {"text/event-stream": {"schema": {"type": "string"}, "example": _EXAMPLE}}
    router.post("/replays", status_code=accepted)(replays.start_replay)
    router.get("/replays")(replays.list_replays)
    router.get(one)(replays.get_replay)
    router.get(f"{one}/letters")(replays.list_replay_letters)
    router.get(f"{one}/users")(replays.list_replay_users)
    router.get(f"{one}/undo-preview")(replays.preview_undo)
    router.get(f"{letter}/replays")(replays.list_replays_of_dead_letter)
    router.post(f"{one}/start", status_code=accepted)(replays.start_planned_replay)
    router.post(f"{one}/pause")(replays.pause_replay)
    router.post(f"{one}/resume", status_code=accepted)(replays.resume_replay)
    router.post(f"{one}/cancel")(replays.cancel_replay)
    router.post(f"{one}/undo", status_code=accepted)(replays.undo_replay)
    router.post(f"{letter}/edit-and-replay", status_code=accepted)(replays.edit_and_replay)
    router.get(
        f"{one}/events",
        status_code=HTTPStatus.OK,
        response_class=EventStream,
        responses={200: {"description": "Events, until the client leaves.", "content": stream}},
    )(replays.follow_replay)
    return router


@dataclass(frozen=True, slots=True)
class _Replays:
    store: Store
    waiting: Waiting
    services: Services
    streams: ReplayStreams

    @raises(NothingSelected, TooManySelected, KeyReused)
    async def start_replay(self, body: StartReplay, asker: Asker, key: Key = None) -> ReplayView:
        """
        Replay dead letters, or predict their outcomes (`dry_run`). The selection is frozen now.

        The same Idempotency-Key returns the same replay.
        """
        return await self._create(NewReplay(uuid4(), asker.name, body), key, body.model_dump(mode="json"))

    @raises(NoLetter, EditRefused, NothingSelected, KeyReused)
    async def edit_and_replay(self, number: _Number, body: EditLetter, asker: Asker, key: Key = None) -> ReplayView:
        """
        Replay one dead letter with another body, or predict its outcome (`dry_run`).

        The dead letter itself stays as it is; ids cannot be edited.
        """
        letter = await self.store.find_letter(number)
        if letter is None:
            raise NoLetter(number)
        try:
            text = edited(letter, body.body)
        except EditRefused as error:
            # The edited body is a part of the request's body.
            sent = (Mistake(pointer=f"#/body{each.pointer[1:]}", detail=each.detail) for each in error.mistakes)
            raise Invalid(*sent, kind=kind_of(error.code)) from error
        wanted = StartReplay(letters=(number,), steps=(1,), reason=body.reason, dry_run=body.dry_run)
        new = NewReplay(uuid4(), asker.name, wanted, edited_body=text)
        return await self._create(new, key, {"edit": number, **body.model_dump(mode="json")})

    async def list_replays(self, limit: Limit = 50, cursor: Cursor = None) -> Page[ReplayView]:
        """Replays, newest first."""
        found = await self.store.list_replays(before=from_cursor(cursor, END), limit=limit + 1)
        return page_of([await self._view(each) for each in found], limit, attrgetter("number"))

    @raises(NoReplay)
    async def get_replay(self, replay_id: UUID) -> ReplayView:
        """One replay, as it is now."""
        return await self._view(await self._get(replay_id))

    @raises(NoReplay)
    async def list_replay_letters(
        self,
        replay_id: UUID,
        *,
        outcome: Outcome | None = None,
        predicted: Outcome | None = None,
        limit: Limit = 50,
        cursor: Cursor = None,
    ) -> Page[ReplayedLetterView]:
        """A replay's dead letters in the order in which they are sent, with their outcomes and predictions."""
        await self._get(replay_id)
        found = await self.store.list_letters(
            replay_id, outcome=outcome, predicted=predicted, after=from_cursor(cursor, 0), limit=limit + 1
        )
        return page_of(found, limit, attrgetter("position"))

    @raises(NoReplay)
    async def list_replay_users(
        self, replay_id: UUID, outcome: Outcome | None = None, limit: Limit = 50, cursor: Cursor = None
    ) -> Page[ReplayedUserView]:
        """
        The users of a replay's dead letters: the model of each before it and after it.

        As far as dead letters were not sent, that is the prediction of a dry run: of several of one user, the newest
        training counts, as in a replay. With an *outcome*, such as `swapped`: users with a dead letter that has it, or
        would have it. Dead letters whose user is not known are left out.
        """
        await self._get(replay_id)
        found = await self.store.list_users(replay_id, outcome=outcome, after=from_cursor(cursor, 0), limit=limit + 1)
        return page_of(found, limit, attrgetter("position"))

    @raises(NoReplay)
    async def preview_undo(
        self, replay_id: UUID, asker: Asker, limit: _UndoLimit = 20, cursor: Cursor = None
    ) -> Page[UndonePreview]:
        """What undoing a replay would do now to each user whose model it has set. State is asked; nothing changes."""
        await self._get(replay_id)
        found = await self.store.list_to_undo(replay_id, after=from_cursor(cursor, 0), limit=limit + 1)
        slots = asyncio.Semaphore(_ASKED_AT_A_TIME)

        async def preview(revert: Revert) -> UndonePreview:
            async with slots:
                kept_because = await self.services.revert_model(replace(revert, actor=asker.name), dry_run=True)
            return UndonePreview(
                user_id=revert.user_id, model=revert.model, to=revert.to, kept_because=kept_because or ""
            )

        shown = await asyncio.gather(*(preview(revert) for _, revert in found[:limit]))
        return Page(items=shown, next_cursor=to_cursor(found[limit - 1][0]) if len(found) > limit else None)

    @raises(NoReplay)
    async def follow_replay(self, replay_id: UUID, last_event_id: Annotated[str | None, Header()] = None) -> Response:
        """
        Follow a replay as server-sent events: `replay` first, and whenever it changes, at most once a second.

        Each event's data is the replay as returned by a GET, and the dead letters that have their outcome since the
        event before: with Last-Event-ID, since that one. So a client that reconnects misses nothing; an outcome may be
        sent twice. The stream goes on after the end of the replay, which may be undone.
        """
        await self._get(replay_id)
        follower = await self.streams.follower(replay_id, last_event_id)
        return EventStream(partial(self.streams.followed, replay_id, follower))

    async def list_replays_of_dead_letter(
        self, number: _Number, limit: _EditsLimit = 10, cursor: Cursor = None
    ) -> Page[ReplayOfLetterView]:
        """The replays of a dead letter, newest first: its outcome in each, and the edited body if there is one."""
        found = await self.store.list_replays_of(number, before=from_cursor(cursor, END), limit=limit + 1)
        return page_of(found, limit, attrgetter("number"))

    @raises(NoReplay, NotNow, NothingSelected)
    async def start_planned_replay(self, replay_id: UUID, asker: Asker, body: Because = _NO_REASON) -> ReplayView:
        """Replay just the dead letters of a dry run, whether or not it has predicted all of them."""
        return await self._view(await self.store.start(replay_id, actor=asker.name, reason=body.reason))

    @raises(NoReplay, NotNow)
    async def pause_replay(self, replay_id: UUID, asker: Asker, body: Because = _NO_REASON) -> ReplayView:
        """Send no more for now."""
        return await self._view(await self.store.pause(replay_id, actor=asker.name, reason=body.reason))

    @raises(NoReplay, NotNow)
    async def resume_replay(self, replay_id: UUID, asker: Asker, body: Because = _NO_REASON) -> ReplayView:
        """Send again, also after it stopped by itself: failures so far no longer count."""
        return await self._view(await self.store.resume(replay_id, actor=asker.name, reason=body.reason))

    @raises(NoReplay, NotNow)
    async def cancel_replay(self, replay_id: UUID, asker: Asker, body: Because = _NO_REASON) -> ReplayView:
        """
        Send no more at all. Dead letters that were not sent are open again; the others still get their outcome.

        Of a canceled replay: give up the dead letters that have no outcome yet; they are open again, too.
        """
        return await self._view(await self.store.cancel(replay_id, actor=asker.name, reason=body.reason))

    @raises(NoReplay, NotNow)
    async def undo_replay(self, replay_id: UUID, body: UndoReplay, asker: Asker) -> ReplayView:
        """Roll back every model that a replay set, of users who still use it. For the others, say why not."""
        return await self._view(await self.store.undo(replay_id, actor=asker.name, reason=body.reason))

    async def _create(self, new: NewReplay, key: str | None, request: Mapping[str, object]) -> ReplayView:
        return await self._view(await self.store.create(new, IdempotencyKey.of(key, request)))

    async def _view(self, record: ReplayView) -> ReplayView:
        return await self.waiting.shown(record, now=now())

    async def _get(self, replay_id: UUID) -> ReplayView:
        record = await self.store.find(replay_id)
        if record is None:
            raise NoReplay(replay_id)
        return record
