"""A tester's hands on replays: letters put straight into the archive, and an engine whose broker is a list."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID, uuid4

from services.ops.letters.letter import ReplayMark
from services.ops.letters.views import Filter
from services.ops.migrate import ROLE
from services.ops.replays.api import create_router
from services.ops.replays.engine import Engine
from services.ops.replays.messages import StoredLetter
from services.ops.replays.plan import Outcome, Status, Step
from services.ops.replays.records import NewReplay, Revert
from services.ops.replays.store import Store
from services.ops.replays.streams import ReplayStreams
from services.ops.replays.views import ReplayView, StartReplay
from services.ops.replays.waiting import Waiting
from shared.contract.envelope import REPLAY_HEADER, Envelope
from shared.contract.errors import DependencyDown
from shared.contract.events import ReplaySettled
from shared.contract.health import Seen
from shared.contract.preview import Answer, Message
from shared.contract.topology import STATE_QUEUE, topology
from shared.contract.values import Effect
from shared.runtime.broker import Outgoing
from shared.runtime.http import Router
from tests.databases import opened_pool
from tests.ops import Letters
from tests.state import NOON, connected, model_of, ready

_INSERT = """
    INSERT INTO ops.letters
        (digest, queue, exchange, routing_key, content_type, headers, body, event_type, event_id, training_id, user_id,
         error_code, error_class, error_text, traceback, attempts, first_failed_at, last_failed_at, fingerprint)
    VALUES ($1, $2, 'modelswap.events', $2, $3, $4, $5, $6, $1, $7, $8, $9, 'NoModel', $10, '', 1, $11, $11, $12)
    RETURNING number
"""


def letter_of(event: Envelope, **changes: Any) -> StoredLetter:
    """The letter that *event* became."""
    known: dict[str, Any] = {
        "number": 1,
        "queue": STATE_QUEUE,
        "headers": event.headers(),
        "content_type": "application/json",
        "body": event.body(),
        "event_type": event.event.key,
        "training_id": event.event.training_id,
        "error_code": "no_model",
        "first_failed_at": NOON,
    }
    return StoredLetter(**{**known, **changes})


async def archive(
    database_url: str, *letters: StoredLetter, fingerprint: str = "a-cause", user_id: str | None = None
) -> list[int]:
    """Put *letters* into the archive; their numbers."""
    async with connected(database_url) as connection:
        return [
            await connection.fetchval(
                _INSERT,
                uuid4().hex,
                each.queue,
                each.content_type,
                json.dumps(each.headers),
                each.body,
                each.event_type,
                each.training_id,
                user_id,
                each.error_code,
                f"{each.error_code}: it did not work",
                NOON,
                fingerprint,
            )
            for each in letters
        ]


async def archive_many(database_url: str, count: int, **kwargs: Any) -> list[int]:
    """Letters about as many trainings, named t1, t2 and so on."""
    return await archive(database_url, *(letter_of(ready(f"t{number}")) for number in range(1, count + 1)), **kwargs)


def order(
    letters: Sequence[int] | Filter,
    *,
    steps: Sequence[Step] = ("rest",),
    rate_per_second: float = 1000.0,
    stop_share: float = 0.2,
    is_dry_run: bool = False,
    edited_body: bytes | None = None,
    reason: str = "the bug is fixed",
) -> NewReplay:
    wanted = StartReplay(
        reason=reason,
        letters=None if isinstance(letters, Filter) else tuple(letters),
        filter=letters if isinstance(letters, Filter) else None,
        rate_per_second=rate_per_second,
        steps=tuple(steps),
        stop_when_failed_share=stop_share,
        dry_run=is_dry_run,
    )
    return NewReplay(uuid4(), "ada", wanted, edited_body)


def settled(mark: str, effect: Effect = Effect.SWAPPED, **fields: Any) -> ReplaySettled:
    """What state says of the letter with that *mark*."""
    known: dict[str, Any] = {
        "training_id": "t1",
        "settled_by": "an-event",
        "event": "model.ready.v1",
        "user_id": "ada",
        "stage": "active",
        "generation": 5,
        "model": model_of("t1"),
        "previous": model_of("t0"),
    }
    return ReplaySettled(replay=mark, effect=effect, **{**known, **fields})


async def rows(database_url: str, statement: str, *values: Any) -> list[tuple[Any, ...]]:
    async with connected(database_url) as connection:
        return [tuple(row.values()) for row in await connection.fetch(statement, *values)]


@contextlib.asynccontextmanager
async def opened_repairs(database_url: str) -> AsyncIterator[tuple[Letters, Store]]:
    """The stores of dead letters and of replays as the service has them: in the role that may do little."""
    async with opened_pool(database_url, role=ROLE) as pool:
        replays = Store(pool)
        yield Letters(pool, failed=replays.failed, notify=replays.notify), replays


@contextlib.asynccontextmanager
async def opened_replays(database_url: str) -> AsyncIterator[Store]:
    async with opened_repairs(database_url) as (_, replays):
        yield replays


@dataclass
class Listed:
    """A broker, as a list of what it confirmed; it takes what its *gate* lets through."""

    taken: list[Outgoing] = field(default_factory=list)
    gate: Callable[[Outgoing], None] = lambda _: None
    changed: asyncio.Event = field(default_factory=asyncio.Event)

    async def publish(self, message: Outgoing) -> None:
        self.gate(message)
        self.taken.append(message)
        self.changed.set()

    @property
    def marks(self) -> list[str]:
        return [str(message.headers[REPLAY_HEADER]) for message in self.taken]


@dataclass
class Answering:
    """The other services, which say what they are told to."""

    extractor: Callable[[Message], Answer] = lambda _: Answer()
    state: Callable[[Message], Answer] = lambda _: Answer()
    #: Why a user's model stays as it is, by user; all others' are taken back.
    kept: Mapping[str, str] = field(default_factory=dict)
    reverted: list[Revert] = field(default_factory=list)
    #: Of whom nobody can say anything.
    unknown: set[str] = field(default_factory=set)

    async def preview_extractor(self, message: Message) -> Answer:
        return self.extractor(message)

    async def preview_state(self, message: Message) -> Answer:
        return self.state(message)

    async def revert_model(self, revert: Revert, *, dry_run: bool = False) -> str | None:
        if revert.user_id in self.unknown:
            raise DependencyDown(f"nobody knows about {revert.user_id}")
        if not dry_run:
            self.reverted.append(revert)
        return self.kept.get(revert.user_id)


def shown_replay(
    outcomes: Mapping[Outcome, int] | None = None, predictions: Mapping[Outcome, int] | None = None, **changes: Any
) -> ReplayView:
    """A replay as the API shows it."""
    known: dict[str, Any] = {
        "id": UUID(int=1),
        "number": 1,
        "created_at": NOON,
        "actor": "olga",
        "reason": "parser mended",
        "selection": {"group": "f"},
        "rate_per_second": 1.0,
        "steps": [1, 9],
        "stop_when_failed_share": 0.2,
        "status": Status.RUNNING,
        "status_reason": "",
        "trouble": "",
        "started_at": NOON,
        "ended_at": None,
        "outcomes": outcomes or {},
        "predictions": predictions or {},
        "arrived_since": 0,
        "undo": None,
    }
    return ReplayView(**{**known, **changes})


async def nothing_seen() -> Mapping[str, Seen]:
    """No process was looked at."""
    return {}


def routes(
    store: Store,
    services: Answering | None = None,
    *,
    waiting: Waiting | None = None,
    streams: ReplayStreams | None = None,
) -> Router:
    """The operators' routes for replays; without a *streams*, those who follow one get the first event alone."""
    waiting, stopping = waiting or Waiting(nothing_seen), asyncio.Event()
    stopping.set()
    silent = ReplayStreams(store, waiting, stopping, limit=10)
    return create_router(store, waiting, services or Answering(), streams or silent)


@contextlib.asynccontextmanager
async def running_engine(store: Store, broker: Listed, services: Answering | None = None) -> AsyncIterator[None]:
    stopping = asyncio.Event()
    engine = Engine(store, broker, services or Answering(), topology(), pause_seconds=0.05)
    task = asyncio.create_task(engine.run(stopping))
    try:
        yield
    finally:
        stopping.set()
        await asyncio.wait_for(task, 10)


async def until_found(store: Store, replay_id: UUID, is_so: Callable[[ReplayView], object]) -> ReplayView:
    """Wait until the replay is as wanted."""
    async with asyncio.timeout(60):
        while True:
            record = await store.find(replay_id)
            if record is not None and is_so(record):
                return record
            await asyncio.sleep(0.02)


async def until(store: Store, replay_id: UUID, *statuses: Status) -> ReplayView:
    """Wait until the replay has one of *statuses*."""
    return await until_found(store, replay_id, lambda record: record.status in statuses)


async def until_trouble(store: Store, replay_id: UUID) -> ReplayView:
    """Wait until it is said what holds up the replay."""
    return await until_found(store, replay_id, lambda record: record.trouble)


async def say(store: Store, *events: ReplaySettled) -> None:
    """State says what letters came to."""
    by_mark: dict[ReplayMark, list[ReplaySettled]] = {}
    for event in events:
        mark = ReplayMark.parse(event.replay)
        assert mark is not None
        by_mark.setdefault(mark, []).append(event)
    await store.settle(by_mark)
