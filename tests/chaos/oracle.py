"""
Judge a chaos run, while it goes on and at its end, by the script and the fence, without any code of the product.

The fence: every training of a user draws the next generation when it is requested. Of a user's verified trainings, the
one requested last wins, in whatever order they end.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections import defaultdict
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple, Self

import aio_pika
import asyncpg
from yarl import URL

from services.simulator.job import Status
from services.simulator.training import Training
from tests.chaos.script import Ending, ScriptedWorld

_EXCHANGE: Final = "modelswap.events"
_QUEUE: Final = "oracle"
_POLL_SECONDS: Final = 0.1
#: How the loss of a connection shows itself; the last one where it is lost between two answers.
_AWAY: Final = (
    OSError,
    EOFError,
    TimeoutError,
    asyncpg.PostgresError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,
)

_MODELS: Final = """
    SELECT m.user_id, m.generation, m.model, t.training_id
    FROM state.user_models m LEFT JOIN state.trainings t ON t.ref = m.ref
"""
_TRAININGS: Final = (
    "SELECT ref::text, training_id, user_id, generation, stage, model, failure_code FROM state.trainings"
)
_HISTORY: Final = "SELECT user_id, generation, model, previous_model FROM state.model_history ORDER BY at, generation"
_LETTERS: Final = "SELECT training_id, queue, error_code, error_text FROM ops.letters WHERE status = 'open'"
_UNPUBLISHED: Final = "SELECT count(*) FROM state.outbox WHERE published_at IS NULL"
_FINAL: Final = ("active", "replaced", "superseded", "failed", "canceled", "unverified")
_PROVED_GOOD: Final = ("active", "replaced", "superseded")


_Rows = Sequence[Mapping[str, Any]]


class Wrong(NamedTuple):
    """Something that must not be; *about* is a training's id, a ref or a user, to be looked for in logs."""

    about: str
    what: str


class Use(NamedTuple):
    """Which model a user uses."""

    user: str
    generation: int
    model: str


class Subscriber:
    """A subscriber of the public events, as another service of the product is one."""

    def __init__(self, url: str) -> None:
        self._url = url
        self.activated: set[Use] = set()
        #: The routing keys of all events, with the training they are about.
        self.heard: set[tuple[str, str]] = set()
        self._is_over = False

    async def __aenter__(self) -> Self:
        async with self._channel() as channel:
            queue = await channel.declare_queue(_QUEUE, durable=True, arguments={"x-queue-type": "quorum"})
            await queue.bind(_EXCHANGE, "#")
        self._listening = asyncio.create_task(self._listen())
        return self

    async def __aexit__(self, *_: object) -> None:
        # Not canceled: the library may take that for the loss of a connection, and we would listen on.
        self._is_over = True
        await self._listening
        with contextlib.suppress(OSError, TimeoutError, aio_pika.exceptions.AMQPError):
            async with self._channel() as channel:
                await channel.queue_delete(_QUEUE)

    @contextlib.asynccontextmanager
    async def _channel(self) -> AsyncIterator[aio_pika.abc.AbstractChannel]:
        # Entered before it connects, so that it is closed here whatever happens: otherwise the garbage collector closes
        # it, where no event loop runs.
        async with aio_pika.Connection(URL(self._url)) as connection:
            await connection.connect(timeout=5)
            async with connection.channel() as channel:
                yield channel

    async def _listen(self) -> None:
        while not self._is_over:
            with contextlib.suppress(OSError, RuntimeError, TimeoutError, aio_pika.exceptions.AMQPError):
                async with self._channel() as channel:
                    queue = await channel.get_queue(_QUEUE, ensure=False)
                    while not self._is_over:
                        # Not a consumer: one whose connection dies waits for ever.
                        await self._drain(queue)
                        await asyncio.sleep(_POLL_SECONDS)
            await asyncio.sleep(_POLL_SECONDS)

    async def _drain(self, queue: aio_pika.abc.AbstractQueue) -> None:
        while (message := await queue.get(fail=False, timeout=5)) is not None:
            event = json.loads(message.body)
            self.heard.add((message.routing_key or "", event["training_id"]))
            if message.routing_key == "model.activated.v1":
                self.activated.add(Use(event["user_id"], event["generation"], event["model"]))
            await message.ack()


@dataclass
class Oracle:
    """Watches a run, and says what is wrong with it."""

    world: ScriptedWorld
    database_url: str
    subscriber: Subscriber
    wrong: set[Wrong] = field(default_factory=set)
    #: How often all models were read.
    looks: int = 0
    _used: dict[str, Use] = field(default_factory=dict)
    _is_over: bool = False

    @contextlib.asynccontextmanager
    async def watching(self) -> AsyncIterator[None]:
        """Look at all models all the time, whenever Postgres answers."""
        task = asyncio.create_task(self._watch())
        try:
            yield
        finally:
            self._is_over = True
            await task

    async def _watch(self) -> None:
        while not self._is_over:
            with contextlib.suppress(*_AWAY):
                connection = await asyncpg.connect(self.database_url)
                try:
                    while not self._is_over:
                        self._judge(await _fetch(connection, _MODELS))
                        await asyncio.sleep(_POLL_SECONDS)
                finally:
                    connection.terminate()
            await asyncio.sleep(_POLL_SECONDS)

    def _judge(self, rows: _Rows) -> None:
        self.looks += 1
        now = {row["user_id"]: Use(row["user_id"], row["generation"], row["model"]) for row in rows}
        for user in self._used.keys() - now.keys():
            self._blame(user, f"{user} has no model any more, after {self._used[user]}")
        for row in rows:
            use = now[row["user_id"]]
            self._judge_model(use, row["training_id"])
            before = self._used.get(use.user, use)
            if use.generation < before.generation or (use.generation == before.generation and use != before):
                self._blame(use.user, f"{before} became {use}")
        self._used |= now

    def _judge_model(self, use: Use, training_id: str | None) -> None:
        """Is it the model of a training of this user that succeeded, and that may prove good?"""
        maker = self.world.find_training(training_id or "")
        if maker is None or self.world.case_of(maker).user != use.user:
            self._blame(use.user, f"{use} is of training {training_id}, which is none of theirs")
        elif use.model != _model_of(maker) or "good" not in self._may_come_to(maker):
            self._blame(maker.id, f"{use} is no good model of training {maker.id}: {self.world.case_of(maker)}")

    def _may_come_to(self, training: Training) -> tuple[str, ...]:
        """What may become of a training that Replicate knows, by the script."""
        match training.life.outcome:
            case Status.FAILED:
                return ("failed",)
            case Status.CANCELED | Status.ABORTED:
                return ("canceled",)
        return {Ending.GOOD: ("good",), Ending.BAD: ("unverified",), Ending.EITHER: ("good", "unverified")}[
            self.world.case_of(training).ending
        ]

    async def missing(self) -> list[Wrong]:
        """What is not reached yet."""
        try:
            connection = await asyncpg.connect(self.database_url)
        except _AWAY as error:
            return [Wrong("postgres", f"does not answer: {error!r}")]
        try:
            return [wrong async for wrong in self._missing(connection)]
        finally:
            await connection.close()

    async def _missing(self, database: asyncpg.Connection) -> AsyncIterator[Wrong]:
        rows = await _fetch(database, _TRAININGS)
        known = {row["training_id"] for row in rows}
        for training in self.world.trainings():
            if training.id not in known:
                yield Wrong(training.id, "is not registered")
        letters = {row["training_id"] for row in await _fetch(database, _LETTERS)}
        for row in rows:
            name = row["training_id"] or row["ref"]
            if row["stage"] not in _FINAL:
                yield Wrong(name, f"is still {row['stage']}")
            if row["stage"] == "unverified" and row["training_id"] not in letters:
                yield Wrong(name, "is unverified, but no dead letter says why")
            if (
                row["stage"] == "superseded"
                and ("model.superseded.v1", row["training_id"]) not in self.subscriber.heard
            ):
                yield Wrong(name, "is superseded, but that was not published")
        for row in await _fetch(database, _HISTORY):
            use = Use(row["user_id"], row["generation"], row["model"])
            if use not in self.subscriber.activated:
                yield Wrong(use.user, f"{use} was not published")
        if waiting := await database.fetchval(_UNPUBLISHED):
            yield Wrong("outbox", f"has {waiting} events that are not published")

    async def verdict(self) -> set[Wrong]:
        """All that was wrong, at the end of a run in which nothing is `missing` any more."""
        database = await asyncpg.connect(self.database_url)
        try:
            self._judge(await _fetch(database, _MODELS))
            rows = await _fetch(database, _TRAININGS)
            self._judge_stages(rows)
            self._judge_history(rows, await _fetch(database, _HISTORY))
            self._judge_letters(rows, await _fetch(database, _LETTERS))
        finally:
            await database.close()
        for number, times in self.world.started.items():
            if times > 1:
                self._blame(f"case {number}", f"was started {times} times")
        return self.wrong

    def _judge_stages(self, rows: _Rows) -> None:
        newest: dict[str, Use] = {}
        for row in rows:
            stage, name = row["stage"], row["training_id"] or row["ref"]
            training = self.world.find_training(row["training_id"] or "")
            if training is None:
                if (stage, row["failure_code"]) != ("failed", "not_started"):
                    self._blame(name, f"is {stage}, {row['failure_code']}, but Replicate knows no such training")
                continue
            case = self.world.case_of(training)
            if row["user_id"] != case.user:
                self._blame(name, f"is one of {case.user}, but is registered with {row['user_id']}")
            if ("good" if stage in _PROVED_GOOD else stage) not in self._may_come_to(training):
                self._blame(name, f"is {stage} ({row['failure_code']}), not {self._may_come_to(training)}: {case}")
            if stage in _PROVED_GOOD:
                use = Use(case.user, row["generation"], _model_of(training))
                newest[case.user] = max(use, newest.get(case.user, use), key=lambda each: each.generation)
        # The fence.
        for user in newest.keys() | self._used.keys():
            if newest.get(user) != self._used.get(user):
                self._blame(user, f"uses {self._used.get(user)}, and should use {newest.get(user)}")

    def _judge_history(self, rows: _Rows, history: _Rows) -> None:
        made = {Use(row["user_id"], row["generation"], row["model"]): row for row in rows if row["model"]}
        used: defaultdict[str, list[Use]] = defaultdict(list)
        for entry in history:
            use = Use(entry["user_id"], entry["generation"], entry["model"])
            if use not in made:
                self._blame(use.user, f"{use} is in the history, but no training of theirs made it")
            before = used[use.user][-1] if used[use.user] else None
            if before and (use.generation <= before.generation or entry["previous_model"] != before.model):
                self._blame(use.user, f"{use} followed {before}, in place of {entry['previous_model']}")
            used[use.user].append(use)
        for use, row in made.items():
            was_used = use in used[use.user]
            stage = "superseded" if not was_used else "active" if use == used[use.user][-1] else "replaced"
            if row["stage"] != stage:
                self._blame(row["training_id"], f"{use} is {row['stage']}, and should be {stage}")
        for use in self.subscriber.activated - {each for several in used.values() for each in several}:
            self._blame(use.user, f"{use} was published, but never committed")

    def _judge_letters(self, rows: _Rows, letters: _Rows) -> None:
        unverified = {row["training_id"] for row in rows if row["stage"] == "unverified"}
        for letter in letters:
            training = self.world.find_training(letter["training_id"] or "")
            if training and self._was_looked_up_too_soon(training, letter["error_code"]):
                continue
            if letter["training_id"] not in unverified:
                what = f"{letter['error_code']} in {letter['queue']}: {letter['error_text']}"
                self._blame(str(letter["training_id"]), f"has a dead letter that should not be: {what}")

    def _was_looked_up_too_soon(self, training: Training, error_code: str) -> bool:
        """Whether more trainings ran than the extractor reads; a late webhook may still have named the model."""
        return error_code == "ambiguous" and self.world.case_of(training).ending is Ending.EITHER

    def _blame(self, about: str, what: str) -> None:
        self.wrong.add(Wrong(about, what))


async def _fetch(database: asyncpg.Connection, statement: str) -> list[dict[str, Any]]:
    return [dict(row) for row in await database.fetch(statement, timeout=10)]


def _model_of(training: Training) -> str:
    return f"{training.destination}:{training.makes}"
