"""A day of operations on real servers: what the console's screens show, for screenshots and tests."""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import quote

from services.simulator.faults import FaultOrder
from services.simulator.job import Status
from services.simulator.simulator import Simulator
from shared.contract.errors import PermanentError
from shared.contract.topology import EXTRACTOR_QUEUE, topology
from shared.runtime.broker import Delivery, Publisher, dead_letter
from shared.runtime.clock import now
from tests.crowd import fill
from tests.end_to_end.conftest import SELF_STARTED
from tests.end_to_end.test_replays import (
    ask,
    in_parallel,
    planted_bug,
    register,
    say,
    succeed,
    until,
    until_ended,
    until_open,
    until_undone,
)
from tests.end_to_end.test_walk import start
from tests.stack import Stack, plain_client

#: Users of the incident: their trainings ended well, and the parser does not find the model.
VICTIMS: Final = (
    "nadia",
    "oskar",
    "priya",
    "quentin",
    "rosa",
    "samir",
    "tove",
    "uma",
    "viktor",
    "wanda",
    "xenia",
    "yusuf",
)
#: Those of them that had a model before.
RETRAINED: Final = 7
_RUNNING: Final = ("ada", "ben", "cleo", "dora")
#: Simulated seconds, so that a training runs as long as anybody looks.
_LONG: Final = 40_000.0
#: What users may control, and a page must show as it is.
HOSTILE: Final = '<script>alert("owned")</script><img src=x onerror=alert(1)> {{7*7}} ${7*7} \' "&amp;'
#: Turns the direction of what follows it.
_TURNED: Final = "\u202egnp.exe"


#: The screens that have something to say about nothing.
EMPTY: Final = {
    "sign-in": "/sign-in",
    "now": "/",
    "trainings": "/trainings",
    "changes": "/trainings?show=changes",
    "dead-letters": "/dead-letters",
    "dead-letters-list": "/dead-letters?show=list",
    "replays": "/replays",
    "replay-new": "/replays/new",
    "queues": "/queues",
    "audit": "/audit",
    "search": "/search?q=na",
}


@dataclass(frozen=True)
class Scene:
    """What there is to look at."""

    user: str
    training: str
    running: str
    unverified: str
    #: A training whose user's name and failure are hostile.
    odd: str
    #: The incident's dead letters that are open, and their group.
    group: str
    letter: int
    hostile: int
    binary: int
    replays: dict[str, str]
    #: A webhook endpoint.
    endpoint: str

    def screens(self) -> dict[str, str]:
        """The address of each screen."""
        return {
            **EMPTY,
            "training": f"/trainings/{self.training}",
            "training-running": f"/trainings/{self.running}",
            "training-unverified": f"/trainings/{self.unverified}",
            "training-hostile": f"/trainings/{self.odd}",
            "user": f"/users/{self.user}",
            "user-rollback": f"/users/{self.user}?rollback=",
            "user-withdraw": f"/users/{self.user}?withdraw=",
            "user-hostile": f"/users/{quote(HOSTILE, safe='')}",
            "dead-letters-filtered": f"/dead-letters?fingerprint={self.group}",
            "dead-letter": f"/dead-letters/{self.letter}",
            "dead-letter-edit": f"/dead-letters/{self.letter}/edit",
            "dead-letter-drop": f"/dead-letters/drop?letters={self.letter}",
            "dead-letter-hostile": f"/dead-letters/{self.hostile}",
            "dead-letter-binary": f"/dead-letters/{self.binary}",
            "replay-new-group": f"/replays/new?fingerprint={self.group}",
            **{f"replay-{name}": f"/replays/{number}" for name, number in self.replays.items()},
            "replay-undo": f"/replays/{self.replays['half']}/undo",
            "webhook-endpoint": f"/queues/webhooks/{self.endpoint}",
        }


async def set_scene(stack: Stack, simulator: Simulator, *, crowd: bool = True, made_up: bool = True) -> Scene:
    """Let all of it happen; *crowd* adds a past of 30 days, *made_up* dead letters that no service of ours made."""
    if crowd:
        await fill(stack.database_url, trainings=3000, letters=220, groups=9)
    users, retrained = list(VICTIMS), VICTIMS[:RETRAINED]
    trained = await start(stack, "maya")
    await in_parallel(lambda user: register(stack, f"first-{user}", user), retrained)
    await in_parallel(lambda user: succeed(stack, f"first-{user}", user, SELF_STARTED), retrained)
    await stack.until_stage(trained["training_id"], "active")
    again = await start(stack, "maya")
    await stack.until_stage(again["training_id"], "active")
    await _others_fail(stack, simulator)
    odd = await _odd_user(stack, simulator)

    await in_parallel(lambda user: register(stack, f"t-{user}", user), users)
    for user in retrained:
        await stack.until_stage(f"first-{user}", "active")
    async with planted_bug(stack):
        await in_parallel(lambda user: succeed(stack, f"t-{user}", user), users)
        found = await until_open(stack, len(users), error_class="NoModel", text="the output names no model")
        # The bug is there still, so these return.
        (early, *_) = found
        tried = await say(stack, "/replays", {"letters": [early["number"]], "reason": "perhaps it heals"})
        await until(stack, tried, "done")
    numbers = [each["number"] for each in found]
    replays = await _replay(stack, sorted(numbers))

    model = await stack.model("maya")
    assert model is not None
    rolled = await stack.api.post("/v1/users/maya/model/rollback", json={"reason": "the new one squints"})
    assert rolled.is_success, rolled.text
    hostile = await _odd_letters(stack) if made_up else [0, 0]
    dropped = (await ask(stack, "/dead-letters", error_code="destination_mismatch", limit=1))["items"][0]["number"]
    await say(stack, f"/dead-letters/{dropped}/drop", {"reason": "the product deleted that user"})
    endpoint = await _listeners(stack)
    running = await _running(stack, simulator)
    return Scene(
        user="maya",
        training=again["training_id"],
        running=running,
        unverified=f"t-{VICTIMS[-1]}",
        odd=odd,
        group=found[0]["fingerprint"],
        letter=max(numbers),
        hostile=hostile[0],
        binary=hostile[1],
        replays=replays,
        endpoint=endpoint,
    )


async def _others_fail(stack: Stack, simulator: Simulator) -> None:
    """Trainings that end in other ways."""
    ends: dict[str, dict[str, Any]] = {
        "finn": {"outcome": Status.FAILED},
        "gus": {"outcome": Status.CANCELED},
        "hana": {"foreign_version": True},
        "ivo": {"no_prompt": True},
        "jun": {"foreign_version": True},
    }
    for user, faults in ends.items():
        simulator.order(FaultOrder.model_validate({**faults, "destination": f"acme/{user}"}))
        await start(stack, user)
    async with asyncio.timeout(60):
        while (await ask(stack, "/dead-letters", status="open", error_code="destination_mismatch"))["items"][1:] == []:
            await asyncio.sleep(0.1)


async def _odd_user(stack: Stack, simulator: Simulator) -> str:
    """A user with a hostile name, whose training fails with a hostile reason; its id."""
    faults = {"destination": "acme/odd", "outcome": Status.FAILED, "error": HOSTILE}
    simulator.order(FaultOrder.model_validate(faults))
    started = await start(stack, HOSTILE, destination="acme/odd", trigger_word="<b>TOK</b>")
    await stack.until_stage(started["training_id"], "failed")
    return str(started["training_id"])


async def _replay(stack: Stack, numbers: list[int]) -> dict[str, str]:
    """One replay undone, one half done, one previewed; the last letters stay open."""
    undone = await say(
        stack, "/replays", {"letters": numbers[:2], "reason": "the parser reads it now", "steps": ["rest"]}
    )
    await until(stack, undone, "done")
    await say(stack, f"/replays/{undone['id']}/undo", {"reason": HOSTILE})
    await until_undone(stack, undone)
    half = {
        "letters": numbers[2:9],
        "reason": "parser fixed in 1.4.2",
        "rate_per_second": 1,
        "steps": [1, "50%", "rest"],
    }
    running = await say(stack, "/replays", half)
    await until_ended(stack, running, 3)
    await say(stack, f"/replays/{running['id']}/pause", {"reason": "wait for the product's word"})
    planned = {"letters": numbers[9:], "reason": "parser fixed in 1.4.2", "dry_run": True}
    previewed = await say(stack, "/replays", planned)
    await until(stack, previewed, "previewed")
    return {"undone": undone["id"], "half": running["id"], "previewed": previewed["id"]}


async def _odd_letters(stack: Stack) -> list[int]:
    """Dead letters of messages that somebody made up; their numbers."""
    known = {each["number"] for each in await stack.dead_letters(queue=EXTRACTOR_QUEUE, limit="200")}
    hostile = json.dumps({"training_id": "odd", "output": {HOSTILE: ["</script>" * 3, None]}, "logs": "wide" * 200})
    bodies = {
        HOSTILE + _TURNED: (hostile.encode(), "application/json"),
        "not JSON": (bytes(range(256)) * 4, "application/octet-stream"),
    }
    amqp_url = stack.environment["MODELSWAP_AMQP_URL"]
    async with Publisher(amqp_url, name="test", topology=topology(), timeout_seconds=60) as publisher:
        for text, (body, kind) in bodies.items():
            delivery = Delivery(
                queue=EXTRACTOR_QUEUE,
                tag=0,
                exchange="modelswap.training",
                routing_key="training.succeeded.v1",
                headers={"ce-id": text[:200], "ce-type": "dev.modelswap.training.succeeded.v1", HOSTILE[:60]: HOSTILE},
                content_type=kind,
                body=body,
            )
            await publisher.publish(dead_letter(delivery, PermanentError(text, code="bad_event"), now=now()))
    async with asyncio.timeout(60):
        while True:
            found = [each["number"] for each in await stack.dead_letters(queue=EXTRACTOR_QUEUE, limit="200")]
            if len(made := sorted(set(found) - known)) == len(bodies):
                return made
            await asyncio.sleep(0.1)


async def _listeners(stack: Stack) -> str:
    """A subscription, and a webhook endpoint that does not answer; the endpoint's id."""
    # The stack's delays are short: the endpoint would be called five times a second for as long as anybody looks.
    process = stack.processes["notifier"]
    process.environment["MODELSWAP_RETRY_DELAYS"] = "1h"
    process.stop()
    process.start()
    await stack.until_ready("notifier")
    body = {"events": ["model.activated.v1"], "description": "the app's notifications"}
    async with plain_client(base_url=stack.url("notifier"), headers=stack.api.headers) as notifier:
        made = await notifier.post("/v1/webhook-endpoints", json={**body, "url": "http://127.0.0.1:9/modelswap"})
        assert made.is_success, made.text
        answer = await notifier.post(f"/v1/webhook-endpoints/{made.json()['id']}/test")
        assert answer.is_success, answer.text
    if "MODELSWAP_MANAGEMENT_URL" in stack.environment:
        await stack.ops.put("/v1/subscriptions/generator", json={"events": ["model.activated.v1"]})
    return str(made.json()["id"])


async def _running(stack: Stack, simulator: Simulator) -> str:
    """Trainings that run for as long as anybody looks; the id of one."""
    simulator.order(FaultOrder.model_validate({"next": len(_RUNNING), "duration_seconds": _LONG}))
    started = [await start(stack, user) for user in _RUNNING]
    for each in started:
        await stack.until_stage(each["training_id"], "running")
    return str(started[0]["training_id"])
