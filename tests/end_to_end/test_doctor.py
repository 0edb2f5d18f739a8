"""The doctor names what is broken on a stack that runs, and what to do about it."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import signal
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from typing import Final
from uuid import uuid4

import pytest
from pydantic import SecretStr

from services.cli.local.check import OK, WARNING, WRONG, Finding
from services.cli.local.doctor import examine
from services.state.migrate import MIGRATIONS
from shared.contract.events import ModelReverted
from shared.contract.rights import rights_of
from shared.contract.topology import EXTRACTOR_QUEUE, OPS_QUEUE, topology
from shared.runtime.addresses import with_login
from shared.runtime.broker import declare
from shared.runtime.management import opened_management
from shared.runtime.ports import free_ports
from shared.runtime.settings import OpsSettings, StateSettings
from shared.runtime.settings_base import setting
from tests.databases import empty_database, logged_in
from tests.servers import Urls
from tests.stack import Stack, plain_client
from tests.state import connected

#: What a break changes in the environment that the doctor sees.
Changed = Mapping[str, str]
Break = Callable[[Stack, Urls], AbstractAsyncContextManager[Changed]]

_NO_CHANGE: Final[Changed] = {}
_NO_MANAGEMENT: Final[Changed] = {"MODELSWAP_MANAGEMENT_URL": "http://user:password@127.0.0.1:1"}


@asynccontextmanager
async def frozen(stack: Stack, name: str) -> AsyncIterator[Changed]:
    pid = stack.processes[name].pid
    os.kill(pid, signal.SIGSTOP)
    try:
        yield _NO_CHANGE
    finally:
        os.kill(pid, signal.SIGCONT)
        await stack.until_ready(name)


@asynccontextmanager
async def stopped(stack: Stack, name: str) -> AsyncIterator[Changed]:
    stack.processes[name].kill()
    try:
        yield _NO_CHANGE
    finally:
        stack.processes[name].start()
        await stack.until_ready(name)


@asynccontextmanager
async def without_consumer(stack: Stack, _: Urls) -> AsyncIterator[Changed]:
    async with stopped(stack, "extractor"):
        async with stack.broker.channel() as channel:
            await channel.basic_publish(b"{}", routing_key=EXTRACTOR_QUEUE)
        # Until the broker has noticed that the consumer is gone.
        async with asyncio.timeout(60):
            while await stack.broker.depth(EXTRACTOR_QUEUE) != 1:
                await asyncio.sleep(0.05)
        yield _NO_CHANGE
        await stack.broker.purge(EXTRACTOR_QUEUE)


@asynccontextmanager
async def without_a_delay(stack: Stack, _: Urls) -> AsyncIterator[Changed]:
    await stack.broker.delete_queue("modelswap.delay.500ms")
    yield _NO_CHANGE
    async with stack.broker.channel() as channel:
        await declare(channel, topology(StateSettings.load(stack.environment).retry_delays))


@asynccontextmanager
async def without_a_delay_or_management(stack: Stack, servers: Urls) -> AsyncIterator[Changed]:
    async with without_a_delay(stack, servers):
        yield _NO_MANAGEMENT


@asynccontextmanager
async def without_a_binding(stack: Stack, servers: Urls) -> AsyncIterator[Changed]:
    if not servers.management_url:
        pytest.skip("the management API of this broker is not known")
    binding = (OPS_QUEUE, ModelReverted.exchange, ModelReverted.key)
    async with stack.broker.channel() as channel:
        await channel.queue_unbind(*binding)
        yield {"MODELSWAP_MANAGEMENT_URL": servers.management_url}
        await channel.queue_bind(*binding)


@asynccontextmanager
async def not_migrated(_: Stack, servers: Urls) -> AsyncIterator[Changed]:
    async with empty_database(servers.database_url) as url:
        yield {"MODELSWAP_DATABASE_URL": url}


@asynccontextmanager
async def too_old(_: Stack, servers: Urls) -> AsyncIterator[Changed]:
    """A database whose schema `state` is from before 0.1.0."""
    async with empty_database(servers.database_url) as url:
        await MIGRATIONS.apply(url)
        async with connected(url) as connection:
            await connection.execute("UPDATE state.migrations SET name = '0001_schema'")
        yield {"MODELSWAP_DATABASE_URL": url}


async def _until_closed(reader: asyncio.StreamReader) -> None:
    with contextlib.suppress(ConnectionError):
        while await reader.read(65_536):
            pass


@asynccontextmanager
async def answering(answer: bytes) -> AsyncIterator[str]:
    """A server that says *answer* to each connection, and then nothing; its host and port."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(answer)
        await _until_closed(reader)  # until the client hangs up
        writer.close()
        await writer.wait_closed()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        host, port = server.sockets[0].getsockname()[:2]
        yield f"{host}:{port}"
    finally:
        server.close()
        await server.wait_closed()


def changed(**settings: str) -> Break:
    @asynccontextmanager
    async def change(_: Stack, __: Urls) -> AsyncIterator[Changed]:
        yield {f"MODELSWAP_{name}": text for name, text in settings.items()}

    return change


def served(setting: str, url: str, answer: bytes = b"") -> Break:
    @asynccontextmanager
    async def serve(_: Stack, __: Urls) -> AsyncIterator[Changed]:
        async with answering(answer) as address:
            yield {f"MODELSWAP_{setting}": url.format(address)}

    return serve


def nodes(said: str) -> Break:
    """What RabbitMQ's management API says of its nodes."""
    head = f"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {len(said)}\r\n\r\n"
    return served("MANAGEMENT_URL", "http://user:password@{}", (head + said).encode())


def process(broken: Callable[[Stack, str], AbstractAsyncContextManager[Changed]], name: str) -> Break:
    return lambda stack, _: broken(stack, name)


#: What a finding says of something that did not answer in time.
LATE: Final = r"it hangs|in time|\b503\b|Timeout"


@dataclass(frozen=True)
class Case:
    """What is broken, which check says so, and words of what it says and advises."""

    broken: Break
    check: str
    status: str
    detail: str
    then: str


CASES: Final = {
    "a frozen extractor": Case(process(frozen, "extractor"), "extractor", WRONG, "it hangs", "restart it"),
    "a frozen state": Case(process(frozen, "state"), "state", WRONG, "it hangs", "restart it"),
    "a dead receiver": Case(process(stopped, "receiver"), "receiver", WRONG, "nothing listens", "start receiver"),
    "a queue that nothing consumes": Case(
        without_consumer, "queues", WRONG, "1 wait in modelswap.extractor, which has no consumer", "start extractor"
    ),
    "a missing queue": Case(without_a_delay, "topology", WRONG, "modelswap.delay.500ms: missing", "topology apply"),
    "a missing queue, and no management API": Case(
        without_a_delay_or_management,
        "topology",
        WRONG,
        "modelswap.delay.500ms: missing; bindings and users are not known: http://127.0.0.1:1",
        "topology apply",
    ),
    "no management API": Case(
        changed(MANAGEMENT_URL="http://user:password@127.0.0.1:1"),
        "topology",
        WARNING,
        "every exchange and queue is as planned; bindings and users are not known: http://127.0.0.1:1",
        "start RabbitMQ's management API, or correct MODELSWAP_MANAGEMENT_URL",
    ),
    "a silent management API of three nodes": Case(
        served("MANAGEMENT_URL", ",".join(["http://user:password@{0}"] * 3)),
        "topology",
        WARNING,
        "every exchange and queue is as planned; bindings and users are not known: RabbitMQ's management API does not",
        "start RabbitMQ's management API, or correct MODELSWAP_MANAGEMENT_URL",
    ),
    "a user that the management API refuses": Case(
        served("MANAGEMENT_URL", "http://user:password@{}", b"HTTP/1.1 401 Unauthorized\r\ncontent-length: 0\r\n\r\n"),
        "topology",
        WARNING,
        "bindings and users are not known: RabbitMQ's management API at http://127.0.0.1",
        "correct MODELSWAP_MANAGEMENT_URL",
    ),
    "broker nodes that are not known": Case(
        changed(MANAGEMENT_URL="http://user:password@127.0.0.1:1"),
        "broker nodes",
        WARNING,
        "not known: http://127.0.0.1:1",
        "start RabbitMQ's management API, or correct MODELSWAP_MANAGEMENT_URL",
    ),
    "a missing binding": Case(
        without_a_binding,
        "topology",
        WRONG,
        "queue modelswap.ops: missing binding to exchange modelswap.training with routing key model.reverted.v1",
        "topology apply",
    ),
    "an events log with other limits": Case(
        changed(EVENTS_LOG_MAX_AGE_DAYS="8"), "topology", WARNING, "modelswap.events.log: differs", "The events log"
    ),
    "an empty database": Case(not_migrated, "migrations", WRONG, "not applied: state.0001", "db migrate"),
    "a database from before 0.1.0": Case(
        too_old, "migrations", WRONG, "from a version before 0.1.0", "an empty database, then modelswap db migrate"
    ),
    "no Postgres": Case(
        changed(DATABASE_URL="postgresql://127.0.0.1:1/x"), "database", WRONG, "", "start Postgres, or correct"
    ),
    "a silent Postgres": Case(
        served("DATABASE_URL", "postgresql://{}/x"), "database", WRONG, "", "start Postgres, or correct"
    ),
    "a silent RabbitMQ": Case(served("AMQP_URL", "amqp://{}/"), "broker", WRONG, "", "start RabbitMQ, or correct"),
    "a RabbitMQ without disk": Case(
        nodes('[{"name": "a@b", "running": true, "disk_free_alarm": true}, {"name": "c@d", "running": true}]'),
        "broker nodes",
        WRONG,
        "a@b is out of disk: RabbitMQ takes no message",
        "A consumer waits",
    ),
    "a dead node of RabbitMQ": Case(
        nodes('[{"name": "a@b", "running": false}, {"name": "c@d", "running": true}]'),
        "broker nodes",
        WARNING,
        "a@b is down",
        "A consumer waits",
    ),
    "two dead nodes of RabbitMQ": Case(
        nodes(
            '[{"name": "a@b", "running": false}, {"name": "c@d", "running": true}, {"name": "e@f", "running": false}]'
        ),
        "broker nodes",
        WARNING,
        "a@b and e@f are down",
        "A consumer waits",
    ),
    "a partitioned RabbitMQ": Case(
        nodes('[{"name": "a@b", "running": true, "partitions": ["c@d"]}, {"name": "c@d", "running": false}]'),
        "broker nodes",
        WARNING,
        "a@b is partitioned from c@d",
        "A consumer waits",
    ),
    "a wrong Replicate token": Case(
        changed(REPLICATE_API_TOKEN="r8_somebody_elses"), "replicate", WRONG, "", "set MODELSWAP_REPLICATE_API_TOKEN"
    ),
    "another webhook secret": Case(
        changed(WEBHOOK_SECRETS="whsec_" + "A" * 32), "webhook secret", WRONG, "signs with another secret", "set"
    ),
    "a public address that redirects": Case(
        served("PUBLIC_URL", "http://{}", b"HTTP/1.1 301 Moved\r\nlocation: https://x/\r\ncontent-length: 0\r\n\r\n"),
        "public address",
        WRONG,
        "redirects to 'https://x/', and Replicate follows no redirect",
        "set MODELSWAP_PUBLIC_URL",
    ),
    "a public address of something else": Case(
        served("PUBLIC_URL", "http://{}", b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nhi"),
        "public address",
        WRONG,
        "answers 200, and not as our receiver does",
        "lead to the receiver",
    ),
    "a token that can be guessed": Case(
        changed(API_TOKENS="a" * 20), "settings of state", WARNING, "MODELSWAP_API_TOKENS: too few", "openssl rand"
    ),
}


def seen(stack: Stack) -> dict[str, str]:
    """The environment of a command on this stack."""
    urls = {"OPS_URL": stack.url("ops"), "NOTIFIER_URL": stack.url("notifier"), "RECEIVER_URL": stack.url("receiver")}
    return {**stack.environment, **{f"MODELSWAP_{name}": url for name, url in urls.items()}}


async def examined(environment: dict[str, str], expected: Callable[[Finding], bool]) -> list[Finding]:
    """Examine, again while anything but what is *expected* is late, as on a busy machine."""
    async with asyncio.timeout(240):
        while True:
            findings = await examine(environment)
            late = [each for each in findings if each.status != OK and re.search(LATE, each.detail)]
            if all(map(expected, late)):
                return findings


async def test_a_sound_stack_has_no_finding(stack: Stack):
    findings = await examined(seen(stack), lambda _: False)

    assert [finding for finding in findings if finding.status != OK] == []
    (detail,) = [finding.detail for finding in findings if finding.check == "topology"]
    assert detail.startswith("every exchange and queue is as planned; bindings and users were not looked at: ")


async def test_with_the_management_api_bindings_are_looked_at(stack: Stack, servers: Urls):
    if not servers.management_url:
        pytest.skip("the management API of this broker is not known")

    settings = {**seen(stack), "MODELSWAP_MANAGEMENT_URL": servers.management_url}
    findings = await examined(settings, lambda _: False)

    (finding,) = [finding for finding in findings if finding.check == "topology"]
    assert (finding.status, finding.detail) == (OK, "every exchange, queue, binding and user is as planned")


@asynccontextmanager
async def as_ops(stack: Stack, servers: Urls) -> AsyncIterator[dict[str, str]]:
    """What the process ops is given, with logins of its own, as in its pod on Kubernetes; and where it listens."""
    settings = StateSettings.load(stack.environment)
    amqp_url = settings.amqp_url.get_secret_value()
    user = f"test-{uuid4().hex}"
    async with opened_management(SecretStr(servers.management_url), amqp_url) as management:
        assert management is not None
        await management.put_user(user, user)
        await management.set_rights(user, rights_of("ops", settings.topology))
        yield {
            **{
                name: text for name, text in stack.environment.items() if name in map(setting, OpsSettings.model_fields)
            },
            "MODELSWAP_OPS_URL": stack.url("ops"),
            "MODELSWAP_AMQP_URL": with_login(amqp_url, user, user),
            "MODELSWAP_MANAGEMENT_URL": servers.management_url,
            "MODELSWAP_DATABASE_URL": logged_in(stack.database_url, "ops"),
            "MODELSWAP_DECLARE_TOPOLOGY": "false",
        }
        await management.delete_user(user)


async def test_what_ops_was_not_given_is_no_fault(stack: Stack, servers: Urls):
    if not servers.management_url:
        pytest.skip("the management API of this broker is not known")

    async with as_ops(stack, servers) as environment:
        findings = await examined(environment, lambda _: False)

    told = {each.check: (each.status, each.detail, each.then) for each in findings if each.status != OK}
    seen_elsewhere = (
        "settings of state",
        "settings of notifier",
        "topology",
        "migrations",
        "queues",
        "outbox",
        "public address",
    )
    assert {check: status for check, (status, *_) in told.items()} == dict.fromkeys(seen_elsewhere, WARNING)
    assert all(detail.startswith("not known here: ") and then for _, detail, then in told.values())


async def refused(stack: Stack) -> dict[str, float]:
    """How many webhooks the receiver refused, by result."""
    async with plain_client(base_url=stack.url("receiver")) as http:
        text = (await http.get("/metrics")).text
    counts = re.findall(r'^modelswap_webhooks_total{result="(\w+)"} (\S+)$', text, re.MULTILINE)
    return {result: float(count) for result, count in counts if result != "accepted"}


async def test_a_doctor_counts_as_no_refused_webhook(stack: Stack):
    before = await refused(stack)

    await examine(seen(stack))

    assert await refused(stack) == {**before, "empty": before["empty"] + 1}


@pytest.mark.parametrize("name", CASES)
async def test_what_is_broken_is_named_with_its_remedy(name: str, stack: Stack, servers: Urls):
    case = CASES[name]

    async with case.broken(stack, servers) as changes:
        # Of the others, many are a consequence.
        findings = await examined(
            {**seen(stack), **changes}, lambda each: each.check != case.check or case.detail in each.detail
        )

    (found,) = [finding for finding in findings if finding.check == case.check]
    assert (found.check, found.status) == (case.check, case.status)
    assert case.detail in found.detail
    assert case.then in found.then


async def test_processes_that_are_not_started_yet_are_no_fault(stack: Stack):
    with free_ports(5) as ports:
        names = ("API_URL", "OPS_URL", "NOTIFIER_URL", "RECEIVER_URL", "EXTRACTOR_URL")
        nowhere = {f"MODELSWAP_{name}": f"http://127.0.0.1:{port}" for name, port in zip(names, ports, strict=True)}
    findings = await examine(seen(stack) | nowhere)

    told: dict[str, Finding] = {finding.check: finding for finding in findings}
    assert {told[name].status for name in ("receiver", "extractor", "state", "ops", "notifier")} == {WARNING}
