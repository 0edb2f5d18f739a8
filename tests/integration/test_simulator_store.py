"""A simulator with a file knows its trainings again after a restart, and posts what has not left yet."""

import asyncio
import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from services.simulator.faults import WebhookEvent
from services.simulator.models import About, Model
from services.simulator.requests import JobRequest, TrainingRequest
from services.simulator.simulator import Simulator
from services.simulator.store import CannotKeep, Store
from shared.runtime import clock
from tests.integration.test_simulator_webhooks import QUICK, train

# A fixture of that file.
from tests.integration.test_simulator_webhooks import receiver as receiver  # noqa: PLC0414 (given on)

COMPLETED = [WebhookEvent.COMPLETED]


@asynccontextmanager
async def started(file: Path, **knobs: Any) -> AsyncIterator[Simulator]:
    """A simulator as its process starts and ends it, in the middle of whatever it does."""
    with Store(file, seed=7) as kept:
        simulator = Simulator(store=kept, seed=kept.seed, **{**QUICK, **knobs})
        try:
            simulator.resume()
            yield simulator
        finally:
            await simulator.close()


async def test_a_restart_forgets_no_training_and_no_prediction(tmp_path):
    async with started(tmp_path / "state") as simulator:
        succeeds = train(simulator, "", output=None, drop=["start"])
        aborted = train(simulator, "", outcome="aborted")
        canceled = simulator.world.cancel(train(simulator, ""), now=clock.now())
        version = await made(simulator, succeeds.makes)
        drawn = simulator.world.create_prediction(
            JobRequest(input={"prompt": "x"}), version, deadline_seconds=60, api_url="http://here", now=clock.now()
        )

    async with started(tmp_path / "state") as simulator:
        assert simulator.world.trainings() == [canceled, aborted, succeeds]
        assert simulator.world.trainings()[-1].faults.overrides_output
        assert simulator.world.predictions(now=clock.now()) == [drawn]
        assert await made(simulator, succeeds.makes) == version


async def test_a_restart_keeps_models_and_their_visibility(tmp_path):
    public = Model("acme/shared", is_public=True, about=About(description="for all"))
    async with started(tmp_path / "state") as simulator:
        simulator.world.create_model(public)
        simulator.world.create_model(Model("acme/own"))

    async with started(tmp_path / "state") as simulator:
        assert simulator.world.find_model("acme/shared") == public
        assert simulator.world.public_models()[0] == public
        assert simulator.world.find_model("acme/own") == Model("acme/own")


async def test_a_restart_keeps_a_models_deletion(tmp_path):
    async with started(tmp_path / "state") as simulator:
        destination = simulator.world.cancel(train(simulator, ""), now=clock.now()).destination
        simulator.world.create_model(Model("acme/again"))
        for name in (destination, "acme/again"):
            assert simulator.world.delete_model(Model(name), now=clock.now())
        simulator.world.create_model(Model("acme/again", is_public=True))

    async with started(tmp_path / "state") as simulator:
        assert simulator.world.find_model(destination) is None
        assert simulator.world.find_model("acme/again") == Model("acme/again", is_public=True)


async def test_a_restart_keeps_a_versions_deletion(tmp_path):
    later = clock.now() + timedelta(days=1)
    async with started(tmp_path / "state") as simulator:
        version = await made(simulator, train(simulator, "").makes)
        assert simulator.world.delete_version(version, now=clock.now())

    async with started(tmp_path / "state") as simulator:
        assert simulator.world.find_version(version.id, now=later) is None
        assert simulator.world.versions(version.model, now=later) == []


async def made(simulator: Simulator, version: str) -> Any:
    async with asyncio.timeout(60):
        while (found := simulator.world.find_version(version, now=clock.now())) is None:
            await asyncio.sleep(0.01)
    return found


async def test_after_a_restart_new_trainings_have_new_ids(tmp_path):
    ids = []
    for _ in range(3):
        async with started(tmp_path / "state") as simulator:
            training = train(simulator, "")
            ids += [training.id, training.makes]

    assert len(set(ids)) == 6


async def test_a_webhook_that_has_not_left_is_posted_after_the_restart(tmp_path, receiver):
    async with started(tmp_path / "state") as simulator:
        training = train(simulator, receiver.url, COMPLETED)

    async with started(tmp_path / "state") as simulator:
        await simulator.settled()

    assert [hook.training["id"] for hook in receiver.hooks] == [training.id]


async def test_a_webhook_that_was_taken_is_not_posted_again(tmp_path, receiver):
    async with started(tmp_path / "state") as simulator:
        train(simulator, receiver.url, COMPLETED)
        await simulator.settled()

    async with started(tmp_path / "state") as simulator:
        await simulator.settled()

    assert len(receiver.hooks) == 1


async def test_the_file_keeps_the_newest_and_no_more(tmp_path):
    simulator = Simulator(**QUICK)
    trainings = [train(simulator, "") for _ in range(200)]
    with Store(tmp_path / "state", seed=7, most=5) as kept:
        for training in trainings:
            kept.keep(training)

    with Store(tmp_path / "state", seed=7) as kept:
        assert list(kept.kept()) == [(training, False) for training in trainings[-5:]]
    await simulator.close()


async def test_the_secret_of_a_kept_seed_stays(tmp_path):
    async with started(tmp_path / "state") as simulator:
        before = simulator.secret

    with Store(tmp_path / "state", seed=8) as kept:
        assert (kept.seed, kept.restarts) == (7, 1)
        assert Simulator(store=kept, seed=kept.seed).secret == before


async def test_what_another_version_kept_is_left_out(tmp_path):
    async with started(tmp_path / "state") as simulator:
        train(simulator, "")
    with sqlite3.connect(tmp_path / "state") as database:
        database.execute("UPDATE jobs SET body = '{}'")
    database.close()

    async with started(tmp_path / "state") as simulator:
        assert simulator.world.trainings() == []


async def test_a_file_of_something_else_is_refused(tmp_path):
    (tmp_path / "state").write_text("a letter to a friend, long enough to be no SQLite file at all" * 20)

    with pytest.raises(CannotKeep, match="can not be used: file is not a database"):
        Store(tmp_path / "state", seed=1)


async def test_without_a_file_nothing_is_kept():
    simulator = Simulator(**QUICK)
    request = TrainingRequest(destination="a/b", input={})
    assert simulator.world.create_training(
        request, trainer="a/b", version="e" * 64, api_url="http://here", now=clock.now()
    )
    simulator.resume()
    await simulator.close()

    assert Simulator(**QUICK).world.trainings() == []
