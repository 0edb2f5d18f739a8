"""Webhooks of the simulated Replicate as a receiver sees them: signed, and repeated only as promised or ordered."""

import asyncio
import base64
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime
from typing import Any

import pytest
from standardwebhooks import Webhook, WebhookVerificationError
from structlog.testing import capture_logs

from services.simulator.faults import FaultOrder, WebhookEvent
from services.simulator.requests import TrainingRequest
from services.simulator.simulator import Simulator
from services.simulator.training import Training
from tests.hooks import Receiver, receiving

#: A training takes a tenth of a second.
QUICK: dict[str, Any] = {"speed": 1000, "boot_seconds": 10, "duration_seconds": 100, "log_interval_real_seconds": 0}
ALL = list(WebhookEvent)


@pytest.fixture
async def receiver() -> AsyncIterator[Receiver]:
    async with receiving() as receiver:
        yield receiver


@pytest.fixture
async def simulate() -> AsyncIterator[Callable[..., Simulator]]:
    """Makes simulators, closes them, and minds that none of them broke."""
    made: list[Simulator] = []

    def simulate(**knobs: Any) -> Simulator:
        made.append(Simulator(**{**QUICK, **knobs}))
        return made[-1]

    with capture_logs() as logged:
        yield simulate
        for simulator in made:
            await simulator.close()
    assert logged == []


def train(simulator: Simulator, webhook: str, events: list[WebhookEvent] = ALL, **faults: Any) -> Training:
    if faults:
        simulator.order(FaultOrder(**faults))
    request = TrainingRequest(
        destination="acme/u-42", input={"steps": 20}, webhook=webhook, webhook_events_filter=frozenset(events)
    )
    training = simulator.world.create_training(
        request, trainer="a/b", version="e" * 64, api_url="http://here", now=simulator.now()
    )
    assert training is not None
    return training


async def settle(simulator: Simulator) -> None:
    async with asyncio.timeout(60):
        await simulator.settled()


async def test_every_webhook_is_signed_and_says_what_was_so(receiver, simulate):
    simulator = simulate()
    training = train(simulator, receiver.url, late_logs_seconds=1)

    await settle(simulator)

    for hook in receiver.hooks:
        hook.verify(simulator.secret)
        assert hook.training["id"] == training.id
    assert {attempt.event for attempt in simulator.attempts} == set(WebhookEvent)
    assert receiver.statuses_told.count("succeeded") == 1
    assert set(receiver.statuses_told) == {"processing", "succeeded"}
    assert len({hook.id for hook in receiver.hooks}) == len(receiver.hooks)
    assert set(receiver.targets) == {"/hook?ref=1"}


async def test_only_what_was_asked_for_is_told(receiver, simulate):
    simulator = simulate()
    train(simulator, receiver.url, [WebhookEvent.COMPLETED])

    await settle(simulator)

    assert receiver.statuses_told == ["succeeded"]


async def test_a_secret_can_be_chosen(receiver, simulate):
    secret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
    simulator = simulate(secret=secret)
    train(simulator, receiver.url)

    await settle(simulator)

    assert simulator.secret == secret
    receiver.hooks[0].verify(secret)


@pytest.mark.parametrize("status", [301, 400, 401, 404, 413, 500, 503])
async def test_the_end_is_told_again_until_it_is_taken(receiver, simulate, status):
    receiver.statuses = [status, status, 202]
    simulator = simulate()
    train(simulator, receiver.url, [WebhookEvent.COMPLETED])

    await settle(simulator)

    assert [attempt.status for attempt in simulator.attempts] == [status, status, 202]
    assert [attempt.number for attempt in simulator.attempts] == [1, 2, 3]
    assert len({hook.id for hook in receiver.hooks}) == 1
    assert len({hook.body for hook in receiver.hooks}) == 1
    assert set(receiver.targets) == {"/hook?ref=1"}
    for hook in receiver.hooks:
        hook.verify(simulator.secret)


async def test_every_attempt_is_signed_anew(receiver, simulate):
    receiver.statuses = [500, 202]
    simulator = simulate(retry_delays_real_seconds=(1.1,))
    train(simulator, receiver.url, [WebhookEvent.COMPLETED])

    await settle(simulator)

    first, second = (hook.headers for hook in receiver.hooks)
    assert int(first["webhook-timestamp"]) < int(second["webhook-timestamp"])
    assert first["webhook-signature"] != second["webhook-signature"]


async def test_an_end_that_nobody_takes_is_given_up(receiver, simulate):
    receiver.statuses = [500]
    simulator = simulate()
    train(simulator, receiver.url, [WebhookEvent.COMPLETED])

    await settle(simulator)

    assert len(receiver.hooks) == 6


async def test_the_schedule_of_retries_can_be_chosen(receiver, simulate):
    receiver.statuses = [500]
    simulator = simulate(retry_delays_real_seconds=(0.01, 0.02))
    train(simulator, receiver.url, [WebhookEvent.COMPLETED])

    await settle(simulator)

    assert len(receiver.hooks) == 3


async def test_whatever_is_not_the_end_is_told_once(receiver, simulate):
    receiver.statuses = [500]
    simulator = simulate()
    train(simulator, receiver.url, [WebhookEvent.START, WebhookEvent.OUTPUT])

    await settle(simulator)

    assert receiver.statuses_told == ["processing", "processing"]


async def test_a_receiver_that_is_away_is_tried_again(simulate):
    simulator = simulate()
    train(simulator, "http://127.0.0.1:9/", [WebhookEvent.COMPLETED])

    await settle(simulator)

    assert [attempt.status for attempt in simulator.attempts] == [None] * 6


async def test_a_receiver_that_never_answers_counts_as_away(simulate):
    async def hang(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    simulator = simulate(webhook_timeout_real_seconds=0.05, retry_delays_real_seconds=(0.01,))
    async with await asyncio.start_server(hang, "127.0.0.1", 0) as server:
        train(simulator, f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/", [WebhookEvent.COMPLETED])
        await settle(simulator)

    assert [attempt.status for attempt in simulator.attempts] == [None, None]


@pytest.mark.parametrize("outcome", ["failed", "canceled", "aborted"])
async def test_every_end_is_told(receiver, simulate, outcome):
    simulator = simulate()
    train(simulator, receiver.url, outcome=outcome)

    await settle(simulator)

    assert receiver.statuses_told.count(outcome) == 1


async def test_a_cancel_is_told_at_once(receiver, simulate):
    simulator = simulate(duration_seconds=10_000_000)
    training = train(simulator, receiver.url, [WebhookEvent.START, WebhookEvent.COMPLETED])
    await receiver.until(lambda: receiver.statuses_told == ["processing"])

    canceled = simulator.world.cancel(training, now=simulator.now())
    await settle(simulator)

    assert canceled.life.outcome == "canceled"
    assert receiver.statuses_told == ["processing", "canceled"]


async def test_a_running_training_can_be_made_to_fail(receiver, simulate):
    simulator = simulate(duration_seconds=10_000_000)
    training = train(simulator, receiver.url, [WebhookEvent.START, WebhookEvent.COMPLETED])
    await receiver.until(lambda: receiver.statuses_told == ["processing"])

    assert simulator.order(FaultOrder(training_id=training.id, outcome="failed", error="disk full"))
    await settle(simulator)

    assert receiver.statuses_told == ["processing", "failed"]
    assert receiver.hooks[-1].training["error"] == "disk full"
    assert not simulator.order(FaultOrder(training_id=training.id, outcome="failed"))


async def test_webhooks_can_come_more_than_once(receiver, simulate):
    simulator = simulate()
    train(simulator, receiver.url, [WebhookEvent.START, WebhookEvent.COMPLETED], duplicate=2)

    await settle(simulator)

    ids = [hook.id for hook in receiver.hooks]
    assert {ids.count(each) for each in ids} == {3}
    assert len(ids) == 6


async def test_the_end_can_come_first(receiver, simulate):
    simulator = simulate()
    train(simulator, receiver.url, reorder=True)

    await settle(simulator)

    assert receiver.statuses_told == ["succeeded", "processing", "processing", "processing"]


async def test_logs_can_come_after_the_end(receiver, simulate):
    simulator = simulate(log_interval_real_seconds=1000)
    train(simulator, receiver.url, [WebhookEvent.LOGS, WebhookEvent.COMPLETED], late_logs_seconds=50)

    await settle(simulator)

    late = receiver.hooks[-1].training
    assert "succeeded" in receiver.statuses_told
    assert late["status"] == "processing"
    assert late["logs"].endswith("lora.safetensors\n")


@pytest.mark.parametrize(("dropped", "told"), [(["output", "logs", "completed"], ["processing"]), (ALL, [])])
async def test_webhooks_can_stay_away(receiver, simulate, dropped, told):
    simulator = simulate()
    train(simulator, receiver.url, drop=dropped)

    await settle(simulator)

    assert receiver.statuses_told == told


async def test_a_signature_can_be_wrong(receiver, simulate):
    receiver.statuses = [401]
    simulator = simulate()
    train(simulator, receiver.url, [WebhookEvent.COMPLETED], bad_signature=True)

    await settle(simulator)

    assert len(receiver.hooks) == 6
    for hook in receiver.hooks:
        with pytest.raises(WebhookVerificationError, match="No matching signature"):
            hook.verify(simulator.secret)


async def test_a_timestamp_can_be_old_under_a_good_signature(receiver, simulate):
    simulator = simulate()
    train(simulator, receiver.url, [WebhookEvent.COMPLETED], old_timestamp_seconds=3600)

    await settle(simulator)

    (hook,) = receiver.hooks
    with pytest.raises(WebhookVerificationError, match="too old"):
        hook.verify(simulator.secret)
    key = base64.b64decode(simulator.secret.removeprefix("whsec_"))
    signed_at = datetime.fromtimestamp(int(hook.headers["webhook-timestamp"]), UTC)
    signed = Webhook(key).sign(hook.id, signed_at, hook.body.decode())
    assert hook.headers["webhook-signature"] == signed


async def test_a_body_can_be_huge(receiver, simulate):
    simulator = simulate()
    train(simulator, receiver.url, [WebhookEvent.COMPLETED], huge_logs=230_000)

    await settle(simulator)

    receiver.hooks[0].verify(simulator.secret)
    assert len(receiver.hooks[0].body) > 230_000


async def test_closing_leaves_no_task_behind(receiver, simulate):
    before = asyncio.all_tasks()
    simulator = simulate(speed=1)
    for _ in range(50):
        train(simulator, receiver.url)
    assert len(asyncio.all_tasks() - before) == 50

    await simulator.close()

    assert asyncio.all_tasks() <= before
