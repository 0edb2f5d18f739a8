"""Bindings, which AMQP cannot list: compared by `modelswap topology diff` through RabbitMQ's management API. Edge."""

from __future__ import annotations

import asyncio

from shared.contract.topology import Binding, Topology
from shared.runtime.management import Management


async def missing_bindings(management: Management, plan: Topology) -> list[str]:
    """Return a line for each binding that is missing. A queue that is missing has a line of its own already."""
    queues = [queue.name for queue in plan.queues]
    found = dict(zip(queues, await asyncio.gather(*map(management.bindings_of, queues)), strict=True))
    return [_line(each) for each in plan.bindings if each not in (found[each.queue] or (each,))]


def _line(binding: Binding) -> str:
    # The exchange of a delay has one queue, and no routing key.
    key = f" with routing key {binding.routing_key}" if binding.routing_key else ""
    return f"queue {binding.queue}: missing binding to exchange {binding.exchange}{key}"
