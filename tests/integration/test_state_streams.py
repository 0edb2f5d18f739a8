"""What does a client see that follows a training? Server-sent events over a real Postgres and a real socket."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Sequence
from datetime import timedelta
from functools import partial
from typing import Any, cast
from uuid import UUID

import httpx
import pytest

from services.state.api import WebhookAddress, create_api
from services.state.store import Store
from services.state.streams import Update, Watcher
from services.state.transitions import Stage
from services.state.views import TrainingView
from shared.contract.events import TrainingProgressed, TrainingStarted
from shared.runtime.clock import now
from shared.runtime.health import reporter
from shared.runtime.http import create_app
from shared.runtime.lifecycle import serve
from shared.runtime.settings_base import Settings
from shared.runtime.sse import EventStream
from tests.sse import Sent, following
from tests.stack import free_port
from tests.state import (
    NOON,
    Wire,
    canceled,
    envelope,
    failed,
    not_verified,
    opened_store,
    progressed,
    ready,
    registration,
    started,
    succeeded,
)

TOKEN = "token-of-the-product"
_TICK_SECONDS = 0.05


class Counting:
    """A store that counts how often it is asked what watchers ask."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self.asked: list[int] = []

    async def find_trainings(self, refs: Sequence[UUID]) -> Sequence[TrainingView]:
        self.asked.append(len(refs))
        return await self._store.find_trainings(refs)


class Process:
    """What of a state process serves streams."""

    def __init__(self, store: Store, *, limit: int) -> None:
        self.stopping = asyncio.Event()
        self.store = Counting(store)
        self.watcher = Watcher(self.store, self.stopping, limit=limit, tick_seconds=_TICK_SECONDS)
        self.port = free_port()
        address = WebhookAddress("https://hooks.example.com", ["secret"])
        api = create_api(store, cast("Any", None), self.watcher, webhook=address, api_tokens=[TOKEN])
        self._app = create_app(api, reporter({}))

    async def run(self) -> None:
        await asyncio.gather(self.watcher.run(), serve(self._app, Settings(), port=self.port, stopping=self.stopping))

    async def until_followed_by(self, clients: int) -> None:
        async with asyncio.timeout(60):
            while self.watcher.count != clients:
                await asyncio.sleep(0.01)


@contextlib.asynccontextmanager
async def running(store: Store, *, limit: int = 100) -> AsyncIterator[tuple[Process, httpx.AsyncClient]]:
    process = Process(store, limit=limit)
    serving = asyncio.create_task(process.run())
    async with httpx.AsyncClient(
        base_url=f"http://127.0.0.1:{process.port}",
        headers={"Authorization": f"Bearer {TOKEN}"},
        timeout=60,
        limits=httpx.Limits(max_connections=None),
    ) as client:
        try:
            async with asyncio.timeout(60):
                while not await is_up(client):
                    await asyncio.sleep(0.02)
            yield process, client
        finally:
            process.stopping.set()
            await serving


async def is_up(client: httpx.AsyncClient) -> bool:
    with contextlib.suppress(httpx.TransportError):
        return (await client.get("/livez")).is_success
    return False


@pytest.fixture
async def store(database_url: str) -> AsyncIterator[Store]:
    async with opened_store(database_url) as store:
        await store.adopt(registration("ada", "t1"))
        yield store


def said(sent: Sent) -> tuple[str, str, int]:
    return sent.event, sent.training["stage"], sent.training["progress"]


async def test_a_training_is_followed_from_its_request_to_the_swap(store):
    async with running(store) as (_, client), following(client, "t1") as stream:
        seen = [await anext(stream)]
        await store.apply([started("t1")])
        seen.append(await anext(stream))
        for fraction in (0.2, 0.6):
            await store.record_progress([progressed("t1", fraction)])
            seen.append(await anext(stream))
        await store.apply([succeeded("t1")])
        seen.append(await anext(stream))
        await store.apply([ready("t1")])
        seen += [sent async for sent in stream]

    assert [said(sent) for sent in seen] == [
        ("stage", "requested", 0),
        ("stage", "running", 0),
        ("progress", "running", 20),
        ("progress", "running", 60),
        ("stage", "verifying", 99),
        ("stage", "active", 100),
    ]
    assert [sent.id for sent in seen] == sorted({sent.id for sent in seen})


async def test_a_correction_is_told_to_whoever_follows(store):
    async with running(store) as (_, client), following(client, "t1") as stream:
        await anext(stream)
        seen = []
        for second, (step, total) in enumerate([(225, 225), (24, 2400)]):
            misread = TrainingProgressed(training_id="t1", step=step, total=total, fraction=step / total)
            await store.record_progress([envelope(misread, at=NOON + timedelta(seconds=second))])
            seen.append(await anext(stream))

    assert [sent.training["progress"] for sent in seen] == [99, 1]


async def test_an_event_says_what_a_get_says(store):
    async with running(store) as (_, client), following(client, "t1") as stream:
        sent = await anext(stream)
        got = (await client.get("/v1/trainings/t1")).json()

    assert sent.training == got


async def test_a_training_is_followed_by_our_own_id_too(store):
    record = await store.find_training("t1")
    async with running(store) as (_, client), following(client, str(record.ref)) as stream:
        assert (await anext(stream)).training["training_id"] == "t1"


@pytest.mark.parametrize("end", [ready, failed, canceled, not_verified])
async def test_of_a_training_that_has_ended_the_end_is_said_once(store, end):
    await store.apply([end("t1")])

    async with running(store) as (_, client):
        async with following(client, "t1") as stream:
            seen = [sent async for sent in stream]
        again = await client.get("/v1/trainings/t1/events", headers={"Last-Event-ID": seen[-1].id})

    assert len(seen) == 1
    assert (again.status_code, again.content) == (204, b"")


async def test_whoever_comes_back_is_told_only_what_they_missed(store):
    await store.apply([started("t1")])
    async with running(store) as (_, client), following(client, "t1") as stream:
        last = (await anext(stream)).id

    async with running(store) as (_, client), following(client, "t1", last) as stream:
        # Had there been anything to say, it would have come first.
        await store.record_progress([progressed("t1", 0.3)])
        first = await anext(stream)
    for fraction in (0.4, 0.5):
        await store.record_progress([progressed("t1", fraction)])
    async with running(store) as (_, client), following(client, "t1", first.id) as stream:
        missed = await anext(stream)

    assert first.training["progress"] == 30
    assert missed.training["progress"] == 50


async def test_an_id_that_we_never_gave_is_told_everything(store):
    async with running(store) as (_, client), following(client, "t1", "somebody else's; 1'--") as stream:
        assert (await anext(stream)).training["stage"] == "requested"


async def test_a_guess_moves_with_the_clock(store):
    at = now() - timedelta(minutes=3)
    await store.apply([envelope(TrainingStarted(training_id="t1", started_at=at))])

    async with running(store) as (_, client), following(client, "t1") as stream:
        first, second = await anext(stream), await anext(stream)

    assert (second.event, second.training["updated_at"]) == ("progress", first.training["updated_at"])
    assert second.training["progress"] > first.training["progress"]


@pytest.mark.parametrize("clients", [1, 40])
async def test_however_many_clients_follow_a_tick_is_one_question(store, clients):
    for number in range(2, 5):
        await store.adopt(registration(f"user{number}", f"t{number}"))
    async with running(store) as (process, client), contextlib.AsyncExitStack() as stack:
        streams = [
            await stack.enter_async_context(following(client, f"t{1 + number % 4}")) for number in range(clients)
        ]
        for stream in streams:
            await anext(stream)
        await process.until_followed_by(clients)
        process.store.asked.clear()

        began = asyncio.get_running_loop().time()
        async with asyncio.timeout(60):
            while len(process.store.asked) < 5:
                await asyncio.sleep(0.01)

        asked, took = list(process.store.asked), asyncio.get_running_loop().time() - began

    assert len(asked) <= 2 + took / _TICK_SECONDS
    assert set(asked) == {min(clients, 4)}


async def test_nothing_is_asked_while_nobody_follows(store):
    async with running(store) as (process, client):
        async with following(client, "t1") as stream:
            await anext(stream)
        await process.until_followed_by(0)
        await asyncio.sleep(0.1)
        process.store.asked.clear()

        await asyncio.sleep(0.3)

        assert process.store.asked == []


async def test_a_slow_client_delays_no_other_and_gets_the_latest(store):
    async with running(store) as (process, client):
        record = await store.find_training("t1")
        with process.watcher.followed(record, None) as slow:
            chunks = slow.chunks()
            assert await anext(chunks) == b"retry: 2000\n\n"
            async with following(client, "t1") as stream:
                await anext(stream)
                await store.apply([started("t1")])
                for percent in range(1, 20):
                    await store.record_progress([progressed("t1", percent / 100)])
                while (await anext(stream)).training["progress"] != 19:
                    pass
            found = await anext(chunks)
            await chunks.aclose()

    assert found.startswith(b"id: ")
    assert b'"progress":19' in found


async def test_a_client_that_vanishes_leaves_its_place(store):
    async with running(store, limit=1) as (process, client):
        with socket.create_connection(("127.0.0.1", process.port)) as raw:
            raw.sendall(
                f"GET /v1/trainings/t1/events HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {TOKEN}\r\n\r\n".encode()
            )
            await process.until_followed_by(1)
            refused = await client.get("/v1/trainings/t1/events")
        await process.until_followed_by(0)
        async with following(client, "t1") as stream:
            assert (await anext(stream)).event == "stage"

    assert (refused.status_code, refused.headers["content-type"]) == (503, "application/problem+json")
    assert refused.headers["retry-after"] == "5"


async def test_an_unreadable_training_stops_no_other_stream(store):
    class Poisoned(Counting):
        async def find_trainings(self, refs: Sequence[UUID]) -> Sequence[TrainingView]:
            found = await super().find_trainings(refs)
            if any(record.training_id == "poison" for record in found):
                raise ValueError("a row of another version")
            return found

    for training_id in ("poison", "t2"):
        await store.adopt(registration("ada", training_id))
    watcher = Watcher(Poisoned(store), asyncio.Event(), limit=9)

    with contextlib.ExitStack() as stack:
        followers = []
        for training_id in ("poison", "t1", "t2"):
            record = await store.find_training(training_id)
            followers.append(stack.enter_context(watcher.followed(record, None)))
        await store.apply([started(training_id) for training_id in ("poison", "t1", "t2")])
        await watcher._tick()

    assert [follower._latest.stage for follower in followers] == [Stage.REQUESTED, Stage.RUNNING, Stage.RUNNING]
    assert len(watcher.aside) == 1


async def test_a_client_that_stays_but_takes_nothing_is_let_go(store):
    watcher = Watcher(store, asyncio.Event(), limit=1)
    record = await store.find_training("t1")

    async def never(*_: object) -> Any:
        await asyncio.Event().wait()

    await EventStream(partial(watcher.followed, record, None), send_seconds=0.05)({"type": "http"}, never, never)

    assert watcher.count == 0


async def test_an_idle_stream_sends_heartbeats(store):
    watcher = Watcher(store, asyncio.Event(), limit=1, heartbeat_seconds=0.01)
    record = await store.find_training("t1")

    with watcher.followed(record, Update.of(record).id) as follower:
        chunks = follower.chunks()
        sent = [await anext(chunks) for _ in range(3)]
        await chunks.aclose()

    assert sent == [b"retry: 2000\n\n", b":\n\n", b":\n\n"]


async def test_an_unknown_training_is_refused_before_the_stream_begins(store):
    async with running(store) as (_, client):
        unknown = await client.get("/v1/trainings/nobody/events")
        stranger = await client.get("/v1/trainings/t1/events", headers={"Authorization": "Bearer wrong"})

    kinds = [(answer.status_code, answer.headers["content-type"]) for answer in (unknown, stranger)]
    assert kinds == [(404, "application/problem+json"), (401, "application/problem+json")]


async def test_a_process_that_stops_lets_its_clients_go_at_once(store):
    async with running(store) as (process, client), following(client, "t1") as stream:
        await anext(stream)
        process.stopping.set()
        async with asyncio.timeout(60):
            left = [sent async for sent in stream]

    assert left == []


async def test_while_postgres_is_away_clients_stay_and_then_go_on(store, database_url):
    async with (
        Wire(database_url) as wire,
        opened_store(wire.url) as reached,
        running(reached) as (process, client),
        following(client, "t1") as stream,
    ):
        await anext(stream)
        wire.refuse()
        asked = len(process.store.asked)
        while len(process.store.asked) < asked + 3:
            await asyncio.sleep(0.02)
        await store.apply([started("t1")])
        wire.restore()
        came = await anext(stream)

    assert said(came) == ("stage", "running", 0)
