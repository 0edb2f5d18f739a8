"""A broker with several addresses: whichever answers is used, and clients spread over all."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import Final

import aio_pika
import pytest

from modelswap_events.broker import RabbitBroker
from modelswap_events.errors import Away
from shared.contract.topology import topology
from shared.runtime.broker import declare
from shared.runtime.broker.link import Link
from shared.runtime.broker.link_errors import LINK_ERRORS
from shared.runtime.client import ServiceDown
from shared.runtime.management import Management
from tests.proxy import Proxy, proxied
from tests.servers import Urls

#: Nobody listens there.
DEAD: Final = "amqp://guest:sesame@127.0.0.1:1/"


@pytest.fixture
async def nodes(amqp_url: str) -> AsyncIterator[list[Proxy]]:
    """Two addresses of the same broker."""
    async with proxied(amqp_url) as one, proxied(amqp_url) as other:
        yield [one, other]


async def test_clients_spread_over_all_addresses(amqp_url: str, nodes: list[Proxy]):
    addresses = ",".join(node.url(amqp_url) for node in nodes)

    async with AsyncExitStack() as links:
        for _ in range(20):
            link = await Link.open(addresses, name="test")
            links.push_async_callback(link.close)

    # By chance all are on one in one of 500,000 runs.
    assert all(node.connections for node in nodes)
    # A busy machine may have passed over one that answered too late.
    assert sum(node.connections for node in nodes) >= 20


async def test_a_dead_address_is_passed_over(amqp_url: str, nodes: list[Proxy]):
    addresses = f"{DEAD},{nodes[0].url(amqp_url)}"

    # All begin with the living one in one of a thousand runs.
    for number in range(1, 11):
        link = await Link.open(addresses, name="test")
        await link.close()
        assert nodes[0].connections == number


async def test_a_frozen_node_is_passed_over(amqp_url: str, nodes: list[Proxy]):
    frozen, node = nodes
    frozen.is_silent = True
    addresses = f"{frozen.url(amqp_url)},{node.url(amqp_url)}"

    # Without a limit of its own, it would wait for ever.
    async with asyncio.timeout(60):
        while not frozen.connections:
            link = await Link.open(addresses, name="test")
            await link.close()

    assert node.connections


async def test_a_subscriber_passes_over_a_dead_address(amqp_url: str, nodes: list[Proxy]):
    declaring = await Link.open(amqp_url, name="test")
    await declare(declaring.channel, topology().log)
    await declaring.close()
    broker = RabbitBroker(f"{DEAD},{nodes[0].url(amqp_url)}", "nobody")

    for number in range(1, 6):
        link = await broker.attach(0)
        await link.close()
        assert nodes[0].connections == number


async def test_the_management_api_of_a_dead_node_is_passed_over(servers: Urls):
    if not servers.management_url:
        pytest.skip("the management API of this broker is not known")
    dead = "http://guest:sesame@127.0.0.1:1"

    async with Management(f"{dead},{servers.management_url}", vhost="/") as management:
        assert await management.has_user("modelswap")
        assert not await management.has_user("nobody")
    async with Management(f"{dead},{dead}", vhost="/") as management:
        with pytest.raises(ServiceDown, match=r"/api/users/nobody does not answer"):
            await management.has_user("nobody")


async def test_dead_addresses_are_an_outage_without_secrets():
    before = unclosed()
    with pytest.raises(LINK_ERRORS) as failed:
        await Link.open(f"{DEAD}, {DEAD}", name="test")
    with pytest.raises(Away) as away:
        await RabbitBroker(f"{DEAD},{DEAD}", "nobody").attach(0)

    assert "Connect call failed" in str(failed.value)
    assert "sesame" not in f"{failed.value}{away.value}"
    assert unclosed() <= before


def unclosed() -> set[int]:
    """The library closes these when their memory is freed, which warns where no event loop runs."""
    found = (each for each in gc.get_objects() if isinstance(each, aio_pika.Connection))
    return {id(each) for each in found if not each.is_closed}
