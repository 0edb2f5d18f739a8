"""The fake for the tests of subscribers, as they use it: on the example of one."""

from __future__ import annotations

import asyncio

import pytest

from deploy.examples.generator import Generator
from modelswap_events import ExtractionFailed, ModelActivated, Models
from modelswap_events.broker import LOG, PREFIX
from modelswap_events.testing import FakeModelswap
from shared.contract.envelope import Envelope
from shared.contract.topology import EVENTS_LOG

OLD, NEW = (f"acme/ann:{64 * digit}" for digit in "ab")


async def follow(models: Models) -> None:
    """A service that can handle nothing."""
    async for change in models:
        raise LookupError(change.user_id)


async def test_the_example_draws_with_the_newest_model():
    modelswap, generator, seen = FakeModelswap(), Generator(), []
    modelswap.activate("ann", OLD)

    async with modelswap.running(modelswap.models().run(generator.use)):
        await modelswap.settled()
        seen.append(generator.model_of("ann"))
        modelswap.activate("ann", NEW)
        modelswap.activate("ann", OLD, generation=1)
        await modelswap.settled()
        seen.append(generator.model_of("ann"))
        modelswap.withdraw("ann")
        await modelswap.settled()
        seen.append(generator.model_of("ann"))

    assert [model and str(model) for model in seen] == [OLD, NEW, None]


async def test_a_restarted_service_gets_the_newest_model():
    modelswap, generator = FakeModelswap(), Generator()
    modelswap.activate("ann", NEW, generation=2)
    modelswap.activate("ann", OLD, generation=1)

    async with modelswap.running(modelswap.models().run(generator.use)):
        await modelswap.settled()

    assert str(generator.model_of("ann")) == NEW


async def test_an_error_of_the_service_fails_its_test():
    modelswap = FakeModelswap()
    modelswap.activate("ann", OLD)

    with pytest.raises(LookupError, match="ann"):
        async with modelswap.running(follow(modelswap.models())):
            await modelswap.settled()


async def test_a_service_that_never_settles_fails_its_test():
    modelswap = FakeModelswap()

    with pytest.raises(TimeoutError):
        async with modelswap.running(asyncio.Event().wait()):
            await modelswap.settled(seconds=0.05)


async def test_each_subscription_gets_every_event():
    modelswap = FakeModelswap()
    feeds = [modelswap.subscribe("mailer", events=[ModelActivated]), modelswap.subscribe("billing")]
    modelswap.publish(ExtractionFailed(training_id="t1", error="no_version", detail="names none"))
    event = modelswap.activate("ann", OLD, trigger_word="TOK")

    found = [[await anext(events) for _ in range(count)] for count, events in enumerate(map(aiter, feeds), start=1)]

    assert [[envelope.event.key for envelope in each] for each in found] == [
        ["model.activated.v1"],
        ["extraction.failed.v1", "model.activated.v1"],
    ]
    assert found[0][0].id == event.id


async def test_what_is_published_while_the_first_connection_is_lost_arrives():
    modelswap = FakeModelswap()
    found: asyncio.Queue[Envelope] = asyncio.Queue()
    subscription = modelswap.subscribe("mailer")
    modelswap.remove_subscription("mailer")  # of a queue, the broker knows where to go on

    async with modelswap.running(subscription.run(found.put)):
        await modelswap.settled("mailer")
        async with modelswap.away():
            event = modelswap.activate("ann", OLD)
        async with asyncio.timeout(60):
            envelope = await found.get()

    assert envelope.event == event


def test_what_can_not_be_is_refused():
    modelswap = FakeModelswap()

    with pytest.raises(ValueError, match="owner/name:version"):
        modelswap.activate("ann", "null:null")
    with pytest.raises(ValueError, match="ann has no model"):
        modelswap.withdraw("ann")


def test_the_client_reads_the_log_of_the_topology():
    assert LOG == EVENTS_LOG
    assert PREFIX == "modelswap.subscription."
