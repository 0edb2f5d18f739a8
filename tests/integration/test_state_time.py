"""What does state know of time? Durations that were learned, and progress that is never taken back."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from datetime import timedelta
from typing import Any

import pytest

from services.state.duration_stats import update
from services.state.estimate import MIN_TRAININGS
from services.state.store import Store
from services.state.views import TrainingView
from shared.contract.events import TrainingStarted
from shared.contract.identity import ModelRef
from shared.contract.values import ProgressSource
from shared.runtime.aside import SetAside
from shared.runtime.clock import now
from tests.databases import refuse
from tests.state import (
    NOON,
    connected,
    envelope,
    failed,
    opened_store,
    progressed,
    registration,
    started,
    succeeded,
)

TRAINER = ModelRef("ostris", "flux-dev-lora-trainer", "a" * 64)
NEXT_VERSION = TRAINER._replace(version="b" * 64)
OTHER = ModelRef("acme", "trainer", "c" * 64)


@pytest.fixture
async def store(database_url: str) -> AsyncIterator[Store]:
    async with opened_store(database_url) as store:
        yield store


async def run(store: Store, training_id: str, took: timedelta | None, *, trainer: ModelRef | None = TRAINER) -> None:
    """A training that succeeded, and took so long; None: Replicate gave no dates."""
    await store.adopt(registration(f"user of {training_id}", training_id, trainer=trainer))
    dates: dict[str, Any] = {} if took is None else {"started_at": NOON, "completed_at": NOON + took}
    assert await store.apply([succeeded(training_id, **dates)]) == [None]


async def run_all(store: Store, name: str, minutes: Sequence[float], **fields: Any) -> None:
    for number, took in enumerate(minutes):
        await run(store, f"{name}{number}", timedelta(minutes=took), **fields)


async def learned(database_url: str) -> dict[str, tuple[int, float, float, float]]:
    """In minutes."""
    async with connected(database_url) as connection:
        rows = await connection.fetch("SELECT * FROM state.trainer_durations")
    return {
        row["trainer"]: (
            row["trainings"],
            *(round(row[f"{which}_seconds"] / 60, 3) for which in ("low", "median", "high")),
        )
        for row in rows
    }


async def learn(store: Store) -> int:
    return await store.update_durations(await store.list_trainers())


async def get(store: Store, training_id: str) -> TrainingView:
    record = await store.find_training(training_id)
    assert record is not None
    return record


# Learning


async def test_of_each_trainer_the_median_and_the_spread_are_learned(store, database_url):
    await run_all(store, "a", range(10, 31))
    await run_all(store, "b", [2] * 5, trainer=OTHER)

    assert await learn(store) == 2

    assert await learned(database_url) == {
        "ostris/flux-dev-lora-trainer": (21, 12, 20, 28),
        "acme/trainer": (5, 2, 2, 2),
    }


async def test_versions_of_a_trainer_are_one_trainer(store, database_url):
    await run_all(store, "a", [10] * 3)
    await run_all(store, "b", [20] * 4, trainer=NEXT_VERSION)

    await learn(store)

    assert (await learned(database_url))["ostris/flux-dev-lora-trainer"][:3] == (7, 10, 20)


async def test_a_few_trainings_are_no_experience(store, database_url):
    await run_all(store, "a", [10] * (MIN_TRAININGS - 1))

    await learn(store)

    assert await learned(database_url) == {}


async def test_wrong_dates_and_failures_are_not_learned_from(store, database_url):
    await run_all(store, "good", [10] * MIN_TRAININGS)
    await run_all(store, "bad", [-30, 0, 60 * 24 * 400])
    await run(store, "none", None)
    for number in range(9):
        await store.adopt(registration("ada", f"failed{number}", trainer=TRAINER))
        await store.apply([started(f"failed{number}"), failed(f"failed{number}")])

    await learn(store)

    assert await learned(database_url) == {"ostris/flux-dev-lora-trainer": (MIN_TRAININGS, 10, 10, 10)}


async def test_one_that_took_all_day_does_not_spoil_the_rest(store, database_url):
    await run_all(store, "a", [20] * 19 + [60 * 23])

    await learn(store)

    assert await learned(database_url) == {"ostris/flux-dev-lora-trainer": (20, 20, 20, 20)}


async def test_only_the_last_hundred_are_learned_from(store, database_url):
    async with connected(database_url) as connection:
        await connection.execute(
            "INSERT INTO state.users (user_id, next_generation) SELECT 'u' || n, 2 FROM generate_series(1, 300) n"
        )
        await connection.execute(
            """
            INSERT INTO state.trainings (ref, training_id, user_id, generation, destination, trainer, trigger_word,
                                         stage, started_at, completed_at)
            SELECT gen_random_uuid(), 't' || n, 'u' || n, 1, 'acme/ada', $1, '', 'verifying', now(),
                   now() + CASE WHEN n <= 200 THEN interval '50 minutes' ELSE interval '5 minutes' END
            FROM generate_series(1, 300) n ORDER BY n
            """,
            str(TRAINER),
        )

    await learn(store)

    assert await learned(database_url) == {"ostris/flux-dev-lora-trainer": (100, 5, 5, 5)}


async def test_a_missing_trainer_is_learned_from_replicate(store, database_url):
    for number in range(MIN_TRAININGS):
        await store.adopt(registration("ada", f"t{number}"))
        said: dict[str, Any] = {"trainer": str(OTHER.model), "trainer_version": OTHER.version}
        ended = succeeded(f"t{number}", started_at=NOON, completed_at=NOON + timedelta(minutes=3), **said)
        await store.apply([ended])

    await learn(store)

    assert (await get(store, "t0")).trainer == OTHER
    assert await learned(database_url) == {"acme/trainer": (MIN_TRAININGS, 3, 3, 3)}


async def test_several_processes_learn_the_same_and_nothing_twice(store, database_url):
    await run_all(store, "a", [10] * MIN_TRAININGS)

    async with opened_store(database_url) as other:
        news = await asyncio.gather(*(learn(each) for each in (store, other) * 8))

    assert sum(news) == 1
    assert len(await learned(database_url)) == 1


async def test_what_was_learned_is_the_estimate_of_the_next_training(store):
    await run_all(store, "a", [10] * MIN_TRAININGS)
    await learn(store)
    await store.adopt(registration("ada", "next", trainer=NEXT_VERSION))
    started_at = now() - timedelta(minutes=5)
    await store.apply([envelope(TrainingStarted(training_id="next", started_at=started_at))])

    shown = await get(store, "next")

    late = (now() - started_at).total_seconds() - 300
    assert shown.progress_source is ProgressSource.ESTIMATE
    assert 45 <= shown.progress <= 45 + late
    for seconds, left in zip(
        (shown.eta_low_seconds, shown.eta_seconds, shown.eta_high_seconds), (240, 300, 360), strict=True
    ):
        assert seconds is not None
        assert left - late - 3 <= seconds <= left + 3
    assert shown.overdue_at is not None


async def test_a_trainer_that_can_not_be_learned_of_harms_no_other(store, database_url):
    await run_all(store, "a", [10] * MIN_TRAININGS)
    await run_all(store, "b", [2] * MIN_TRAININGS, trainer=OTHER)
    await refuse(database_url, "INSERT ON state.trainer_durations", f"new.trainer = '{TRAINER.model}'")
    aside: SetAside[str] = SetAside("test")

    await update(store, aside)

    assert set(await learned(database_url)) == {str(OTHER.model)}
    assert (aside.waiting(), len(aside)) == ([str(TRAINER.model)], 1)


# Progress is never taken back


async def test_a_log_that_is_behind_the_guess_does_not_take_it_back(store):
    await store.adopt(registration("ada", "t1"))
    await store.apply([envelope(TrainingStarted(training_id="t1", started_at=now() - timedelta(minutes=30)))])
    guessed = await get(store, "t1")
    await store.record_progress([progressed("t1", 0.12)])
    behind = await get(store, "t1")
    await store.record_progress([progressed("t1", 0.97)])
    ahead = await get(store, "t1")

    assert (guessed.progress, guessed.progress_source) == (90, ProgressSource.ESTIMATE)
    assert (behind.progress, behind.progress_source) == (90, ProgressSource.ESTIMATE)
    assert (ahead.progress, ahead.progress_source) == (97, ProgressSource.LOG)


async def test_shown_progress_never_falls_across_processes(store, database_url):
    await store.adopt(registration("ada", "t1", trainer=TRAINER))
    await store.apply([envelope(TrainingStarted(training_id="t1", started_at=now() - timedelta(minutes=30)))])
    before = (await get(store, "t1")).progress
    await run_all(store, "slow", [600] * MIN_TRAININGS)
    await learn(store)

    async with opened_store(database_url) as other:
        record = await get(other, "t1")
        listed = await other.list_trainings(user_id="ada", stage=None, limit=1)
        followed = await other.find_trainings([record.ref])

    assert [before] * 3 == [each.progress for each in (record, *listed, *followed)] == [90] * 3


async def test_a_training_that_fails_stays_where_it_was_shown_to_be(store):
    await store.adopt(registration("ada", "t1"))
    await store.apply([envelope(TrainingStarted(training_id="t1", started_at=now() - timedelta(minutes=30)))])
    await get(store, "t1")

    await store.apply([failed("t1")])

    assert (await get(store, "t1")).progress == 90


async def test_reading_a_training_writes_nothing(store, database_url):
    for training_id in ("estimated", "logged"):
        await store.adopt(registration(f"user of {training_id}", training_id, trainer=TRAINER))
        start = TrainingStarted(training_id=training_id, started_at=now() - timedelta(minutes=30))
        await store.apply([envelope(start)])
    await store.record_progress([progressed("logged", 0.12)])

    async with connected(database_url) as connection:
        name = await connection.fetchval("SELECT current_database()")
        await connection.execute(f'ALTER DATABASE "{name}" SET default_transaction_read_only = on')
    async with opened_store(database_url) as reader:
        found = [await get(reader, name) for name in ("estimated", "logged")]
        listed = await reader.list_trainings(user_id=None, stage=None, limit=9)
        followed = await reader.find_trainings([each.ref for each in found])

    assert {each.progress for each in (*found, *listed, *followed)} == {90}
