"""Publish public events that did not happen, marked as made up, to try subscribers with. Edge."""

from __future__ import annotations

import os
from dataclasses import replace
from typing import Final

from pydantic import ValidationError

from services.cli.confirm import confirm
from services.cli.events.client import is_simulator
from services.cli.events.listen import describe
from services.cli.events.made_up import Story, envelope
from services.cli.events.order import Order
from services.cli.problem import Problem
from shared.contract.events import Event
from shared.contract.identity import ModelName
from shared.contract.topology import topology
from shared.runtime.broker import Outgoing, Publisher, Unroutable, to_message
from shared.runtime.clock import now
from shared.runtime.settings import BrokerSettings, ReplicateSettings

_PLAN: Final = topology()
#: Where it does not matter.
_DESTINATION: Final = ModelName("trigger", "model")


async def publish(order: Order, *, yes: bool) -> str:
    """
    Publish what *order* wants; what was published, a line for each message.

    Unless *yes*, it asks first where subscribers may be real ones.
    """
    events = _events(order)
    settings = BrokerSettings.load(os.environ)
    replicate_url = ReplicateSettings.load(os.environ).replicate_api_url
    if not yes and not await is_simulator(replicate_url):
        confirm(
            f"{replicate_url} is not the simulated Replicate, so real subscribers may act on what did not happen",
            "Publish nevertheless?",
            then="modelswap up, for subscribers to be tried",
        )
    moment = now()
    messages = [(event, to_message(envelope(event, now=moment), _PLAN)) for event in events]
    url = settings.amqp_url.get_secret_value()
    async with Publisher(url, name="modelswap trigger", timeout_seconds=settings.publish_timeout_seconds) as publisher:
        lines = [
            f"{event.key} {event.id}: {describe(event)}; {await _publish(publisher, message)}"
            for event, message in order.arranged(messages)
        ]
    return "\n".join(lines)


async def _publish(publisher: Publisher, message: Outgoing) -> str:
    try:
        await publisher.publish(replace(message, mandatory=True))
    except Unroutable:
        return "no queue is bound to it"
    return "confirmed"


def _events(order: Order) -> list[Event]:
    if order.user_id is None:
        raise Problem("the events of which user?", then="add --user with one that is only for tests")
    destination = order.destination_name() or _DESTINATION
    if order.version is not None and destination.at(order.version) is None:
        raise Problem(f"{order.version!r} is no version", then="--version with 64 lower-case hexadecimal digits")
    story = Story(
        user_id=order.user_id,
        training_id=order.training_id or order.own_id,
        destination=destination,
        version=order.version,
        generation=order.generation,
        error=order.error,
    )
    try:
        return story.events(order.triggers)
    except ValidationError as error:
        mistake = error.errors(include_url=False, include_input=False)[0]
        field = ".".join(map(str, mistake["loc"]))
        raise Problem(f"{field}: {mistake['msg']}", then="modelswap trigger --help") from error
