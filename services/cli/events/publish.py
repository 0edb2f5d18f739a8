"""Publish made-up public events, marked as such, for the tests of subscribers. Edge."""

from __future__ import annotations

import os
from dataclasses import replace
from typing import Final

from pydantic import ValidationError

from services.cli.broker import opened_publisher
from services.cli.events.heard import describe
from services.cli.events.made_up import Story, envelope
from services.cli.events.request import TriggerRequest
from services.cli.events.simulator import is_simulator
from services.cli.output import confirm
from services.cli.problem import Problem
from shared.contract.events import Event
from shared.contract.identity import ModelName
from shared.contract.topology import topology
from shared.runtime.broker import Outgoing, Publisher, Unroutable, to_message
from shared.runtime.clock import now
from shared.runtime.settings import BrokerSettings, ReplicateSettings

_PLAN: Final = topology()
_DESTINATION: Final = ModelName("trigger", "model")


async def publish(request: TriggerRequest, *, yes: bool) -> str:
    """
    Publish the events of *request*; return a line for each message.

    Unless *yes*, asks first if subscribers may be real ones.
    """
    events = _events(request)
    settings = BrokerSettings.load(os.environ)
    replicate_url = ReplicateSettings.load(os.environ).replicate_api_url
    if not yes and not await is_simulator(replicate_url):
        confirm(
            f"{replicate_url} is not the simulated Replicate, so real subscribers may act on made-up events",
            "Publish nevertheless?",
            then="modelswap up, which has no real subscribers",
        )
    moment = now()
    messages = [(event, to_message(envelope(event, now=moment), _PLAN)) for event in events]
    async with opened_publisher(settings, name="modelswap trigger") as publisher:
        lines = [
            f"{event.key} {event.id}: {describe(event)}; {await _publish(publisher, message)}"
            for event, message in request.arranged(messages)
        ]
    return "\n".join(lines)


async def _publish(publisher: Publisher, message: Outgoing) -> str:
    try:
        await publisher.publish(replace(message, mandatory=True))
    except Unroutable:
        return "no queue is bound to it"
    return "confirmed"


def _events(request: TriggerRequest) -> list[Event]:
    if request.user_id is None:
        raise Problem("which user?", then="add --user with one that is only for tests")
    destination = request.destination_name() or _DESTINATION
    story = Story(
        user_id=request.user_id,
        training_id=request.training_id or request.own_id,
        destination=destination,
        version=request.version,
        generation=request.generation,
        error=request.error,
    )
    try:
        return story.events(request.triggers)
    except ValidationError as error:
        mistake = error.errors(include_url=False, include_input=False)[0]
        field = ".".join(map(str, mistake["loc"]))
        raise Problem(f"{field}: {mistake['msg']}", then="modelswap trigger --help") from error
