"""
Following trainings: reads all followed trainings at once, and notifies each client of updates. Edge.

One query a second reads them, however many clients and trainings there are; without clients there is none. LISTEN is
not used: commits that notify wait for each other, so every swap would pay for it; notifications are lost with the
connection, so the query would be needed anyway; and estimates change with the clock.

A slow client gets only the latest update. An update's id is made of its row, so it means the same after a restart and
in another process: a client that reconnects with the last id it got is sent nothing that it had, and of missed updates
only the latest.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Final, Protocol
from uuid import UUID

from services.state.transitions import AT_REPLICATE, Stage
from services.state.views import TrainingView
from shared.contract.moments import to_microseconds
from shared.runtime.aside import SetAside
from shared.runtime.periodic import run_periodically
from shared.runtime.sse import HEARTBEAT_SECONDS, Followers, chunks_of

_TICK_SECONDS: Final = 1.0

_GO_ON: Final = (*AT_REPLICATE, Stage.VERIFYING)


class Trainings(Protocol):
    """The store."""

    async def find_trainings(self, refs: Sequence[UUID]) -> Sequence[TrainingView]: ...


@dataclass(frozen=True, slots=True)
class Update:
    """A state of a training."""

    #: Postgres's time of the row's last change, and the progress.
    id: str
    stage: Stage
    data: str

    @classmethod
    def of(cls, record: TrainingView) -> Update:
        changed = to_microseconds(record.updated_at)
        # Without unset fields, as in the other answers.
        return cls(f"{changed}-{record.progress:03}", record.stage, record.model_dump_json(exclude_unset=True))

    @property
    def is_last(self) -> bool:
        """Whether no update follows unless someone acts."""
        return self.stage not in _GO_ON

    def encode(self, event: str) -> bytes:
        return f"id: {self.id}\nevent: {event}\ndata: {self.data}\n\n".encode()


class Follower:
    """A client."""

    def __init__(
        self, update: Update, last_event_id: str | None, stopping: asyncio.Event, heartbeat_seconds: float
    ) -> None:
        """*last_event_id* is the id of the last update that the client got."""
        self._latest = update
        self._seen = last_event_id
        self._stage: Stage | None = None
        self._news = asyncio.Event()
        self._stopping = stopping
        self._heartbeat_seconds = heartbeat_seconds

    def notify(self, update: Update) -> None:
        """Send *update* next. It replaces one that was not sent yet."""
        if update.id != self._latest.id:
            self._latest = update
            self._news.set()

    def chunks(self) -> AsyncGenerator[bytes, None]:
        """Yield what to send until the training has ended or this process stops."""
        return chunks_of(
            self._take, news=self._news, stopping=self._stopping, heartbeat_seconds=self._heartbeat_seconds
        )

    def _take(self) -> tuple[bytes, bool]:
        update, event = self._latest, b""
        if update.id != self._seen:
            event = update.encode("progress" if update.stage == self._stage else "stage")
            self._seen, self._stage = update.id, update.stage
        return event, update.is_last


class Watcher:
    """Reads followed trainings and notifies their clients."""

    def __init__(
        self,
        trainings: Trainings,
        stopping: asyncio.Event,
        *,
        limit: int,
        tick_seconds: float = _TICK_SECONDS,
        heartbeat_seconds: float = HEARTBEAT_SECONDS,
    ) -> None:
        """Accept at most *limit* clients at a time; end their streams once *stopping* is set."""
        self._trainings = trainings
        self._stopping = stopping
        #: The trainings that cannot be shown, by their refs.
        self.aside: SetAside[UUID] = SetAside("streams")
        self._tick_seconds = tick_seconds
        self._heartbeat_seconds = heartbeat_seconds
        self._followers: Followers[Follower] = Followers(limit=limit, things="trainings")

    @property
    def count(self) -> int:
        """Number of clients."""
        return self._followers.count

    def followed(self, record: TrainingView, last_event_id: str | None) -> AbstractContextManager[Follower]:
        """
        Register a client that follows *record* until the context ends.

        Raises:
            TooManyStreams: on entering the context, if the limit is reached.

        """
        follower = Follower(Update.of(record), last_event_id, self._stopping, self._heartbeat_seconds)
        return self._followers.added(record.ref, follower)

    async def run(self) -> None:
        """Read until *stopping* is set; go on after every loss of Postgres."""
        await run_periodically("streams", self._tick, self._stopping, first_seconds=self._tick_seconds)

    async def _tick(self) -> float:
        # A client that comes during the query may have got a newer update already.
        followed = self._followers.all()
        if not followed:
            return self._tick_seconds

        async def notify(refs: Sequence[UUID]) -> None:
            for record in await self._trainings.find_trainings(refs):
                update = Update.of(record)
                for follower in followed[record.ref]:
                    follower.notify(update)

        self.aside.keep_only(followed)
        done = await self.aside.together(followed, notify, key=lambda ref: ref)
        if done.down:
            raise done.down
        return self._tick_seconds
