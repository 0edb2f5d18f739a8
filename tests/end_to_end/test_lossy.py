"""Where progress can be kept nowhere, trainings end in models all the same, and nobody says that he is not ready."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path
from typing import Final

from shared.contract.events import TrainingProgressed
from shared.contract.topology import PROGRESS_QUEUE
from tests.end_to_end.conftest import open_stack
from tests.end_to_end.test_walk import start
from tests.lossy import dropped, readiness
from tests.proxy import proxied
from tests.servers import Urls
from tests.sse import Sent, follow_to_the_end

#: As AMQP writes it: its length first.
_QUEUE: Final = bytes([len(PROGRESS_QUEUE)]) + PROGRESS_QUEUE.encode()
#: What names the queue in a declare and in a consume, and what is published to it.
_NAMES: Final = (
    b"\x00\x32\x00\x0a\x00\x00" + _QUEUE,
    b"\x00\x3c\x00\x14\x00\x00" + _QUEUE,
    bytes([len(TrainingProgressed.key)]) + TrainingProgressed.key.encode(),
)


async def test_trainings_become_models_without_the_progress_queue(servers: Urls, tmp_path: Path):
    async with (
        proxied(servers.amqp_url) as proxy,
        open_stack(tmp_path, replace(servers, amqp_url=proxy.url(servers.amqp_url)), speed=100.0) as (
            stack,
            simulator,
        ),
    ):
        proxy.fall_silent_at(*_NAMES)
        await proxy.until_silenced(1)
        await stack.until_ready()
        begun = await start(stack, "ada")
        await stack.until_stage(begun["training_id"], "active")
        webhooks = {attempt.status for attempt in simulator.attempts}
        receiver, state = await readiness(stack, "receiver"), await readiness(stack, "state")
        lost = await dropped(stack)
        proxy.heal()
        async with asyncio.timeout(240):
            while (await readiness(stack, "state"))[1]["progress"] != "ok":
                await asyncio.sleep(0.1)
            seen: list[Sent] = []
            again = await start(stack, "bob")
            await follow_to_the_end(stack.api, again["ref"], seen)

    assert webhooks == {202}
    assert lost > 0
    assert receiver == (200, {"broker": "ok", "webhook_secret": "ok", "progress": receiver[1]["progress"]})
    assert receiver[1]["progress"].endswith("only reports of progress are dropped")
    assert state[0] == 200
    assert state[1]["progress"].startswith("modelswap.progress is not being consumed")
    assert any(0 < sent.training["progress"] < 100 for sent in seen)
