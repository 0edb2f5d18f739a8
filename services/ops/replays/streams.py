"""
Following replays: reads all followed replays at once, and sends each client what has changed. Edge.

One round a second reads them, however many clients there are; without clients there is none. A client that comes, or
comes back after ops was restarted, gets the replay as it is now, and the outcomes since the last event that it got. A
client knows what it was told, so events of a slow one are put together, and nothing is kept for those that have left.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import AbstractContextManager
from datetime import datetime, timedelta
from operator import itemgetter
from typing import Final
from uuid import UUID

from services.ops.replays.records import Ended
from services.ops.replays.store import Store
from services.ops.replays.views import ReplayedLetterView, ReplayUpdate, ReplayView
from services.ops.replays.waiting import Waiting
from shared.contract.moments import EPOCH, from_microseconds, to_microseconds
from shared.runtime.aside import SetAside
from shared.runtime.clock import now
from shared.runtime.periodic import run_periodically
from shared.runtime.sse import HEARTBEAT_SECONDS, Followers, chunks_of

_TICK_SECONDS: Final = 1.0
#: Outcomes in one event; the replay itself counts all of them.
MOST_LETTERS: Final = 200
#: How far back outcomes are counted.
_MOST_ENDED: Final = 10_000
#: An outcome may be committed this much later than its time, behind others.
_OVERLAP: Final = timedelta(seconds=5)
#: The longest number of microseconds that is a time.
_ID_DIGITS: Final = 17


def event_id(moment: datetime) -> str:
    """Return the id of an event with all outcomes up to *moment*."""
    return str(to_microseconds(moment))


def moment_of(last_event_id: str | None) -> datetime | None:
    """Return the time in an id of `event_id`; None if it is no such id."""
    if last_event_id is None or not (last_event_id.isascii() and last_event_id.isdecimal()):
        return None
    return None if len(last_event_id) > _ID_DIGITS else from_microseconds(int(last_event_id))


class Follower:
    """A client, and what it was told."""

    def __init__(self, moment: datetime | None, stopping: asyncio.Event) -> None:
        """It was told all outcomes up to *moment*; None: it is new, and is told those from now on."""
        self._is_new = moment is None
        #: The latest outcome that it was told.
        self._moment = moment or now()
        #: Those since a little earlier, which are read again.
        self._told: set[Ended] = set()
        self._replay: ReplayView | None = None
        self._next: ReplayUpdate | None = None
        self._news = asyncio.Event()
        self._stopping = stopping

    @property
    def since(self) -> datetime:
        """From when on it may not have been told all outcomes."""
        return max(self._moment, EPOCH + _OVERLAP) - _OVERLAP

    def untold(self, ended: Sequence[Ended]) -> set[Ended]:
        """Return those of *ended* that it was not told."""
        since = self.since
        return {each for each in ended if each.at >= since} - self._told

    def offer(self, replay: ReplayView, ended: Sequence[Ended], letters: Sequence[ReplayedLetterView]) -> None:
        """
        Send next what it was not told, together with what was not sent yet.

        *ended* are the outcomes since `since`, and *letters* the last of them, whole.
        """
        untold = set() if self._is_new else self.untold(ended)
        self._moment = max([self._moment, *(each.at for each in untold)])
        since = self.since
        self._told = {each for each in (*self._told, *ended) if each.at >= since}
        if replay == self._replay and not untold:
            return
        self._replay, self._is_new = replay, False
        before = self._next or ReplayUpdate(replay=replay)
        new = [each for each in letters if (each.letter, each.ended_at) in untold]
        shown = [*before.letters, *new][-MOST_LETTERS:]
        omitted = before.omitted + len(before.letters) + len(untold) - len(shown)
        self._next = ReplayUpdate(replay=replay, letters=shown, omitted=omitted)
        self._news.set()

    def chunks(self) -> AsyncGenerator[bytes, None]:
        """Yield what to send until this process stops."""
        return chunks_of(self._take, news=self._news, stopping=self._stopping, heartbeat_seconds=HEARTBEAT_SECONDS)

    def _take(self) -> tuple[bytes, bool]:
        update, self._next = self._next, None
        if update is None:
            return b"", False
        # In ASCII: some readers of streams take rare characters for ends of lines.
        data = update.model_dump_json(ensure_ascii=True)
        return f"id: {event_id(self._moment)}\nevent: replay\ndata: {data}\n\n".encode(), False


class ReplayStreams:
    """Reads followed replays and notifies their clients."""

    def __init__(
        self,
        replays: Store,
        waiting: Waiting,
        stopping: asyncio.Event,
        *,
        limit: int,
        tick_seconds: float = _TICK_SECONDS,
    ) -> None:
        """Accept at most *limit* clients at a time; end their streams once *stopping* is set."""
        self._replays = replays
        self._waiting = waiting
        self._stopping = stopping
        #: The replays that cannot be shown.
        self.aside: SetAside[UUID] = SetAside("replay streams")
        self._tick_seconds = tick_seconds
        self._followers: Followers[Follower] = Followers(limit=limit, things="replays")

    async def follower(self, replay_id: UUID, last_event_id: str | None) -> Follower:
        """Return a client that is sent the replay first, and what it missed since *last_event_id*; None: it is new."""
        follower = Follower(moment_of(last_event_id), self._stopping)
        await self._read((replay_id, [follower]))
        return follower

    def followed(self, replay_id: UUID, follower: Follower) -> AbstractContextManager[Follower]:
        """
        Send *follower* every change, too, until the context ends.

        Raises:
            TooManyStreams: if the limit is reached.

        """
        return self._followers.added(replay_id, follower)

    async def run(self) -> None:
        """Read until *stopping* is set; go on after every loss of Postgres."""
        await run_periodically("replay streams", self._tick, self._stopping, first_seconds=self._tick_seconds)

    async def _tick(self) -> float:
        followed = self._followers.all()
        self.aside.keep_only(followed)
        done = await self.aside.each(followed.items(), self._read, key=itemgetter(0))
        if done.down:
            raise done.down
        return self._tick_seconds

    async def _read(self, followed: tuple[UUID, Sequence[Follower]]) -> None:
        replay_id, followers = followed
        since = min(each.since for each in followers)
        # First, so that the replay counts each outcome that is sent.
        ended = await self._replays.list_ended(replay_id, since=since, limit=_MOST_ENDED)
        is_news = any(each.untold(ended) for each in followers)
        letters = await self._replays.list_last_ended(replay_id, limit=MOST_LETTERS) if is_news else ()
        record = await self._replays.find(replay_id)
        if record is None:
            return
        replay = await self._waiting.shown(record, now=now())
        for follower in followers:
            follower.offer(replay, ended, letters)
