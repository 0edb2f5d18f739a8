"""
Following replays: reads all followed replays at once, and sends each client what has changed. Edge.

One round a second reads them, however many clients there are; without clients there is none. A client that comes, or
comes back after ops was restarted, gets the replay as it is now, and the outcomes since the last event that it got. So
events of a slow client are put together, and nothing is kept for clients that have left.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final
from uuid import UUID

from services.ops.replays.store import Store
from services.ops.replays.views import ReplayedLetterView, ReplayUpdate, ReplayView
from services.ops.replays.waiting import Waiting
from shared.runtime.aside import SetAside
from shared.runtime.clock import now
from shared.runtime.periodic import run_periodically
from shared.runtime.sse import HEARTBEAT_SECONDS, Followers, chunks_of

_TICK_SECONDS: Final = 1.0
#: Outcomes in one event; the replay itself counts all of them.
MOST_LETTERS: Final = 200
#: An outcome may be committed this much later than its time, behind others.
_OVERLAP: Final = timedelta(seconds=5)
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
#: The longest number of microseconds that is a time.
_ID_DIGITS: Final = 17


def event_id(moment: datetime) -> str:
    """Return the id of an event with all outcomes up to *moment*."""
    return str((moment - _EPOCH) // timedelta(microseconds=1))


def moment_of(last_event_id: str | None) -> datetime | None:
    """Return the time in an id of `event_id`; None if it is no such id."""
    if last_event_id is None or not (last_event_id.isascii() and last_event_id.isdecimal()):
        return None
    return None if len(last_event_id) > _ID_DIGITS else _EPOCH + timedelta(microseconds=int(last_event_id))


class Follower:
    """A client."""

    def __init__(self, update: ReplayUpdate, moment: datetime, stopping: asyncio.Event, heartbeat: float) -> None:
        self._next: ReplayUpdate | None = update
        self._moment = moment
        self._news = asyncio.Event()
        self._stopping = stopping
        self._heartbeat_seconds = heartbeat

    def notify(self, replay: ReplayView, letters: Sequence[ReplayedLetterView], moment: datetime) -> None:
        """Send this next, together with what was not sent yet."""
        before = self._next or ReplayUpdate(replay=replay)
        together = [*before.letters, *letters]
        shown = together[-MOST_LETTERS:]
        omitted = before.omitted + len(together) - len(shown)
        self._next = ReplayUpdate(replay=replay, letters=shown, omitted=omitted)
        self._moment = moment
        self._news.set()

    def chunks(self) -> AsyncGenerator[bytes, None]:
        """Yield what to send until this process stops."""
        return chunks_of(
            self._take, news=self._news, stopping=self._stopping, heartbeat_seconds=self._heartbeat_seconds
        )

    def _take(self) -> tuple[bytes, bool]:
        update, self._next = self._next, None
        if update is None:
            return b"", False
        # In ASCII: some readers of streams take rare characters for ends of lines.
        data = update.model_dump_json(ensure_ascii=True)
        return f"id: {event_id(self._moment)}\nevent: replay\ndata: {data}\n\n".encode(), False


@dataclass(slots=True)
class _Followed:
    """A replay that clients follow, as they know it."""

    replay: ReplayView
    #: The latest outcome that was read.
    moment: datetime
    #: The outcomes that were read last: some are read again.
    letters: Sequence[ReplayedLetterView] = ()


class Watcher:
    """Reads followed replays and notifies their clients."""

    def __init__(
        self,
        replays: Store,
        waiting: Waiting,
        stopping: asyncio.Event,
        *,
        limit: int,
        tick_seconds: float = _TICK_SECONDS,
        heartbeat_seconds: float = HEARTBEAT_SECONDS,
    ) -> None:
        """Accept at most *limit* clients at a time; end their streams once *stopping* is set."""
        self._replays = replays
        self._waiting = waiting
        self._stopping = stopping
        #: The replays that cannot be shown.
        self.aside: SetAside[UUID] = SetAside("replay streams")
        self._tick_seconds = tick_seconds
        self._heartbeat_seconds = heartbeat_seconds
        self._followers: Followers[Follower] = Followers(limit=limit, things="replays")
        self._followed: dict[UUID, _Followed] = {}

    async def missed(self, replay: ReplayView, last_event_id: str | None) -> ReplayUpdate:
        """Return the first update for a client whose last event had *last_event_id*; None: it is new."""
        since = moment_of(last_event_id)
        if since is None:
            return ReplayUpdate(replay=replay)
        found = await self._replays.list_ended(replay.id, since=_earlier(since), limit=MOST_LETTERS + 1)
        return ReplayUpdate(replay=replay, letters=found[-MOST_LETTERS:], omitted=max(0, len(found) - MOST_LETTERS))

    @contextmanager
    def followed(self, first: ReplayUpdate, last_event_id: str | None) -> Iterator[Follower]:
        """
        Register a client: it gets *first*, then every change, until the context ends.

        Raises:
            TooManyStreams: if the limit is reached.

        """
        replay_id, moment = first.replay.id, _latest(first.letters) or moment_of(last_event_id) or now()
        follower = Follower(first, moment, self._stopping, self._heartbeat_seconds)
        try:
            with self._followers.added(replay_id, follower):
                self._followed.setdefault(replay_id, _Followed(first.replay, moment, first.letters))
                yield follower
        finally:
            if replay_id not in self._followers.all():
                self._followed.pop(replay_id, None)

    async def run(self) -> None:
        """Read until *stopping* is set; go on after every loss of Postgres."""
        await run_periodically("replay streams", self._tick, self._stopping, first_seconds=self._tick_seconds)

    async def _tick(self) -> float:
        self.aside.keep_only(self._followed)
        done = await self.aside.each(list(self._followed.values()), self._read, key=lambda each: each.replay.id)
        if done.down:
            raise done.down
        return self._tick_seconds

    async def _read(self, followed: _Followed) -> None:
        replay_id = followed.replay.id
        # First, so that the replay counts each outcome that is sent.
        found = await self._replays.list_ended(replay_id, since=_earlier(followed.moment), limit=MOST_LETTERS)
        record = await self._replays.find(replay_id)
        if record is None:
            return
        replay = await self._waiting.shown(record, now=now())
        letters = [each for each in found if each not in followed.letters]
        if replay == followed.replay and not letters:
            return
        followed.replay, followed.letters = replay, found
        followed.moment = _latest(letters) or followed.moment
        for follower in self._followers.all().get(replay_id, ()):
            follower.notify(replay, letters, followed.moment)


def _latest(letters: Sequence[ReplayedLetterView]) -> datetime | None:
    return max((each.ended_at for each in letters if each.ended_at), default=None)


def _earlier(moment: datetime) -> datetime:
    return max(moment, _EPOCH + _OVERLAP) - _OVERLAP
