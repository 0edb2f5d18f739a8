"""
How does a client follow a training? Edge: asks for all that are followed at once, and tells each client what is new.

A tick is one statement, however many clients follow however many trainings, and nothing is asked while nobody does.
There is no LISTEN: commits that notify wait for each other, so every swap would pay for it; what is missed while the
connection is away would need the tick all the same; and guesses move with the clock, which notifies nobody.

A client that is slow, or gone, is told only the latest. What an update is called comes from the row that it shows, and
means the same after a restart and in another process: whoever comes back with the last one they saw is told of nothing
else, and of what they missed only how it ended.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final, Protocol
from uuid import UUID

import structlog

from services.state.records import TrainingRecord
from services.state.transitions import Stage
from services.state.views import training_view
from shared.contract.errors import TransientError
from shared.runtime import telemetry
from shared.runtime.aside import SetAside
from shared.runtime.waiting import wait_for_any

log = structlog.get_logger()

_TICK_SECONDS: Final = 1.0
#: A line that says nothing keeps proxies from hanging up.
_HEARTBEAT_SECONDS: Final = 15.0
_HEARTBEAT: Final = b":\n\n"
#: When to come back after a break.
_RETRY: Final = b"retry: 2000\n\n"

_UNDERWAY: Final = (Stage.REQUESTED, Stage.RUNNING, Stage.VERIFYING)
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


class TooManyStreams(TransientError):  # noqa: N818 (it is what was seen, and reads as one)
    """As many clients follow trainings as one process bears."""

    code = "too_many_streams"


class Trainings(Protocol):
    """Where trainings are kept."""

    async def find_trainings(self, refs: Sequence[UUID]) -> list[TrainingRecord]: ...


@dataclass(frozen=True, slots=True)
class Update:
    """A training as it was at a moment."""

    #: Postgres's time of the last change of its row, and how far it was shown to be.
    id: str
    stage: Stage
    data: str

    @classmethod
    def of(cls, record: TrainingRecord) -> Update:
        changed = (record.updated_at - _EPOCH) // timedelta(microseconds=1)
        # What was never set is left out, as it is in the other answers.
        data = training_view(record).model_dump_json(exclude_unset=True)
        return cls(f"{changed}-{record.shown.percent:03}", record.stage, data)

    @property
    def is_last(self) -> bool:
        """Does nothing follow by itself?"""
        return self.stage not in _UNDERWAY

    def encode(self, event: str) -> bytes:
        return f"id: {self.id}\nevent: {event}\ndata: {self.data}\n\n".encode()


class Follower:
    """One client."""

    def __init__(
        self, update: Update, last_event_id: str | None, stopping: asyncio.Event, heartbeat_seconds: float
    ) -> None:
        """*last_event_id* is the last one that the client saw."""
        self._latest = update
        self._seen = last_event_id
        self._stage: Stage | None = None
        self._news = asyncio.Event()
        self._stopping = stopping
        self._heartbeat_seconds = heartbeat_seconds

    def tell(self, update: Update) -> None:
        """What was not sent yet is forgotten."""
        if update.id != self._latest.id:
            self._latest = update
            self._news.set()

    async def chunks(self) -> AsyncGenerator[bytes, None]:
        """What to send, until the training has ended or this process does."""
        yield _RETRY
        while not self._stopping.is_set():
            self._news.clear()
            update = self._latest
            if update.id != self._seen:
                yield update.encode("progress" if update.stage == self._stage else "stage")
                self._seen, self._stage = update.id, update.stage
            if update.is_last:
                return
            await wait_for_any(self._news, self._stopping, seconds=self._heartbeat_seconds)
            if not self._news.is_set():
                yield _HEARTBEAT


class Watcher:
    """Asks for what is followed."""

    def __init__(
        self,
        trainings: Trainings,
        stopping: asyncio.Event,
        *,
        limit: int,
        aside: SetAside[UUID],
        tick_seconds: float = _TICK_SECONDS,
        heartbeat_seconds: float = _HEARTBEAT_SECONDS,
    ) -> None:
        """
        At most *limit* clients at a time; all are let go once *stopping* is set.

        *aside* holds the trainings that can not be shown, by their refs.
        """
        self._trainings = trainings
        self._stopping = stopping
        self._limit = limit
        self._aside = aside
        self._tick_seconds = tick_seconds
        self._heartbeat_seconds = heartbeat_seconds
        self._followers: dict[UUID, set[Follower]] = {}
        self._somebody = asyncio.Event()
        self._is_away = False

    @property
    def count(self) -> int:
        """How many clients there are."""
        return sum(map(len, self._followers.values()))

    @contextmanager
    def followed(self, record: TrainingRecord, last_event_id: str | None) -> Iterator[Follower]:
        """
        A client that follows *record*, as long as it stays.

        Raises:
            TooManyStreams: if there are as many already as may be.

        """
        if self.count >= self._limit:
            raise TooManyStreams(f"{self._limit} clients follow trainings already")
        follower = Follower(Update.of(record), last_event_id, self._stopping, self._heartbeat_seconds)
        followers = self._followers.setdefault(record.ref, set())
        followers.add(follower)
        self._somebody.set()
        telemetry.streams.inc()
        try:
            yield follower
        finally:
            telemetry.streams.dec()
            followers.discard(follower)
            if not followers:
                self._followers.pop(record.ref, None)

    async def run(self) -> None:
        """Ask, for as long as the process runs and through every loss of Postgres."""
        while not self._stopping.is_set():
            if not self._followers:
                self._somebody.clear()
                await wait_for_any(self._somebody, self._stopping)
            await self._tick()
            await wait_for_any(self._stopping, seconds=self._tick_seconds)

    async def _tick(self) -> None:
        # Who comes while we ask has seen what is newer, maybe.
        asked = {ref: tuple(followers) for ref, followers in self._followers.items()}
        if not asked:
            return

        async def tell(refs: Sequence[UUID]) -> None:
            for record in await self._trainings.find_trainings(refs):
                update = Update.of(record)
                for follower in asked[record.ref]:
                    follower.tell(update)

        self._aside.keep_only(asked)
        down = (await self._aside.together(asked, tell, key=_itself)).down
        if down and not self._is_away:
            log.warning("streams.delayed", error=down.code, detail=str(down), streams=self.count)
        self._is_away = down is not None


def _itself(ref: UUID) -> UUID:
    return ref
