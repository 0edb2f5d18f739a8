"""The client of subscribers, on a real RabbitMQ and on the fake for their own tests: one suite for both."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import aclosing
from dataclasses import replace
from uuid import uuid4

import aio_pika
import aiormq
import pytest

from modelswap_events import Change, ExtractionFailed, ModelActivated
from modelswap_events.broker import RabbitLink, translated
from modelswap_events.errors import Away
from shared.contract.envelope import wrap
from shared.runtime.clock import now
from tests.proxy import proxied
from tests.subscriber import DELIVERY_LIMIT, SINCE, InMemory, Modelswap, activated, first, on_rabbitmq, withdrawn


@pytest.fixture(params=["fake", "real"])
async def modelswap(request: pytest.FixtureRequest) -> AsyncIterator[Modelswap]:
    if request.param == "fake":
        yield InMemory()
        return
    async with on_rabbitmq(request.getfixturevalue("amqp_url")) as real:
        yield real


class Broken(Exception):
    """What a body raises."""


async def test_the_snapshot_comes_first_then_what_was_published(modelswap):
    for user in ("ann", "ben", "cleo"):
        modelswap.commit(activated(user, 1))
    await modelswap.publish(activated("ann", 2))

    async with aclosing(aiter(modelswap.models())) as changes:
        found = await first(changes, 4)
        await modelswap.publish(activated("ben", 2))
        later = await first(changes, 1)

    assert (found, later) == ([("ann", 1), ("ben", 1), ("cleo", 1), ("ann", 2)], [("ben", 2)])


async def test_only_what_is_newer_than_before_arrives(modelswap):
    modelswap.commit(activated("ann", 3))
    for generation in (2, 3, 5, 4, 5):
        await modelswap.publish(activated("ann", generation))
    await modelswap.publish(activated("end", 1))

    async with aclosing(aiter(modelswap.models())) as changes:
        found = await first(changes, 3)

    assert found == [("ann", 3), ("ann", 5), ("end", 1)]


async def test_a_made_up_change_holds_back_no_real_one(modelswap):
    for generation, is_made_up in ((8, True), (7, True), (8, True), (1, False), (1, True), (9, True), (2, False)):
        envelope = replace(wrap(activated("ann", generation), source="test", now=now()), is_made_up=is_made_up)
        await modelswap.publish_raw(envelope.headers(), envelope.body())

    async with aclosing(aiter(modelswap.models())) as changes:
        found = await first(changes, 4)

    assert found == [("ann", 8), ("ann", 1), ("ann", 9), ("ann", 2)]


async def test_a_withdrawal_arrives_without_a_model(modelswap):
    modelswap.commit(withdrawn("ann", 2))
    await modelswap.publish(withdrawn("ben", 2))

    async with aclosing(aiter(modelswap.models())) as changes, asyncio.timeout(60):
        found = [await anext(changes), await anext(changes)]

    assert [(each.user_id, each.model, each.is_withdrawn) for each in found] == [
        ("ann", None, True),
        ("ben", None, True),
    ]


async def test_a_change_is_acked_when_the_next_one_is_wanted(modelswap):
    for user in ("ann", "ben"):
        await modelswap.publish(activated(user, 1))
    models = modelswap.models()
    async with aclosing(aiter(models)) as changes:
        before = await first(changes, 2)

    async with aclosing(aiter(modelswap.models())) as changes:
        again = await first(changes, 1)

    assert (before, again) == ([("ann", 1), ("ben", 1)], [("ben", 1)])


async def test_a_change_whose_body_raises_comes_again(modelswap):
    await modelswap.publish(activated("ann", 1))
    models, found = modelswap.models(), []

    async def follow(*, fails: bool) -> None:
        async with asyncio.timeout(60):
            async for change in models:
                found.append((change.user_id, change.generation))
                if fails:
                    raise Broken
                return

    with pytest.raises(Broken):
        await follow(fails=True)
    await follow(fails=False)

    assert found == [("ann", 1), ("ann", 1)]


async def test_an_event_that_ends_the_loop_too_often_overflows(modelswap):
    event = activated("ann", 1)
    await modelswap.publish(event)
    await modelswap.publish(activated("ben", 1))

    for _ in range(DELIVERY_LIMIT + 1):
        async with aclosing(aiter(modelswap.models())) as changes:
            assert await first(changes, 1) == [("ann", 1)]
    async with aclosing(aiter(modelswap.models())) as changes:
        assert await first(changes, 1) == [("ben", 1)]

    assert await modelswap.overflow(1) == [event.id]


async def test_a_handler_that_raises_gets_the_change_again(modelswap):
    await modelswap.publish(activated("ann", 1))
    tried, done = [], asyncio.Event()

    async def handle(change: Change) -> None:
        tried.append(change.generation)
        if len(tried) == 1:
            raise Broken
        done.set()

    running = asyncio.create_task(modelswap.models().run(handle))
    async with asyncio.timeout(60):
        await done.wait()
    running.cancel()

    assert tried == [1, 1]


async def test_a_handler_that_keeps_raising_holds_up_nothing_else(modelswap):
    event = activated("ann", 1)
    await modelswap.publish(event)
    await modelswap.publish(activated("ben", 1))
    done = asyncio.Event()

    async def handle(change: Change) -> None:
        if change.user_id == "ann":
            raise Broken
        done.set()

    running = asyncio.create_task(modelswap.models().run(handle, attempts=1))
    async with asyncio.timeout(60):
        await done.wait()
    running.cancel()

    assert await modelswap.overflow(1) == [event.id]


async def test_a_user_whose_handler_failed_in_the_snapshot_is_told_again(modelswap):
    modelswap.commit(activated("ann", 1))
    tried, done = [], asyncio.Event()

    async def handle(change: Change) -> None:
        tried.append(change.generation)
        if len(tried) == 1:
            raise Broken
        done.set()

    running = asyncio.create_task(modelswap.models().run(handle, attempts=1))
    async with asyncio.timeout(60):
        while not tried:
            await asyncio.sleep(0.01)
        async with modelswap.away():
            pass
        await done.wait()
    running.cancel()

    assert tried == [1, 1]


async def test_an_event_of_a_later_version_is_skipped_and_overflows(modelswap):
    headers = {"ce-specversion": "1.0", "ce-id": "later", "ce-type": "dev.modelswap.model.activated.v9"}
    await modelswap.publish_raw(headers, b"{}")
    await modelswap.publish(activated("ann", 1))

    async with aclosing(aiter(modelswap.models())) as changes:
        assert await first(changes, 1) == [("ann", 1)]

    assert await modelswap.overflow(1) == ["later"]


async def test_other_events_are_acked_unseen(modelswap):
    await modelswap.publish(ExtractionFailed(training_id="t1", error="no_version", detail="names none"))
    await modelswap.publish(activated("ann", 1))

    async with aclosing(aiter(modelswap.models())) as changes:
        assert await first(changes, 1) == [("ann", 1)]

    assert await modelswap.overflow(0) == []


async def test_the_loop_goes_on_after_an_outage(modelswap):
    await modelswap.publish(activated("ann", 1))

    async with aclosing(aiter(modelswap.models())) as changes:
        before = await first(changes, 1)
        async with modelswap.away():
            waiting = asyncio.create_task(first(changes, 1))
            await asyncio.sleep(0)
            await modelswap.publish(activated("ann", 2))
        after = await waiting

    assert (before, after) == ([("ann", 1)], [("ann", 2)])


async def test_a_lost_connection_is_one_line_without_traceback(amqp_url, caplog):
    caplog.set_level(logging.WARNING, "aiormq")
    async with on_rabbitmq(amqp_url) as modelswap, aclosing(aiter(modelswap.subscribe())) as envelopes:
        await modelswap.publish(activated("ann", 1))
        await anext(envelopes)
        waiting = asyncio.create_task(anext(envelopes))
        async with modelswap.away():
            while "again" not in caplog.text:
                await asyncio.sleep(0.01)
        await modelswap.publish(activated("ann", 2))
        await waiting

    lines = [(each.name, each.exc_info) for each in caplog.records if each.name != "asyncio"]
    assert set(lines) == {("modelswap_events", None)}
    assert caplog.messages[0].startswith("connecting to RabbitMQ again: the connection was lost")


async def test_a_connection_that_closes_without_a_reason_is_away(amqp_url):
    connection = await aiormq.connect(amqp_url)

    async def ask() -> None:
        async with translated("asking"):
            await connection.channel()

    asking = asyncio.create_task(ask())
    await asyncio.sleep(0)  # one turn of the loop: it has begun
    await connection.close(None)

    with pytest.raises(Away, match="asking: the connection was closed"):
        await asking


async def test_the_link_to_a_silent_broker_is_given_up(amqp_url):
    async with proxied(amqp_url) as amqp:
        connection = await aio_pika.connect(amqp.url(amqp_url))
        amqp.hold()

        await RabbitLink(connection, "modelswap.changes.ann").close()

    assert connection.is_closed


async def test_the_programs_own_connections_keep_their_logs(amqp_url, caplog):
    caplog.set_level(logging.WARNING, "aiormq")
    async with on_rabbitmq(amqp_url) as modelswap, proxied(amqp_url) as amqp:
        await modelswap.publish(activated("ann", 1))
        await first(aiter(modelswap.models()), 1)
        connection = await aiormq.connect(amqp.url(amqp_url))
        lost = connection.closing
        amqp.cut()
        await asyncio.wait([lost])

    assert "aiormq.connection" in {each.name for each in caplog.records}


async def test_after_an_outage_only_what_changed_since_is_asked_for(amqp_url):
    async with on_rabbitmq(amqp_url) as modelswap, aclosing(aiter(modelswap.models())) as changes:
        for user in ("ann", "ben", "cleo"):
            modelswap.commit(activated(user, 1))
        await first(changes, 3)
        async with modelswap.away():
            waiting = asyncio.create_task(first(changes, 1))
            await asyncio.sleep(0)
            await modelswap.publish(activated("ann", 2))
        await waiting

    assert [(page.get("updated_since"), page.get("cursor")) for page in modelswap.asked] == [
        (None, None),
        (None, "2"),
        (SINCE, None),
        (SINCE, "2"),
    ]


async def test_a_deleted_queue_is_replaced_by_snapshot_and_log(modelswap):
    await modelswap.publish(activated("ann", 1))

    async with aclosing(aiter(modelswap.models())) as changes:
        assert await first(changes, 1) == [("ann", 1)]
        await modelswap.remove()
        modelswap.commit(activated("ann", 2))
        assert await first(changes, 1) == [("ann", 2)]
        await modelswap.publish(activated("ann", 3))
        assert await first(changes, 1) == [("ann", 3)]


async def test_a_loop_begins_with_the_log_and_goes_on_with_the_queue(modelswap):
    await modelswap.remove()
    modelswap.commit(activated("ann", 1))

    async with aclosing(aiter(modelswap.models())) as changes:
        assert await first(changes, 1) == [("ann", 1)]
        await modelswap.publish(activated("ann", 2))
        assert await first(changes, 1) == [("ann", 2)]
        await modelswap.add()
        async with modelswap.away():
            pass
        await modelswap.publish(activated("ann", 3))
        assert await first(changes, 1) == [("ann", 3)]

    async with aclosing(aiter(modelswap.models())) as changes:
        await first(changes, 1)


async def test_a_second_loop_at_the_same_time_is_refused(modelswap):
    models = modelswap.models()
    changes = aiter(models)

    with pytest.raises(RuntimeError, match="a loop over it runs already"):
        aiter(models)
    with pytest.raises(RuntimeError, match="a loop over it runs already"):
        await models.run(asyncio.sleep)
    await changes.aclose()

    await aiter(models).aclose()


async def test_subscribe_hands_out_the_wanted_events_as_they_are(modelswap):
    failed = ExtractionFailed(training_id="t1", error="no_version", detail="names none")
    for event in (activated("ann", 2), withdrawn("ann", 3), failed, activated("ann", 1), activated("ann", 2)):
        await modelswap.publish(event)
    found = []

    async with asyncio.timeout(60):
        async for envelope in modelswap.subscribe(ModelActivated, ExtractionFailed):
            found.append(envelope.event)
            if len(found) == 4:
                break

    assert [getattr(event, "generation", event.key) for event in found] == [2, failed.key, 1, 2]


@pytest.mark.parametrize("is_anew", [False, True], ids=["as it was", "made anew"])
async def test_subscribe_goes_on_with_the_log(amqp_url, is_anew):
    """Also with one that counts its events from 0 again."""
    user = f"user-{uuid4()}"
    async with on_rabbitmq(amqp_url) as modelswap, asyncio.timeout(60):
        await modelswap.remove()
        envelopes = aiter(modelswap.subscribe(since=now()))
        generations = (
            each.event.generation
            async for each in envelopes
            if isinstance(each.event, ModelActivated) and each.event.user_id == user
        )
        found = []
        for generation in (1, 2):
            await modelswap.publish(activated(user, generation))
            found.append(await anext(generations))
        waiting = asyncio.create_task(first_of(generations))
        async with modelswap.away():
            if is_anew:
                await modelswap.make_log_anew()
            await modelswap.publish(activated(user, 3))
        found.append(await waiting)
        await envelopes.aclose()

    assert found == [1, 2, 3]


async def test_subscribe_reads_the_log_to_its_end_before_a_new_queue(modelswap):
    user = f"user-{uuid4()}"
    await modelswap.remove()
    async with asyncio.timeout(60), aclosing(aiter(modelswap.subscribe(since=now()))) as envelopes:
        generations = (each.event.generation async for each in envelopes if each.event.user_id == user)
        await modelswap.publish(activated(user, 1))
        found = [await anext(generations)]
        waiting = asyncio.create_task(first_of(generations))
        async with modelswap.away():
            await modelswap.publish(activated(user, 2))
            await modelswap.add()
        found.append(await waiting)
        await modelswap.publish(activated(user, 3))
        found.append(await anext(generations))

    assert found == [1, 2, 3]


async def first_of(generations: AsyncIterator[int]) -> int:
    return await anext(generations)


async def test_subscribe_goes_on_with_the_log_where_the_queue_ended(modelswap):
    # The log may hold events of other tests, too.
    user = f"user-{uuid4()}"
    await modelswap.publish(activated(user, 1))

    async with asyncio.timeout(60), aclosing(aiter(modelswap.subscribe())) as envelopes:
        events = (each.event async for each in envelopes if each.event.user_id == user)
        found = [(await anext(events)).generation]
        await modelswap.remove()
        await modelswap.publish(activated(user, 2))
        # What came before may be in the log, too.
        while found[-1] < 2:
            found.append((await anext(events)).generation)

    assert set(found) == {1, 2}
