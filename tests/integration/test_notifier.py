"""Webhooks from a public event to the endpoint's answer: a notifier on a real broker and database."""

from __future__ import annotations

import asyncio
import gc
import json
import socket
import warnings
from collections import Counter
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack
from datetime import datetime, timedelta
from statistics import median

import pytest
from standardwebhooks import Webhook

from shared.contract.envelope import decode, wrap
from shared.contract.events import Event
from shared.contract.topology import DEAD_QUEUE, DELIVERIES_QUEUE, EVENTS_LOG, topology
from shared.runtime.broker import Publisher, to_message
from shared.runtime.clock import now
from tests.broker import Broker
from tests.databases import new_database
from tests.servers import Urls
from tests.webhooks import (
    Behaviour,
    Endpoint,
    Notifier,
    activated,
    answer,
    drip,
    gigabyte,
    gigabyte_of_headers,
    never,
    reset,
    running_notifier,
)

#: Short at first; then so long that endpoints which fail for ever are left alone.
DELAYS = "100ms,200ms,10m"
PLAN = topology(timedelta(milliseconds=each) for each in (100, 200, 600_000))
#: Only this address of this machine may be called.
HOST = "127.0.0.2"
SETTINGS = {
    "RETRY_DELAYS": DELAYS,
    "WEBHOOK_ALLOWED_NETWORKS": f"{HOST}/32",
    # So long that a delivery which waits for a slow request waits past its test.
    "WEBHOOK_TIMEOUT_SECONDS": "300",
}


@pytest.fixture(scope="module")
async def broker(amqp_url: str) -> AsyncIterator[Broker]:
    # The log may hold events of other tests.
    await Broker(amqp_url).delete_queue(EVENTS_LOG)
    async with Broker(amqp_url, PLAN) as broker:
        yield broker


@pytest.fixture(scope="module")
async def publisher(broker: Broker) -> AsyncIterator[Publisher]:
    async with Publisher(broker.url, name="test", timeout_seconds=60) as publisher:
        yield publisher


@pytest.fixture(scope="module")
def names() -> dict[str, str]:
    """Where names lead; all others are addresses."""
    return {}


@pytest.fixture(scope="module")
async def _notifier(broker: Broker, servers: Urls, names: Mapping[str, str]) -> AsyncIterator[Notifier]:
    async def resolve(host: str, _: int) -> Sequence[str]:
        return [names.get(host, host)]

    async with (
        new_database(servers.database_url) as database_url,
        running_notifier(broker.url, database_url, resolve=resolve, **SETTINGS) as notifier,
    ):
        yield notifier


@pytest.fixture
async def notifier(_notifier: Notifier) -> AsyncIterator[Notifier]:
    """One for all tests; each has endpoints of its own."""
    yield _notifier
    await _notifier.remove_all()


async def publish(publisher: Publisher, *events: Event) -> None:
    for event in events:
        await publisher.publish(to_message(wrap(event, source="state", now=now()), PLAN))


@pytest.mark.parametrize("steps", range(5))
async def test_an_endpoint_that_ends_leaves_nothing_open(steps):
    """Else a garbage collection fails a later test. The retry of a delivery may come at any time."""
    with warnings.catch_warnings(record=True) as warned, socket.socket() as client:
        warnings.simplefilter("always")
        client.setblocking(False)
        async with Endpoint(never) as server:
            client.connect_ex((server.host, server.port))
            for _ in range(steps):
                await asyncio.sleep(0)
        del server
        await asyncio.sleep(0)
        gc.collect()

    assert [str(each.message) for each in warned] == []


async def test_an_event_goes_to_each_endpoint_that_wants_it_signed(notifier, publisher):
    async with Endpoint() as one, Endpoint() as other, Endpoint() as third:
        endpoints = [await notifier.add(each.url) for each in (one, other)]
        await notifier.add(third.url, "model.withdrawn.v1")

        await publish(publisher, activated("ann", 1), activated("ann", 1), activated("ann", 2))

        for endpoint, server in zip(endpoints, (one, other), strict=True):
            await notifier.until(endpoint["id"], lambda found: [each["status"] for each in found] == ["delivered"] * 2)
            events = []
            for heard in server.heard:
                Webhook(endpoint["secret"]).verify(heard.body, dict(heard.headers))
                assert heard.headers["webhook-id"] == json.loads(heard.body)["id"]
                events.append(decode({}, heard.headers["content-type"], heard.body).event)
            assert sorted(events, key=lambda event: event.id) == sorted(
                [activated("ann", 1), activated("ann", 2)], key=lambda event: event.id
            )
        assert third.heard == []


async def test_a_refused_delivery_is_retried_with_the_same_id(notifier, publisher):
    answers = [answer(500, b"not now"), answer(500), answer(200, b"ok")]

    async def behave(writer: asyncio.StreamWriter) -> None:
        await answers.pop(0)(writer)

    async with Endpoint(behave) as server:
        endpoint = await notifier.add(server.url)
        await publish(publisher, activated("ann", 1))

        (done,) = await notifier.until(endpoint["id"], lambda found: found[0]["status"] == "delivered")

        assert (done["attempts"], done["response_status"], done["response"]) == (3, 200, "ok")
        assert len({heard.headers["webhook-id"] for heard in server.heard}) == 1
        shown = await notifier.endpoint(endpoint["id"])
        assert (shown["failing_since"], shown["failed_attempts"]) == (None, 0)


async def test_failed_attempts_are_counted_since_the_last_success(notifier, publisher):
    statuses = [500, 200]

    async def behave(writer: asyncio.StreamWriter) -> None:
        await answer(statuses.pop(0) if statuses else 503)(writer)

    async with Endpoint(behave) as server:
        endpoint = await notifier.add(server.url)
        await publish(publisher, activated("ann", 1))
        await notifier.until(endpoint["id"], lambda found: found[0]["status"] == "delivered")
        await publish(publisher, activated("ann", 2))
        failing, _ = await notifier.until(endpoint["id"], lambda found: len(found) == 2 and found[0]["attempts"] >= 2)

        shown = await notifier.endpoint(endpoint["id"])

    assert shown["failed_attempts"] >= failing["attempts"]
    assert shown["failing_since"] is not None


async def test_an_endpoint_that_is_gone_is_disabled_and_told(notifier, publisher, broker):
    async with Endpoint(answer(410)) as server:
        endpoint = await notifier.add(server.url)
        await publish(publisher, activated("ann", 1))
        letter = await broker.wait_for(DEAD_QUEUE)
        assert letter.headers["x-dead-error"] == "webhook_endpoint_gone"
        assert (await notifier.endpoint(endpoint["id"]))["status"] == "gone"

        await publish(publisher, activated("ann", 2))

        await notifier.until(endpoint["id"], lambda found: [each["status"] for each in found] == ["waiting", "failed"])
        server.behave = answer(200)
        path = f"/webhook-endpoints/{endpoint['id']}"
        (await notifier.api.patch(path, json={"status": "enabled"})).raise_for_status()
        await notifier.until(endpoint["id"], lambda found: found[0]["status"] == "delivered")


async def test_a_redirect_is_not_followed(notifier, publisher):
    async with Endpoint() as other, Endpoint(answer(307, location=other.url)) as server:
        endpoint = await notifier.add(server.url)
        await publish(publisher, activated("ann", 1))

        await notifier.until(endpoint["id"], lambda found: found[0]["response_status"] == 307)

        assert other.heard == []


async def test_what_is_no_delivery_is_a_dead_letter(notifier, broker):
    await broker.publish_raw(DELIVERIES_QUEUE, b"")

    assert (await broker.wait_for(DEAD_QUEUE)).headers["x-dead-queue"] == DELIVERIES_QUEUE


#: Endpoints that harm, by what they do.
BAD: Mapping[str, Behaviour] = {
    "slow (silent)": never,
    "drips its headers": drip,
    "answers 500": answer(500),
    "answers 429, Retry-After 60": answer(429, retry_after="60"),
    "redirects": answer(302, location="http://127.0.0.2/"),
    "resets": reset,
    "sends a gigabyte": gigabyte,
    "headers without end": gigabyte_of_headers,
}
EVENTS = 30


async def test_bad_endpoints_delay_no_delivery_of_others(notifier, publisher, names, say):
    """Must-show 3 of issue 12."""
    names |= {"good.test": HOST, "rebinds.test": HOST}

    async def refuse_and_rebind(writer: asyncio.StreamWriter) -> None:
        names["rebinds.test"] = "127.0.0.1"
        await answer(500)(writer)

    async with AsyncExitStack() as opened:
        enter = opened.enter_async_context
        bad = {kind: await enter(Endpoint(behave)) for kind, behave in BAD.items()}
        rebinding = await enter(Endpoint(refuse_and_rebind, host="0.0.0.0"))
        good = await enter(Endpoint())
        ids = {kind: (await notifier.add(server.url))["id"] for kind, server in bad.items()}
        ids["resolves to 127.0.0.1 later"] = (await notifier.add(f"http://rebinds.test:{rebinding.port}/"))["id"]
        ids["good"] = (await notifier.add(f"http://good.test:{good.port}/"))["id"]

        for number in range(1, EVENTS + 1):
            await publish(publisher, activated("ann", number))
            # It does not wait for those that never answer.
            await good.until_heard(number)

        done = await notifier.until(ids["good"], lambda found: all(each["status"] == "delivered" for each in found))
        blocked = await notifier.until(
            ids["resolves to 127.0.0.1 later"],
            lambda found: any("127.0.0.1" in (each["response"] or "") for each in found),
        )
        table = [_line("kind", "statuses of its deliveries", "requests", "last answer")]
        for kind, endpoint_id in ids.items():
            found = await notifier.deliveries(endpoint_id)
            tried = [each for each in found if each["attempts"]]
            said = (tried[0]["response_status"] or tried[0]["response"]) if tried else "none yet"
            statuses = Counter(each["status"] for each in found)
            table.append(_line(kind, _said(statuses), sum(each["attempts"] for each in found), said))
        waits = [_seconds(each["status_at"]) - _seconds(each["created_at"]) for each in done]
        say("\n".join([*table, f"the good one waited {median(waits):.3f} s in the middle, {max(waits):.3f} s at most"]))

    assert len(done) == EVENTS
    assert len(rebinding.heard) <= 8
    assert not any(each["status"] == "delivered" for each in blocked)
    assert len(bad["slow (silent)"].heard) <= 8
    assert len(bad["answers 429, Retry-After 60"].heard) <= 8


def _line(*cells: object) -> str:
    return " | ".join(str(cell) for cell in cells)


def _said(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{count} {name}" for name, count in sorted(counts.items()))


def _seconds(moment: str) -> float:
    return datetime.fromisoformat(moment).timestamp()
