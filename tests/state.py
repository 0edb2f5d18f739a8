"""A tester's hands on the state service: its events, its rows, and a wire to Postgres that can be cut."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any, Self
from urllib.parse import urlsplit
from uuid import UUID, uuid4

from services.state.registration import Registration
from services.state.store import ROLE, Store
from services.state.store.outbox import StoredEvent
from shared.contract.envelope import CONTENT_TYPE, Envelope, decode, wrap
from shared.contract.events import (
    DESTINATION_UNKNOWN,
    Event,
    ExtractionFailed,
    ModelReady,
    TrainingCanceled,
    TrainingFailed,
    TrainingProgressed,
    TrainingStarted,
    TrainingSucceeded,
)
from shared.contract.identity import ModelName, ModelRef
from shared.contract.values import Evidence
from shared.runtime.postgres import Connection, connect
from tests.databases import opened_pool

NOON = datetime(2026, 11, 24, 12, tzinfo=UTC)
DESTINATION = ModelName("acme", "ada")
#: In the parameters of the statement that writes a batch, and of no other.
BATCH = b'"ref":"'


def model_of(training_id: str, destination: ModelName = DESTINATION) -> ModelRef:
    """The one model that a training makes."""
    return ModelRef(*destination, hashlib.sha256(training_id.encode()).hexdigest())


def envelope(event: Event, *, at: datetime = NOON) -> Envelope:
    return wrap(event, source="test", now=at)


def decoded(stored: StoredEvent) -> Envelope:
    """The event of a stored message, as a subscriber reads it."""
    return decode(stored.headers, CONTENT_TYPE, stored.body)


def replayed(event: Envelope, mark: str = "a-replay:1") -> Envelope:
    """*event* as an operator's replay hands it over."""
    return replace(event, replay=mark)


def started(training_id: str, *, ref: UUID | None = None) -> Envelope:
    return envelope(TrainingStarted(training_id=training_id, ref=ref))


def progressed(training_id: str, fraction: float | None, *, ref: UUID | None = None, **fields: Any) -> Envelope:
    return envelope(TrainingProgressed(training_id=training_id, ref=ref, fraction=fraction, **fields))


def succeeded(training_id: str, *, ref: UUID | None = None, **fields: Any) -> Envelope:
    output = {"version": str(model_of(training_id))}
    return envelope(TrainingSucceeded(training_id=training_id, ref=ref, **{"output": output, **fields}))


def failed(training_id: str, reason: str = "out of memory") -> Envelope:
    return envelope(TrainingFailed(training_id=training_id, reason=reason))


def canceled(training_id: str) -> Envelope:
    return envelope(TrainingCanceled(training_id=training_id, reason="canceled"))


def ready(
    training_id: str,
    *,
    model: ModelRef | None = None,
    ref: UUID | None = None,
    looked_up: bool = False,
    made_at: datetime | None = None,
    rivals: tuple[str, ...] = (),
) -> Envelope:
    evidence = Evidence(
        shape="version", looked_up=looked_up, made_at=made_at, rivals=rivals, checks=("exists",), seconds=0.5
    )
    return envelope(
        ModelReady(training_id=training_id, ref=ref, model=model or model_of(training_id), evidence=evidence)
    )


def not_verified(training_id: str, error: str = "short_version", *, request_id: UUID | None = None) -> Envelope:
    return envelope(
        ExtractionFailed(training_id=training_id, error=error, detail=f"{error}: no model", request_id=request_id)
    )


def destination_unknown(training_id: str) -> Envelope:
    return not_verified(training_id, DESTINATION_UNKNOWN)


def registration(user_id: str, training_id: str | None = None, **fields: Any) -> Registration:
    """A training of *user_id* that runs already, or, without an id, one that is to begin."""
    known: dict[str, Any] = {
        "ref": uuid4(),
        "destination": DESTINATION,
        "trainer": None,
        "trigger_word": "TOK",
        "total_steps": 1000,
    }
    return Registration(user_id=user_id, training_id=training_id, **{**known, **fields})


@contextlib.asynccontextmanager
async def opened_store(database_url: str, **options: int) -> AsyncIterator[Store]:
    """A store as the service has it: in the role that may do little."""
    async with opened_pool(database_url, role=ROLE, plans_once=True, **options) as pool:
        yield Store(pool)


@contextlib.asynccontextmanager
async def connected(database_url: str) -> AsyncIterator[Connection]:
    """A connection as whoever *database_url* logs in as: the owner."""
    connection = await connect(database_url, application_name="test")
    try:
        yield connection
    finally:
        await connection.close()


async def execute(database_url: str, statement: str, *values: Any) -> None:
    """Run a statement as the owner."""
    async with connected(database_url) as connection:
        await connection.execute(statement, *values)


async def until_blocked_by(database_url: str, pid: int) -> None:
    """Wait until another session waits for a lock of the one with this *pid*."""
    async with connected(database_url) as connection, asyncio.timeout(60):
        waits = "SELECT EXISTS (SELECT FROM pg_stat_activity WHERE $1 = ANY(pg_blocking_pids(pid)))"
        while not await connection.fetchval(waits, pid):
            await asyncio.sleep(0.01)


class Wire:
    """A TCP connection to Postgres that passes everything on, until told otherwise."""

    def __init__(self, database_url: str) -> None:
        self._url = urlsplit(database_url)
        self._links: set[asyncio.StreamWriter] = set()
        self._swallow: bytes | None = None
        self._is_dead = False
        self._is_silent = False
        #: How many answers were swallowed.
        self.swallowed = 0

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        port = self._server.sockets[0].getsockname()[1]
        login, at, _ = self._url.netloc.rpartition("@")
        self.url = self._url._replace(netloc=f"{login}{at}127.0.0.1:{port}").geturl()
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        self.cut()
        await self._server.wait_closed()

    def cut(self) -> None:
        """Every connection breaks now."""
        for link in self._links:
            link.transport.abort()

    def swallow_answer_to(self, words: bytes) -> None:
        """Postgres gets the next request with *words* and carries it out; whoever sent it never hears of that."""
        self._swallow = words

    def silence(self) -> None:
        """Postgres says nothing any more, and does not hang up."""
        self._is_silent = True

    def refuse(self) -> None:
        """Postgres is away: every connection breaks, and no new one is let in."""
        self._is_dead = True
        self.cut()

    def admit(self) -> None:
        """Postgres is back."""
        self._is_dead = False

    def restore(self) -> None:
        self._is_dead = False

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._links.add(writer)
        try:
            if self._is_dead:
                return
            up_reader, up_writer = await asyncio.open_connection(self._url.hostname, self._url.port)
            self._links.add(up_writer)
            with contextlib.suppress(ConnectionError):
                await asyncio.gather(self._up(reader, up_writer, writer), self._down(up_reader, writer))
            self._links.discard(up_writer)
            up_writer.transport.abort()
        finally:
            self._links.discard(writer)
            writer.transport.abort()

    async def _up(
        self,
        reader: asyncio.StreamReader,
        up_writer: asyncio.StreamWriter,
        writer: asyncio.StreamWriter,
    ) -> None:
        while data := await reader.read(65536):
            if self._swallow is not None and self._swallow in data:
                self._swallow = None
                self.swallowed += 1
                writer.transport.abort()
                up_writer.write(data)
                # Nobody reads the answer, but Postgres ends the session in order: what it was sent is carried out.
                up_writer.write_eof()
                return
            up_writer.write(data)
            await up_writer.drain()
        up_writer.transport.abort()

    async def _down(self, up_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await up_reader.read(65536):
            if not (self._is_silent or writer.transport.is_closing()):
                writer.write(data)
        writer.transport.abort()
