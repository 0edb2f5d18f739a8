"""One training is one trace, over all processes; a replay is a trace of its own that names the one that failed."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from typing import Any, Final
from uuid import uuid4

import pytest

from services.simulator.faults import ApiFaultOrder
from services.simulator.simulator import Simulator
from tests.collector import Collector, collecting
from tests.end_to_end.conftest import SELF_STARTED, open_stack
from tests.end_to_end.test_logs import TRACE, TRAINER, complete, register
from tests.end_to_end.test_replays import planted_bug, say, until
from tests.end_to_end.test_walk import told
from tests.servers import Urls
from tests.stack import API_TOKEN, OPS_TOKEN, REPLICATE_TOKEN, SERVICES, Stack, plain_client
from tests.webhooks import Endpoint

#: What state does in Postgres about an event.
WRITTEN: Final = (
    "state CLIENT UPDATE state.users INSERT state.inbox UPDATE state.trainings SELECT state.trainer_durations"
    " INSERT state.model_history INSERT state.user_models INSERT state.outbox"
)
APPLIED: Final = f"""
state CLIENT SELECT state.users SELECT state.trainings SELECT state.model_history SELECT state.inbox SELECT state.user_models
{WRITTEN}
"""  # noqa: E501
SUCCEEDED: Final = "modelswap.training:training.succeeded.v1"
LOOKED: Final = "extractor CLIENT GET /v1/models/{owner}/{name}/versions/{version}"


def below(depth: int, lines: str) -> str:
    return "\n".join("  " * depth + line for line in lines.strip("\n").splitlines())


#: What follows from a model that was verified.
ACTIVATED: Final = f"""
extractor PRODUCER publish modelswap.events:model.ready.v1
  state CONSUMER process modelswap.events:model.ready.v1:modelswap.state
{below(2, APPLIED)}
    state PRODUCER publish modelswap.events:model.activated.v1
"""
#: State hears of the end, too.
HEARD: Final = f"""
state CONSUMER process {SUCCEEDED}:modelswap.state
{below(1, APPLIED)}
"""
WALK: Final = f"""
receiver SERVER POST /webhooks/replicate
  receiver PRODUCER publish {SUCCEEDED}
    extractor CONSUMER process {SUCCEEDED}:modelswap.extractor
      {LOOKED}
{below(3, ACTIVATED)}
{below(2, HEARD)}
"""
ANNOUNCED: Final = "          state PRODUCER publish modelswap.events:model.activated.v1\n"
#: What the notifier does for an endpoint.
TOLD: Final = """
notifier PRODUCER publish modelswap.training:delivery.requested.v1
  notifier CONSUMER process modelswap.training:delivery.requested.v1:modelswap.deliveries
    notifier CLIENT BEGIN
    notifier CLIENT COMMIT
    notifier CLIENT POST
    notifier CLIENT SELECT notifier.deliveries SELECT notifier.events SELECT notifier.endpoints
    notifier CLIENT UPDATE notifier.deliveries
    notifier CLIENT UPDATE notifier.endpoints
"""
WALK_AND_TOLD: Final = WALK.replace(ANNOUNCED, f"{ANNOUNCED}{below(6, TOLD)}\n")
RETRIED: Final = f"""
receiver SERVER POST /webhooks/replicate
  receiver PRODUCER publish {SUCCEEDED}
    extractor CONSUMER process {SUCCEEDED}:modelswap.extractor FAILED
      {LOOKED} FAILED
      extractor PRODUCER publish modelswap.delay.200ms:modelswap.extractor
        extractor CONSUMER process modelswap.extractor
          {LOOKED}
{below(5, ACTIVATED)}
{below(2, HEARD)}
"""
DEAD: Final = f"""
receiver SERVER POST /webhooks/replicate
  receiver PRODUCER publish {SUCCEEDED}
    extractor CONSUMER process {SUCCEEDED}:modelswap.extractor FAILED
      extractor PRODUCER publish modelswap.dead:modelswap.extractor
        ops CONSUMER process modelswap.dead:modelswap.extractor
          ops CLIENT BEGIN
          ops CLIENT COMMIT
          ops CLIENT INSERT ops.letters
      extractor PRODUCER publish modelswap.events:extraction.failed.v1
        state CONSUMER process modelswap.events:extraction.failed.v1:modelswap.state
{below(5, APPLIED)}
{below(2, HEARD)}
"""
REPLAYED: Final = f"""
ops INTERNAL replay
  ops PRODUCER publish modelswap.extractor
    extractor CONSUMER process modelswap.extractor
      {LOOKED}
{below(3, ACTIVATED)}
          state PRODUCER publish modelswap.training:replay.settled.v1
            ops CONSUMER process modelswap.training:replay.settled.v1:modelswap.ops
              ops CLIENT BEGIN
              ops CLIENT COMMIT
              ops CLIENT SELECT ops.replay_letters SELECT ops.letters
              ops CLIENT UPDATE ops.letters
              ops CLIENT UPDATE ops.replay_letters
"""


#: State reads a training as its API shows it.
SHOWN: Final = (
    "state CLIENT SELECT state.user_models SELECT state.model_history SELECT state.trainer_durations"
    " SELECT state.trainings"
)
STARTED: Final = f"""
state SERVER POST /v1/trainings
  state CLIENT BEGIN
  state CLIENT BEGIN
  state CLIENT COMMIT
  state CLIENT COMMIT
  state CLIENT INSERT state.users INSERT state.trainings INSERT state.model_parts
  state CLIENT POST /v1/models/{{owner}}/{{name}}/versions/{{version}}/trainings
  {SHOWN}
  {SHOWN}
  {SHOWN}
  state CLIENT UPDATE state.users
  {WRITTEN}
"""
ROLLED_BACK: Final = f"""
state SERVER POST /v1/users/{{user_id}}/model/rollback
  state CLIENT BEGIN
  state CLIENT COMMIT
  state CLIENT SELECT state.model_history
  state CLIENT SELECT state.model_history SELECT state.trainings
  state CLIENT SELECT state.trainings
  state CLIENT SELECT state.user_models
  state CLIENT UPDATE state.users
  state CLIENT UPDATE state.users
{below(1, APPLIED.strip().splitlines()[1])}
  state PRODUCER publish modelswap.events:model.activated.v1
  state PRODUCER publish modelswap.training:model.reverted.v1
    ops CONSUMER process modelswap.training:model.reverted.v1:modelswap.ops
      ops CLIENT BEGIN
      ops CLIENT COMMIT
      ops CLIENT INSERT ops.audit SELECT ops.audit
"""
RETRY_REFUSED: Final = f"""
ops SERVER POST /v1/trainings/{{training_id}}/retry-extraction
  ops CLIENT BEGIN
  ops CLIENT BEGIN
  ops CLIENT COMMIT
  ops CLIENT COMMIT
  ops CLIENT INSERT ops.audit
  ops CLIENT INSERT ops.audit
  state SERVER POST /v1/trainings/{{training_id}}/retry-extraction
    state CLIENT BEGIN
    state CLIENT ROLLBACK
    state CLIENT SELECT state.trainings
    {SHOWN}
    state CLIENT UPDATE state.users
"""


@pytest.fixture(scope="module")
async def traced(
    servers: Urls, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[tuple[Stack, Simulator, Collector]]:
    """A stack that sends all spans, and nothing else, to a collector."""
    folder = tmp_path_factory.mktemp("traced")
    with collecting() as collector:
        # FastAPI has spans of its own, with addresses and users in them.
        settings = {**collector.environment, "FASTAPI_OTEL_AUTO_CONFIGURE": "true"}
        async with open_stack(folder, servers, settings=settings) as (stack, simulator):
            yield stack, simulator, collector
        # Stopped processes have sent everything.
        for trace_id, expected in collector.expected.items():
            assert collector.tree(trace_id) == expected
        assert collector.paths == {"/v1/traces"}


@pytest.fixture
def stack(traced: tuple[Stack, Simulator, Collector]) -> Stack:
    return traced[0]


@pytest.fixture
def simulator(traced: tuple[Stack, Simulator, Collector]) -> Simulator:
    return traced[1]


@pytest.fixture
def collector(traced: tuple[Stack, Simulator, Collector]) -> Collector:
    return traced[2]


async def train(stack: Stack) -> tuple[str, str]:
    """Register a training that the product starts by itself, and post its webhook: its user and its id."""
    user, training_id = f"user-{uuid4().hex[:8]}", f"t{uuid4().hex[:25]}"
    _, webhook_url = await register(stack, user)
    await complete(stack, training_id, user, webhook_url)
    return user, training_id


def lines_of(stack: Stack, training_id: str) -> list[dict[str, Any]]:
    found = (line for name in SERVICES for line in stack.processes[name].lines())
    return [line for line in found if line.get("training_id") == training_id and line["event"] != "training.registered"]


async def test_a_training_is_one_trace_up_to_its_subscribers(stack, collector):
    async with stack.broker.subscribed("modelswap.events", "model.activated.v1") as queue:
        user, training_id = await train(stack)
        activated = await told(stack, queue, user, 1)
    _, trace_id, publish_id, _ = activated.headers["traceparent"].split("-")

    await collector.until_tree(trace_id, WALK)

    spans = {span.name: span for span in collector.spans if span.trace_id == trace_id}
    published = spans["publish modelswap.events:model.activated.v1"]
    assert published.span_id == publish_id
    # The header is not signed, so the trace in it is linked, not joined.
    (link,) = spans["POST /webhooks/replicate"].links
    assert (link[0], trace_id != TRACE) == (TRACE, True)
    assert {line["trace_id"] for line in lines_of(stack, training_id)} == {trace_id}
    assert published.attributes == {
        "messaging.system": "rabbitmq",
        "messaging.operation.name": "publish",
        "messaging.operation.type": "send",
        "messaging.destination.name": "modelswap.events:model.activated.v1",
        "messaging.rabbitmq.destination.routing_key": "model.activated.v1",
        "messaging.message.id": activated.headers["ce-id"],
        "messaging.message.conversation_id": training_id,
    }


async def test_no_attribute_names_a_user_or_holds_a_secret(stack, collector):
    user, training_id = await train(stack)
    await stack.until_stage(training_id, "active")
    await collector.until_tree(await collector.trace_of(training_id), WALK)
    trace_id, headers = called()
    (await stack.api.get(f"/v1/users/{user}/model?x=acme", headers=headers)).read()
    await collector.until_tree(trace_id, "state SERVER GET /v1/users/{user_id}/model")

    said = [str(value) for span in collector.spans for value in (span.name, *span.attributes.values())]

    assert said
    secrets = [user, "acme", SELF_STARTED, "://", "127.0.0.1", "@", API_TOKEN, OPS_TOKEN, REPLICATE_TOKEN]
    assert [text for text in said if any(secret in text for secret in secrets)] == []


async def test_a_retry_is_in_the_trace_of_its_training(stack, simulator, collector):
    simulator.world.orders.add_for_calls(ApiFaultOrder(route="versions.get", status=404, next=1))

    _, training_id = await train(stack)

    await stack.until_stage(training_id, "active")
    trace_id = await collector.trace_of(training_id)
    await collector.until_tree(trace_id, RETRIED)
    processed = [span for span in collector.spans if span.trace_id == trace_id and span.service == "extractor"]
    assert [span.attributes["modelswap.attempt"] for span in processed if "modelswap.attempt" in span.attributes] == [2]
    (failed,) = [span for span in processed if span.is_failed and span.kind == "CONSUMER"]
    assert failed.attributes["error.type"] == "version_not_there_yet"
    assert {line["trace_id"] for line in lines_of(stack, training_id)} == {trace_id}


async def test_a_replay_names_the_trace_that_failed(stack, collector):
    async with planted_bug(stack):
        _, training_id = await train(stack)
        line = await stack.dead_letter(training_id)
        failed_id = await collector.trace_of(training_id)
        await collector.until_tree(failed_id, DEAD)
    letter = (await stack.ops.get(f"/v1/dead-letters/{line['number']}")).json()

    replay = await say(stack, "/replays", {"letters": [line["number"]], "reason": "mended"})
    await until(stack, replay, "done")

    began = await collector.span("replay")
    await collector.until_tree(began.trace_id, REPLAYED)
    assert letter["trace_id"] == failed_id
    (link,) = began.links
    (dead,) = [
        span
        for span in collector.spans
        if span.trace_id == failed_id and span.name == "publish modelswap.dead:modelswap.extractor"
    ]
    assert link == (failed_id, dead.span_id)
    async with asyncio.timeout(60):
        # A line may follow what it tells of.
        while len(lines := [line for line in lines_of(stack, training_id) if line["service"] == "ops"]) < 3:
            await asyncio.sleep(0.05)
    assert [(line["event"], line["trace_id"]) for line in lines] == [
        ("dead_letter.kept", failed_id),
        ("dead_letter.replayed", began.trace_id),
        ("delivery.handled", began.trace_id),
    ]


async def start(stack: Stack, user: str, headers: Mapping[str, str] | None = None) -> str:
    """Have the product start a training: its id."""
    asked = {"user_id": user, "destination": f"acme/{user}", "trainer": TRAINER, "input": {"steps": 1000}}
    answer = await stack.api.post("/v1/trainings", json=asked, headers=headers)
    training_id: str = answer.raise_for_status().json()["training_id"]
    return training_id


def called() -> tuple[str, Mapping[str, str]]:
    """A trace of a caller, and the headers of its requests."""
    trace_id = uuid4().hex
    return trace_id, {"traceparent": f"00-{trace_id}-{'c' * 16}-01"}


async def test_a_start_is_traced_up_to_replicate(stack, collector):
    trace_id, headers = called()

    training_id = await start(stack, f"user-{uuid4().hex[:8]}", headers)

    await collector.until_tree(trace_id, STARTED)
    lines = [line for name in SERVICES for line in stack.processes[name].lines() if line.get("trace_id") == trace_id]
    assert [(line["event"], line["training_id"]) for line in lines] == [
        ("training.registered", None),
        ("training.started", training_id),
    ]


async def test_a_rollback_is_one_trace_up_to_its_subscribers(stack, collector):
    user, (trace_id, headers) = f"user-{uuid4().hex[:8]}", called()
    for _ in range(2):
        await stack.until_stage(await start(stack, user), "active")

    async with stack.broker.subscribed("modelswap.events", "model.activated.v1") as queue:
        asked = {"reason": "blurred"}
        answer = await stack.api.post(f"/v1/users/{user}/model/rollback", json=asked, headers=headers)
        activated = await told(stack, queue, user, 3)

    answer.raise_for_status()
    assert activated.headers["traceparent"].split("-")[1] == trace_id
    await collector.until_tree(trace_id, ROLLED_BACK)


async def test_a_request_of_ops_to_state_is_in_one_trace(stack, collector):
    _, training_id = await train(stack)
    await stack.until_stage(training_id, "active")
    trace_id, headers = called()

    answer = await stack.ops.post(
        f"/v1/trainings/{training_id}/retry-extraction", json={"reason": "looked at"}, headers=headers
    )

    assert answer.status_code == 409, answer.text
    await collector.until_tree(trace_id, RETRY_REFUSED)


async def test_a_webhook_endpoint_is_told_the_trace(stack, collector):
    async with Endpoint(host="127.0.0.1") as endpoint, plain_client(headers=stack.api.headers) as client:
        body = {"url": endpoint.url, "events": ["model.activated.v1"]}
        added = await client.post(f"{stack.url('notifier')}/v1/webhook-endpoints", json=body)
        _, training_id = await train(stack)
        (heard,) = await endpoint.until_heard(1)
        trace_id = await collector.trace_of(training_id)
        (await client.delete(f"{stack.url('notifier')}/v1/webhook-endpoints/{added.json()['id']}")).raise_for_status()

    await collector.until_tree(trace_id, WALK_AND_TOLD)

    assert heard.headers["traceparent"].split("-")[1] == trace_id
