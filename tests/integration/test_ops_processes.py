"""What operators are told of processes and queues, of real servers, of some that hang, and of some that are away."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from datetime import timedelta
from typing import Any

import httpx
import pytest

from services.ops.api import create_api
from services.ops.processes.api import processes_router
from services.ops.processes.client import Running
from shared.contract.health import Health, how_to_start
from shared.contract.topology import EXTRACTOR_QUEUE, STATE_QUEUE, topology
from shared.runtime.health import Check, reporter
from shared.runtime.http import create_app, new_api
from shared.runtime.lifecycle import serve
from shared.runtime.management import Management
from shared.runtime.ports import free_ports
from shared.runtime.settings_base import Settings
from shared.runtime.telemetry import oldest_delivery
from shared.runtime.tokens import read_token
from tests.broker import Broker
from tests.described import DescribedTransport
from tests.servers import Urls

PLAN = topology((timedelta(milliseconds=50),))
#: Nothing listens there.
NOWHERE = "http://127.0.0.1:1"
VERSION = "1"
HOSTILE = "<script>alert(1)</script>"


async def itself() -> Health:
    return Health(status="ok", version=VERSION, checks={"archive": "ok"}, consumers={"modelswap.dead": "ok"})


@contextlib.asynccontextmanager
async def process(checks: Mapping[str, Check], **consumers: str | None) -> AsyncIterator[str]:
    """A process with these checks and consumers; its address."""

    def saying(said: str | None) -> Check:
        async def check() -> str | None:
            return said

        return check

    stopping = asyncio.Event()
    api = new_api(title="a process", summary="Test.", tags={}, tokens=(), statuses={})
    report = reporter(checks, consumers={f"modelswap.{name}": saying(said) for name, said in consumers.items()})
    app = create_app(api, report)
    with free_ports(1) as (port,):
        serving = asyncio.create_task(serve(app, Settings(), port=port, stopping=stopping))
        try:
            await asyncio.sleep(0)  # now it listens
            yield f"http://127.0.0.1:{port}"
        finally:
            stopping.set()
            await serving


@contextlib.asynccontextmanager
async def answering(answer: bytes = b"") -> AsyncIterator[str]:
    """A server that says *answer* to each connection and then nothing, until the client goes."""

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(answer)
        with contextlib.suppress(ConnectionError):
            while await reader.read(65_536):
                pass
        writer.close()

    server = await asyncio.start_server(handle, "127.0.0.1", 0)
    try:
        host, port = server.sockets[0].getsockname()[:2]
        yield f"{host}:{port}"
    finally:
        server.close()
        await server.wait_closed()


def running(
    addresses: Mapping[str, str] | None = None,
    *,
    amqp_url: str = "amqp://127.0.0.1:1/",
    management: Management | None = None,
    seconds: float = 20.0,
) -> Running:
    return Running(
        addresses or {},
        itself,
        version=VERSION,
        amqp_url=amqp_url,
        management=management,
        topology=PLAN,
        deadline_seconds=seconds,
    )


async def asked(path: str, addresses: Mapping[str, str] | None = None, **options: Any) -> dict[str, Any]:
    return await told(running(addresses, **options), path)


async def told(running: Running, path: str) -> dict[str, Any]:
    api = create_api(processes_router(running), tokens=[read_token("reader/rita:token-of-rita")])
    headers = {"Authorization": "Bearer token-of-rita"}
    async with httpx.AsyncClient(transport=DescribedTransport(api), base_url="http://ops/v1", headers=headers) as http:
        answer = await http.get(path)
    assert answer.status_code == 200, answer.text
    return dict(answer.json())


async def found(addresses: Mapping[str, str], *, seconds: float = 20.0) -> dict[str, dict[str, Any]]:
    answer = await asked("/processes", addresses, seconds=seconds)
    return {each["name"]: each for each in answer["processes"]}


def by_name(answer: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    return {each["name"]: each for each in answer["queues"]}


async def until(
    ask: Callable[[], Awaitable[dict[str, Any]]], is_so: Callable[[dict[str, Any]], bool]
) -> dict[str, Any]:
    """Ask until it is so: RabbitMQ counts every five seconds."""
    async with asyncio.timeout(60):
        while not is_so(answer := await ask()):
            await asyncio.sleep(0.1)
    return answer


@pytest.fixture
async def broker(broker_url: str) -> AsyncIterator[Broker]:
    async with Broker(broker_url, PLAN) as broker:
        yield broker


async def broken() -> str:
    return f"Postgres is away {HOSTILE}"


async def test_an_unready_process_says_what_it_waits_for():
    async with process({"database": broken}) as url:
        state = (await found({"state": url}))["state"]

    assert (state["state"], state["address"]) == ("not_ready", url)
    assert state["checks"] == {"database": f"Postgres is away {HOSTILE}"}
    assert state["detail"] == f"is not ready: database: Postgres is away {HOSTILE}"


async def test_a_process_of_another_version_is_limited():
    async with process({}) as url:
        state = (await found({"state": url}))["state"]

    assert state["state"] == "limited"
    assert state["detail"].startswith(f"is version {state['version']}, and this one ")


async def test_what_hangs_or_is_away_or_another_has_its_name():
    other = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi"
    async with answering() as hanging, answering(other) as strange:
        seen = await found({"receiver": NOWHERE, "notifier": f"http://{strange}"})
        seen |= await found({"state": f"http://{hanging}"}, seconds=0.3)

    assert {name: each["state"] for name, each in seen.items()} == {
        "receiver": "away",
        "state": "hangs",
        "notifier": "unknown",
        "ops": "ready",
    }
    assert seen["receiver"]["then"] == how_to_start("receiver")
    assert {name: each["version"] for name, each in seen.items() if each["version"]} == {"ops": VERSION}


async def test_rates_ages_and_what_is_handled_come_from_the_management_api(broker_urls: Urls):
    if not broker_urls.management_url:
        pytest.skip("the management API of this broker is not known")
    async with (
        Broker(broker_urls.amqp_url, PLAN) as broker,
        Management(broker_urls.management_url, vhost="/") as management,
        broker.channel() as channel,
    ):
        ops = running(amqp_url=broker.url, management=management)
        await told(ops, "/queues")
        await channel.basic_publish(b"waits", exchange="", routing_key=EXTRACTOR_QUEUE)
        answer = await until(
            lambda: told(ops, "/queues"),
            lambda answer: (
                by_name(answer)[EXTRACTOR_QUEUE]["ready"] == 1
                and None not in (by_name(answer)[EXTRACTOR_QUEUE][each] for each in ("publish_rate", "oldest_seconds"))
            ),
        )

    queue = by_name(answer)[EXTRACTOR_QUEUE]
    assert (answer["source"], answer["trouble"]) == ("management", "")
    assert (queue["unacked"], queue["consumers"], queue["process"]) == (0, 0, "extractor")
    assert queue["problem"] == "1 wait in modelswap.extractor, which has no consumer"
    assert {each["kind"] for each in answer["queues"]} == {"work", "lossy", "dead", "delay", "log"}


async def test_without_a_management_api_depths_are_known_and_the_rest_is_said(broker: Broker):
    async with broker.channel() as channel:
        await channel.basic_publish(b"waits", exchange="", routing_key=STATE_QUEUE)

    answer = await asked("/queues", amqp_url=broker.url)

    queue = by_name(answer)[STATE_QUEUE]
    assert answer["source"] == "amqp"
    assert answer["trouble"] == "the rates are not known: MODELSWAP_MANAGEMENT_URL of ops is not set"
    assert (queue["ready"], queue["consumers"], queue["unacked"], queue["publish_rate"]) == (1, 0, None, None)


@pytest.mark.parametrize("hangs", [False, True])
async def test_a_management_api_that_is_away_or_hangs_hides_no_depth(broker: Broker, *, hangs: bool):
    async with (
        answering() as hanging,
        Management(f"http://u:p@{hanging}" if hangs else "http://u:p@127.0.0.1:1", vhost="/") as management,
    ):
        answer = await asked("/queues", amqp_url=broker.url, management=management, seconds=3.0 if hangs else 20.0)

    assert answer["source"] == "amqp"
    assert answer["trouble"].startswith("the rates are not known: ")
    assert "u:p" not in answer["trouble"]
    assert by_name(answer)[STATE_QUEUE]["ready"] == 0


async def test_without_rabbitmq_the_page_of_queues_still_answers():
    answer = await asked("/queues")

    assert answer["source"] == "none"
    assert "RabbitMQ does not answer" in answer["trouble"]
    assert {each["ready"] for each in answer["queues"]} == {None}


async def test_a_queue_says_why_it_is_paused_and_how_old_its_oldest_is():
    oldest_delivery.labels(STATE_QUEUE).set_function(lambda: 90.0)
    oldest_delivery.labels("modelswap.progress").set_function(lambda: 0.0)
    async with process({}, state=f"Postgres is away {HOSTILE}", progress=None) as url:
        queues = by_name(await asked("/queues", {"state": url}))

    assert (queues[STATE_QUEUE]["paused"], queues[STATE_QUEUE]["oldest_seconds"]) == (
        f"Postgres is away {HOSTILE}",
        90.0,
    )
    assert (queues["modelswap.progress"]["paused"], queues["modelswap.progress"]["oldest_seconds"]) == (None, None)


async def test_checks_that_hang_do_not_hang_the_answer():
    async def hangs() -> Health:
        await asyncio.Event().wait()
        return await itself()

    ops = Running({}, hangs, version=VERSION, amqp_url="", management=None, topology=PLAN, deadline_seconds=0.05)

    (seen,) = (await told(ops, "/processes"))["processes"]

    assert (seen["state"], seen["version"]) == ("not_ready", None)
    assert seen["detail"] == "its checks did not end within 0.05 s: what it depends on hangs"


async def test_many_who_ask_at_once_cause_one_look():
    looks = 0

    async def look() -> Health:
        nonlocal looks
        looks += 1
        return await itself()

    ops = Running({}, look, version=VERSION, amqp_url="", management=None, topology=PLAN)

    await asyncio.gather(*(ops.processes() for _ in range(20)))

    assert looks == 1
