"""Does what the core decides become rows, once, whatever happens to the connection? Against a real Postgres."""

from __future__ import annotations

import asyncio
import itertools
import random
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from services.state.changes import Failure
from services.state.ownership import DestinationMismatch, MadeByAnother, MayBeAnothers, MayBeUnregistered
from services.state.registration import RegisteredOtherwise, UserDeleted
from services.state.rollback import RollbackOrder, WithdrawalOrder
from services.state.store import ROLE, Store, progress
from services.state.store.apply import LOAD
from services.state.store.write import WRITE
from services.state.swap import UnknownTraining
from services.state.transitions import Stage
from services.state.views import TrainingRow
from shared.contract.answers import END
from shared.contract.envelope import Envelope
from shared.contract.errors import DependencyDown, PermanentError
from shared.contract.events import TrainingProgressed
from shared.contract.idempotency import IdempotencyKey, KeyReused
from shared.contract.identity import ModelName
from shared.contract.values import ProgressSource
from shared.runtime.clock import now
from shared.runtime.postgres_errors import NotReady
from tests.databases import plan_on_empty_tables
from tests.state import (
    BATCH,
    DESTINATION,
    NOON,
    Wire,
    canceled,
    connected,
    envelope,
    failed,
    model_of,
    not_verified,
    opened_store,
    progressed,
    ready,
    registration,
    replayed,
    started,
    succeeded,
)


@pytest.fixture
async def store(database_url: str) -> AsyncIterator[Store]:
    async with opened_store(database_url) as store:
        yield store


async def get(store: Store, training_id: str) -> TrainingRow:
    record = await store.find_training(training_id)
    assert record is not None
    return record


async def rows(database_url: str, statement: str) -> list[tuple[Any, ...]]:
    async with connected(database_url) as connection:
        return [tuple(row.values()) for row in await connection.fetch(statement)]


async def outbox(database_url: str) -> list[tuple[str, str, int]]:
    return await rows(database_url, "SELECT routing_key, user_id, generation FROM state.outbox ORDER BY id")


# A training from its start to a swap


async def test_a_training_walks_to_the_swap(store):
    await store.adopt(registration("ada", "t1"))

    stages = []
    for event in (started("t1"), succeeded("t1"), ready("t1")):
        assert await store.apply([event]) == [None]
        stages.append((await get(store, "t1")).stage)

    assert stages == [Stage.RUNNING, Stage.VERIFYING, Stage.ACTIVE]
    record, model = await get(store, "t1"), await store.find_model("ada")
    assert record.current
    assert model is not None
    assert (model.reference, model.generation, model.training_id) == (model_of("t1"), 1, "t1")
    assert (model.trigger_word, model.ref) == ("TOK", record.ref)


async def test_an_event_waits_while_the_database_is_restored(store, database_url):
    await store.adopt(registration("ada", "t1"))
    async with connected(database_url) as owner:
        await owner.execute("ALTER SCHEMA state RENAME TO elsewhere")
        with pytest.raises(NotReady):
            await store.apply([ready("t1")])
        await owner.execute("ALTER SCHEMA elsewhere RENAME TO state; REVOKE SELECT ON state.users FROM modelswap_state")
        with pytest.raises(NotReady):
            await store.apply([ready("t1")])
        await owner.execute("GRANT SELECT ON state.users TO modelswap_state")
        # Keys are restored after the rows.
        await owner.execute("ALTER TABLE state.user_models DROP CONSTRAINT user_models_pkey")
        with pytest.raises(NotReady):
            await store.apply([ready("t1")])
        await owner.execute("ALTER TABLE state.user_models ADD PRIMARY KEY (user_id)")

    assert await store.apply([ready("t1")]) == [None]
    assert (await get(store, "t1")).stage == Stage.ACTIVE


async def test_a_retrain_changes_nothing_until_it_is_proven(store):
    await store.adopt(registration("ada", "t1"))
    await store.apply([ready("t1")])

    seen = []
    await store.adopt(registration("ada", "t2"))
    for event in (started("t2"), succeeded("t2"), ready("t2")):
        seen.append(await store.find_model("ada"))
        await store.apply([event])
    seen.append(await store.find_model("ada"))

    assert [model and model.training_id for model in seen] == ["t1", "t1", "t1", "t2"]
    assert [(await get(store, name)).stage for name in ("t1", "t2")] == [Stage.REPLACED, Stage.ACTIVE]


async def test_every_swap_leaves_a_line_in_the_history(store):
    for name in ("t1", "t2", "t3"):
        await store.adopt(registration("ada", name))
    await store.apply([ready("t1"), ready("t3"), ready("t2")])

    history = await store.list_history("ada", limit=10)

    assert [(line.generation, line.training_id, line.previous_reference) for line in history] == [
        (3, "t3", model_of("t1")),
        (1, "t1", None),
    ]


async def test_the_outbox_is_in_commit_order(store, database_url):
    for user_id, name in (("ada", "t1"), ("bob", "b1"), ("ada", "t2")):
        await store.adopt(registration(user_id, name))

    await store.apply([ready("b1"), ready("t2"), ready("t1")])

    assert await outbox(database_url) == [
        ("model.activated.v1", "bob", 1),
        ("model.activated.v1", "ada", 2),
        ("model.superseded.v1", "ada", 1),
    ]
    assert store.outbox_filled.is_set()


async def test_a_batch_of_sixty_four_is_one_transaction(store, database_url):
    names = [f"t{number}" for number in range(64)]
    for name in names:
        await store.adopt(registration(f"user of {name}", name))

    assert await store.apply([ready(name) for name in names]) == [None] * 64

    assert await rows(database_url, "SELECT count(DISTINCT xmin::text) FROM state.user_models") == [(1,)]
    assert await rows(database_url, "SELECT count(*) FROM state.user_models") == [(64,)]


@pytest.mark.parametrize(
    ("event", "stage", "code"),
    [
        (failed("t1"), Stage.FAILED, "training_failed"),
        (canceled("t1"), Stage.CANCELED, "training_canceled"),
        (not_verified("t1", "short_version"), Stage.UNVERIFIED, "short_version"),
    ],
)
async def test_a_failed_training_shows_why_and_changes_no_model(store, event, stage, code):
    await store.adopt(registration("ada", "t0"))
    await store.adopt(registration("ada", "t1"))
    await store.apply([ready("t0")])

    await store.apply([event])

    record, model = await get(store, "t1"), await store.find_model("ada")
    assert (record.stage, record.failure and record.failure.code) == (stage, code)
    assert model is not None
    assert model.training_id == "t0"


async def test_a_retried_extraction_clears_the_failure(store):
    await store.adopt(registration("ada", "t1"))
    await store.apply([succeeded("t1"), not_verified("t1")])

    await store.apply([ready("t1")])

    record = await get(store, "t1")
    assert (record.stage, record.failure, record.reference) == (Stage.ACTIVE, None, model_of("t1"))


async def test_the_output_is_kept_as_it_came(store, database_url):
    output = {"version": "x", "deep": [None, 1.5, {"é": "\x00"}]}
    await store.adopt(registration("ada", "t1"))

    await store.apply([succeeded("t1", output=output, completed_at=NOON)])

    assert await rows(database_url, "SELECT output FROM state.trainings") == [
        ('{"version": "x", "deep": [null, 1.5, {"\\u00e9": "\\u0000"}]}',)
    ]
    assert (await get(store, "t1")).completed_at == NOON


@pytest.mark.parametrize("together", [False, True], ids=["one after the other", "in one batch"])
async def test_the_first_output_of_a_training_is_kept(store, database_url, *, together):
    await store.adopt(registration("ada", "t1"))
    first, last = succeeded("t1", output="first"), succeeded("t1", output="last")

    for batch in [[first, last]] if together else [[first], [last]]:
        await store.apply(batch)

    assert await rows(database_url, "SELECT output FROM state.trainings") == [('"first"',)]


# One bad delivery harms only itself


async def test_valid_events_are_committed_beside_invalid_ones(store, database_url):
    await store.adopt(registration("ada", "t1"))
    await store.adopt(registration("bob", "b1"))
    stranger = ready("b1", model=model_of("b1", ModelName("acme", "eve")))

    results = await store.apply([ready("t1"), ready("unknown"), stranger])

    assert [type(result) for result in results] == [type(None), UnknownTraining, DestinationMismatch]
    assert await rows(database_url, "SELECT user_id FROM state.user_models") == [("ada",)]
    assert await rows(database_url, "SELECT event_id FROM state.inbox") == [(ready("t1").id,)]
    assert (await get(store, "b1")).stage is Stage.UNVERIFIED


async def test_an_unstorable_event_fails_alone_after_its_batch(store):
    await store.adopt(registration("ada", "t1"))
    await store.adopt(registration("bob", "b1"))
    poison = succeeded("b1", trainer_version="\x00")

    with pytest.raises(PermanentError, match="22P05"):
        await store.apply([ready("t1"), poison])
    nothing = await store.find_model("ada")
    with pytest.raises(PermanentError):
        await store.apply([poison])

    assert nothing is None
    assert await store.apply([ready("t1")]) == [None]


async def test_an_unknown_training_fails_alone(store):
    await store.adopt(registration("ada", "t1"))

    applied, unknown = await store.apply([ready("t1"), ready("unknown")])

    assert applied is None
    assert isinstance(unknown, UnknownTraining)


@pytest.mark.parametrize(
    ("statement", "parameters"),
    [(LOAD, 7), (WRITE, 14), (progress.RECORD_PROGRESS, 1)],
    ids=["load", "write", "progress"],
)
async def test_plan_made_on_empty_tables_finds_trainings_by_key(migrated_database, statement, parameters):
    plan = await plan_on_empty_tables(migrated_database, ROLE, statement, parameters)

    # The first reads all trainings of a user; the second all that run; the others all trainings.
    assert [
        found
        for found in (
            "trainings_user_id_generation_key",
            "trainings_by_stage",
            "Index Cond: (model IS NULL)",
            "Index Cond: (training_id IS NULL)",
            "Seq Scan",
        )
        if found in plan
    ] == []


async def test_rivals_are_found_by_destination_and_user(migrated_database):
    plan = await plan_on_empty_tables(migrated_database, ROLE, LOAD, 7)

    # All users may train to one destination.
    assert "Index Cond: (((destination)::text = (t.destination)::text) AND (user_id = t.user_id))" in plan


async def test_locked_users_of_a_batch_are_hashed_for_each_table(migrated_database):
    plan = await plan_on_empty_tables(migrated_database, ROLE, WRITE, 14)

    # Not compared one by one: a batch of 256 would take 65,536 comparisons for each table.
    assert plan.count("(hashed SubPlan") == 5
    assert plan.count("CTE Scan on locked") == 6


# Twice is once


async def test_the_same_batch_again_changes_nothing(store, database_url):
    await store.adopt(registration("ada", "t1"))
    batch = [started("t1"), succeeded("t1"), ready("t1")]
    await store.apply(batch)
    before = await rows(database_url, "SELECT * FROM state.trainings, state.user_models, state.outbox")

    assert await store.apply(batch) == [None] * 3

    assert before == await rows(database_url, "SELECT * FROM state.trainings, state.user_models, state.outbox")


async def test_a_repeated_batch_changes_nothing_even_without_the_inbox(store, database_url):
    await store.adopt(registration("ada", "t1"))
    batch = [started("t1"), succeeded("t1"), ready("t1")]
    await store.apply(batch)
    async with connected(database_url) as connection:
        await connection.execute("TRUNCATE state.inbox")

    assert await store.apply(batch) == [None] * 3

    assert await outbox(database_url) == [("model.activated.v1", "ada", 1)]
    assert await rows(database_url, "SELECT stage FROM state.trainings") == [("active",)]


async def test_repeating_a_commit_with_a_lost_answer_has_no_effect(database_url):
    async with Wire(database_url) as wire, opened_store(wire.url) as store:
        await store.adopt(registration("ada", "t1"))

        wire.swallow_answer_to(BATCH)
        with pytest.raises(DependencyDown):
            await store.apply([ready("t1")])
        again = await store.apply([ready("t1")])

    assert (wire.swallowed, again) == (1, [None])
    assert await outbox(database_url) == [("model.activated.v1", "ada", 1)]
    assert await rows(database_url, "SELECT count(*) FROM state.model_history") == [(1,)]


async def test_a_killed_session_leaves_nothing_behind(store, database_url):
    await store.adopt(registration("ada", "t1"))
    async with connected(database_url) as other, other.transaction():
        await other.execute("SELECT FROM state.trainings FOR UPDATE")
        applying = asyncio.create_task(store.apply([ready("t1")]))
        await until_somebody_waits(other)

        await other.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE wait_event_type = 'Lock'")
        with pytest.raises(DependencyDown):
            await applying

    assert await rows(database_url, "SELECT count(*) FROM state.inbox") == [(0,)]
    assert await store.apply([ready("t1")]) == [None]


async def until_somebody_waits(connection: Any) -> None:
    """Wait until another session of this database waits for a lock."""
    async with asyncio.timeout(60):
        while not await connection.fetchval(
            "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"
        ):
            await asyncio.sleep(0.01)


async def test_an_outage_of_postgres_is_dependency_down_and_recovers(database_url):
    async with Wire(database_url) as wire, opened_store(wire.url) as store:
        await store.adopt(registration("ada", "t1"))

        wire.refuse()
        for ask in (store.apply([ready("t1")]), store.find_model("ada"), store.adopt(registration("ada", "t2"))):
            with pytest.raises(DependencyDown):
                await ask
        wire.restore()

        assert await store.apply([ready("t1")]) == [None]


# Many writers at once


async def test_a_newer_swap_without_the_lock_stands(store, database_url):
    for name in ("t1", "t2", "t3"):
        await store.adopt(registration("ada", name))
    await store.apply([ready("t1")])

    async with connected(database_url) as other:
        async with other.transaction():
            await swap_by_hand(other, "t3")
            applying = asyncio.create_task(store.apply([ready("t2")]))
            await until_somebody_waits(other)
        result = await applying

    assert result == [None]
    model = await store.find_model("ada")
    assert model is not None
    assert model.training_id == "t3"
    assert (await get(store, "t2")).stage == Stage.SUPERSEDED


async def test_user_deleted_during_apply_gets_no_model(store, database_url):
    await store.adopt(registration("ada", "t1"))

    async with connected(database_url) as other:
        async with other.transaction():
            await other.execute("UPDATE state.users SET deleted_at = now() WHERE user_id = 'ada'")
            applying = asyncio.create_task(store.apply([ready("t1")]))
            await until_somebody_waits(other)
        result = await applying

    assert result == [None]
    assert await store.find_model("ada") is None


async def test_changed_user_is_applied_after_the_rest_of_the_batch(store, database_url):
    await store.adopt(registration("ada", "t1"))
    await store.adopt(registration("bob", "b1"))

    async with connected(database_url) as other:
        async with other.transaction():
            await other.execute("UPDATE state.users SET next_generation = 9 WHERE user_id = 'ada'")
            batch = [succeeded("t1"), ready("unknown"), ready("b1"), ready("t1"), ready("t1")]
            applying = asyncio.create_task(store.apply(batch))
            await until_somebody_waits(other)
        results = await applying

    assert [type(result) for result in results] == [type(None), UnknownTraining, *[type(None)] * 3]
    assert [user for _, user, _ in await outbox(database_url)] == ["bob", "ada"]
    assert await rows(database_url, "SELECT count(DISTINCT xmin::text) FROM state.user_models") == [(2,)]
    assert await rows(database_url, "SELECT count(*) FROM state.inbox") == [(3,)]


async def test_every_change_of_a_training_changes_the_users_version(store, database_url):
    fresh, _ = await store.register(registration("ada"))
    for name in ("t1", "t2", "t3"):
        await store.adopt(registration("ada", name))
    changes: dict[str, Callable[[], Any]] = {
        "attach": lambda: store.attach(fresh, "t0"),
        "fail_start": lambda: store.fail_start(fresh, Failure("x", "y")),
        "register": lambda: store.register(registration("ada")),
        "apply": lambda: store.apply([ready("t1"), ready("t2"), succeeded("t3")]),
        "retry_extraction": lambda: store.retry_extraction("ada", None),
        "roll_back": lambda: store.roll_back(RollbackOrder("ada", None, "too dark", "eve")),
        "withdraw": lambda: store.withdraw(WithdrawalOrder("ada", "not hers", "eve")),
    }
    versions = [await rows(database_url, "SELECT xmin::text FROM state.users")]
    for change in changes.values():
        await change()
        versions.append(await rows(database_url, "SELECT xmin::text FROM state.users"))

    unchanged = [name for name, before, after in zip(changes, versions, versions[1:], strict=False) if before == after]

    assert unchanged == []


async def swap_by_hand(connection: Any, training_id: str) -> None:
    """What a swap to *training_id* writes, as nobody should do it."""
    await connection.execute("UPDATE state.trainings SET stage = 'replaced' WHERE stage = 'active'")
    await connection.execute(
        """WITH made AS (
               UPDATE state.trainings SET stage = 'active', model = $2 WHERE training_id = $1
               RETURNING user_id, generation, ref, model, trigger_word
           ), told AS (
               INSERT INTO state.model_history
               SELECT user_id, generation, ref, model, trigger_word, 'training', NULL, 'somebody', 'by hand' FROM made
           )
           UPDATE state.user_models m
           SET generation = made.generation, ref = made.ref, model = made.model, activated_at = now()
           FROM made WHERE m.user_id = made.user_id""",
        training_id,
        str(model_of(training_id)),
    )


async def test_generations_are_dense_however_many_register_at_once(store):
    records = await asyncio.gather(*(store.register(registration("ada")) for _ in range(20)))

    assert sorted(record.generation for record, _ in records) == list(range(1, 21))


async def test_of_many_who_adopt_the_same_training_one_registers_it(store):
    records = await asyncio.gather(*(store.adopt(registration("ada", "t1")) for _ in range(10)))

    assert sorted(is_new for _, is_new in records) == [False] * 9 + [True]
    assert {record.generation for record, _ in records} == {1}


async def test_two_ready_models_at_the_same_moment_leave_the_newer_one(store):
    for number in range(1, 9):
        await store.adopt(registration("ada", f"t{number}"))

    await asyncio.gather(*(store.apply([ready(f"t{number}")]) for number in range(1, 9)))

    model = await store.find_model("ada")
    assert model is not None
    assert model.training_id == "t8"


ENDS: dict[str, Callable[[str], Envelope]] = {
    "good": ready,
    "failed": failed,
    "canceled": canceled,
    "no model": not_verified,
}


class Crowd:
    """Some users with some trainings each, whose events several writers apply in batches, in a drawn order."""

    def __init__(self, ends: Sequence[Sequence[str]], dice: random.Random) -> None:
        self.dice = dice
        self.ends = {uuid4().hex: list(of_user) for of_user in ends}
        self.trainings = {
            f"{user}-{number}": (user, end)
            for user, of_user in self.ends.items()
            for number, end in enumerate(of_user, 1)
        }
        told = [
            event
            for name, (_, end) in self.trainings.items()
            for event in (started(name), *([succeeded(name)] * (end in {"good", "no model"})), ENDS[end](name))
        ]
        self.events = told + dice.choices(told, k=len(told) // 2)
        dice.shuffle(self.events)

    async def register(self, store: Store) -> None:
        for name, (user, _) in self.trainings.items():
            await store.adopt(registration(user, name))

    def batches(self) -> list[list[Envelope]]:
        waiting = iter(self.events)
        return list(iter(lambda: list(itertools.islice(waiting, self.dice.randint(1, 5))), []))

    async def watch(self, store: Store, seen: dict[str, int]) -> None:
        """Read every user's model once: it never vanishes, never goes back, and is always one of theirs, whole.

        `seen` is shared by all who read: nobody may be told less than somebody knew *before they asked*. What another
        one hears while an answer is on its way says nothing about that answer.
        """
        for user in self.ends:
            known = seen.get(user, 0)
            model = await store.find_model(user)
            assert (model.generation if model else 0) >= known
            if model is not None:
                seen[user] = max(model.generation, seen.get(user, 0))
                assert model.training_id == f"{user}-{model.generation}"
                assert model.reference == model_of(model.training_id)

    async def check(self, store: Store) -> None:
        """The newest good training of every user is live, and the history never went back."""
        for user, ends in self.ends.items():
            newest = max((number for number, end in enumerate(ends, 1) if end == "good"), default=None)
            model = await store.find_model(user)
            assert (model and model.generation) == newest
            history = [line.generation for line in await store.list_history(user, limit=100)]
            assert history == sorted(set(history), reverse=True)
            assert [history[0] if history else None] == [newest]
            for number, end in enumerate(ends, 1):
                record = await get(store, f"{user}-{number}")
                assert (record.reference is not None) == (end == "good")
                assert record.current == (number == newest)


async def write_all(store: Store, crowd: Crowd, *, writers: int) -> None:
    waiting, seen = crowd.batches(), dict[str, int]()

    async def write() -> None:
        while waiting:
            assert set(await store.apply(waiting.pop())) <= {None}
            await crowd.watch(store, seen)

    await asyncio.gather(*(write() for _ in range(writers)))


@given(
    st.lists(st.lists(st.sampled_from(sorted(ENDS)), min_size=1, max_size=4), min_size=1, max_size=4),
    st.randoms(use_true_random=False),
)
@settings(max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture])
async def test_with_concurrent_writers_the_newest_good_one_is_live(store, ends, dice):
    crowd = Crowd(ends, dice)
    await crowd.register(store)

    await write_all(store, crowd, writers=4)

    await crowd.check(store)


@pytest.mark.parametrize("seed", range(3))
async def test_with_lost_answers_the_newest_good_one_is_live(database_url, seed):
    dice = random.Random(seed)
    crowd = Crowd([dice.choices(sorted(ENDS), k=4) for _ in range(6)], dice)

    async with Wire(database_url) as wire, opened_store(wire.url) as store, connected(database_url) as killer:
        await crowd.register(store)
        waiting = crowd.batches()
        one_killer = asyncio.Lock()

        async def write() -> None:
            while waiting:
                batch = waiting.pop()
                match dice.randrange(6):
                    case 0:
                        wire.swallow_answer_to(BATCH)
                    case 1:
                        async with one_killer:
                            await killer.execute(
                                """SELECT pg_terminate_backend(pid) FROM pg_stat_activity
                                   WHERE datname = current_database() AND pid <> pg_backend_pid()
                                   AND application_name = 'test' LIMIT 1"""
                            )
                try:
                    assert set(await store.apply(batch)) <= {None}
                except DependencyDown:
                    # The runtime pauses and hands the same deliveries over again.
                    waiting.append(batch)

        await asyncio.gather(*(write() for _ in range(3)))

    assert wire.swallowed > 0
    async with opened_store(database_url) as store:
        await crowd.check(store)
    assert await rows(
        database_url, "SELECT user_id, generation FROM state.model_history ORDER BY user_id, generation"
    ) == await rows(
        database_url,
        "SELECT user_id, generation FROM state.outbox WHERE routing_key LIKE 'model.activated%' ORDER BY 1, 2",
    )


# Which training an event is about


async def test_a_webhook_with_our_own_id_brings_replicate_s(store):
    record, _ = await store.register(registration("ada"))

    await store.apply([started("t1", ref=record.ref), ready("t1", ref=record.ref)])

    found = await get(store, "t1")
    assert (found.ref, found.stage) == (record.ref, Stage.ACTIVE)


async def test_a_training_registered_meanwhile_is_found_by_the_retry(store):
    first = await store.apply([ready("t1")])
    await store.adopt(registration("ada", "t1"))
    second = await store.apply([ready("t1")])

    assert [type(first[0]), second[0]] == [UnknownTraining, None]


async def test_late_events_of_a_deleted_user_change_nothing(store, database_url):
    await store.adopt(registration("ada", "t1"))
    async with connected(database_url) as connection:
        await connection.execute("UPDATE state.users SET deleted_at = now()")

    assert await store.apply([ready("t1")]) == [None]
    await store.record_progress([progressed("t1", 0.5)])

    record = await get(store, "t1")
    assert (record.stage, record.started_at) == (Stage.REQUESTED, None)
    assert await store.find_model("ada") is None


# Registrations


async def test_a_deleted_user_gets_no_new_training(store, database_url):
    await store.register(registration("ada"))
    async with connected(database_url) as connection:
        await connection.execute("UPDATE state.users SET deleted_at = now()")

    with pytest.raises(UserDeleted):
        await store.register(registration("ada"))


async def test_a_looked_up_model_of_another_training_is_refused(store):
    await store.adopt(registration("ada", "t1"))
    await store.adopt(registration("ada", "t2"))
    await store.apply([ready("t1", looked_up=True)])

    (result,) = await store.apply([ready("t2", model=model_of("t1"), looked_up=True)])

    assert isinstance(result, MadeByAnother)
    record = await get(store, "t2")
    assert (record.stage, record.failure and record.failure.code) == (Stage.UNVERIFIED, "model_of_another_training")


async def test_a_looked_up_model_with_a_rival_is_refused(store):
    for name in ("t1", "t2"):
        await store.adopt(registration("ada", name))
    await store.adopt(registration("ada", "t3", destination=ModelName("acme", "elsewhere")))
    await store.apply([succeeded("t1", output=None, started_at=NOON, completed_at=NOON), started("t3")])
    looked_up = ready("t1", looked_up=True, made_at=NOON, rivals=("t3", "stranger"))

    (of_a_stranger,) = await store.apply([looked_up])
    (of_its_own,) = await store.apply([ready("t1", looked_up=True, made_at=NOON, rivals=("t3",))])
    await store.apply([failed("t2")])
    await store.adopt(registration("ada", "stranger", destination=ModelName("acme", "elsewhere")))
    (alone,) = await store.apply([looked_up])

    assert (type(of_a_stranger), type(of_its_own), alone) == (MayBeUnregistered, MayBeAnothers, None)
    assert (await get(store, "t1")).stage is Stage.ACTIVE


async def test_a_looked_up_model_at_a_shared_destination_is_refused(store):
    await store.adopt(registration("ada", "t1"))
    await store.adopt(registration("bob", "b1"))
    await store.adopt(registration("eve", "e1", destination=ModelName("acme", "eve")))
    of_eve = model_of("e1", ModelName("acme", "eve"))

    results = await store.apply([ready("t1", looked_up=True), ready("e1", model=of_eve, looked_up=True), ready("b1")])

    assert [getattr(result, "code", None) for result in results] == ["destination_shared", None, None]
    assert await store.find_model("ada") is None
    assert [(await get(store, name)).stage for name in ("t1", "e1", "b1")] == [
        Stage.UNVERIFIED,
        Stage.ACTIVE,
        Stage.ACTIVE,
    ]


async def test_a_training_belongs_to_one_user_and_one_destination(store):
    first, _ = await store.adopt(registration("ada", "t1"))

    again, is_new = await store.adopt(registration("ada", "t1"))
    with pytest.raises(RegisteredOtherwise):
        await store.adopt(registration("eve", "t1"))
    with pytest.raises(RegisteredOtherwise):
        await store.adopt(registration("ada", "t1", destination=ModelName("acme", "eve")))

    assert (again.ref, is_new) == (first.ref, False)


async def test_a_key_finds_its_training_and_refuses_another_request(store):
    key = IdempotencyKey("k", "one")

    records = await asyncio.gather(*(store.register(registration("ada"), key) for _ in range(5)))
    with pytest.raises(KeyReused):
        await store.register(registration("ada"), replace(key, digest="two"))

    assert len({record.ref for record, _ in records}) == 1
    assert sorted(is_new for _, is_new in records) == [False] * 4 + [True]
    other, _ = await store.register(registration("ada"))
    assert other.generation == 2


async def test_a_start_that_failed_gives_its_key_back(store):
    key = IdempotencyKey("k", "one")
    record, _ = await store.register(registration("ada"), key)

    await store.fail_start(record, Failure("not_started", "away"))
    with pytest.raises(KeyReused):
        await store.register(registration("ada"), replace(key, digest="two"))
    records = await asyncio.gather(*(store.register(registration("ada"), key) for _ in range(5)))

    assert sorted(is_new for _, is_new in records) == [False] * 4 + [True]
    assert {(again.generation, again.stage) for again, _ in records} == {(2, Stage.REQUESTED)}


async def test_a_start_that_replicate_refused_keeps_its_key(store):
    key = IdempotencyKey("k", "one")
    record, _ = await store.register(registration("ada"), key)

    await store.fail_start(record, Failure("start_refused", "no such trainer"))
    again, is_new = await store.register(registration("ada"), key)

    assert (again.ref, again.stage, is_new) == (record.ref, Stage.FAILED, False)


async def test_a_start_proven_by_a_webhook_can_not_be_failed(store):
    record, _ = await store.register(registration("ada"))
    await store.apply([started("t1", ref=record.ref)])

    await store.fail_start(record, Failure("not_started", "away"))

    assert (await get(store, "t1")).stage is Stage.RUNNING


async def test_a_webhook_may_bring_the_id_before_the_answer(store):
    record, _ = await store.register(registration("ada"))
    await store.apply([started("t1", ref=record.ref)])

    attached = await store.attach(record, "t1")

    assert (attached.training_id, attached.stage) == ("t1", Stage.RUNNING)


@pytest.mark.parametrize("how", ["by a webhook", "by an answer of Replicate"])
async def test_a_training_that_runs_after_all_has_not_ended(store, how):
    record, _ = await store.register(registration("ada"))
    await store.fail_start(record, Failure("not_started", "away"))
    ended = await store.find_training(record.ref)

    if how == "by a webhook":
        await store.apply([started("t1", ref=record.ref)])
    else:
        await store.attach(record, "t1")
        await store.apply([started("t1")])
    running = await get(store, "t1")
    await store.apply([succeeded("t1", completed_at=NOON)])

    assert ended is not None
    assert ended.completed_at is not None
    assert (running.stage, running.failure, running.completed_at) == (Stage.RUNNING, None, None)
    assert (await get(store, "t1")).completed_at == NOON


async def test_an_end_that_brings_the_id_replaces_the_one_we_guessed(store):
    record, _ = await store.register(registration("ada"))
    await store.fail_start(record, Failure("not_started", "away"))

    await store.apply([succeeded("t1", ref=record.ref, completed_at=NOON)])

    found = await get(store, "t1")
    assert (found.stage, found.completed_at) == (Stage.VERIFYING, NOON)


# Progress


async def test_progress_only_ever_rises(store):
    await store.adopt(registration("ada", "t1", total_steps=None))

    seen = []
    for fraction, step in ((0.2, 200), (0.1, 100), (None, None), (0.5, 500)):
        await store.record_progress([progressed("t1", fraction, step=step, total=1000)])
        record = await get(store, "t1")
        seen.append((record.progress, record.step))

    assert seen == [(20, 200), (20, 200), (20, 200), (50, 500)]
    assert (record.stage, record.progress_source, record.total_steps) == (Stage.RUNNING, ProgressSource.LOG, 1000)


async def test_a_total_that_is_known_later_takes_no_progress_back(store):
    await store.adopt(registration("ada", "t1", total_steps=None))
    await store.record_progress([progressed("t1", 0.2)])

    await store.record_progress([progressed("t1", 0.15, step=150, total=1000)])

    record = await get(store, "t1")
    assert (record.progress, record.total_steps) == (20, 1000)


async def reported(
    store: Store, step: int, total: int | None, at: datetime
) -> tuple[int | None, int | None, int | None]:
    """Report *step* of *total*, and say what is known of the training then."""
    event = TrainingProgressed(training_id="t1", step=step, total=total, fraction=step / total if total else 0.01)
    await store.record_progress([envelope(event, at=at)])
    record = await get(store, "t1")
    return record.progress, record.step, record.total_steps


async def test_a_log_that_goes_on_behind_its_end_is_corrected(store):
    await store.adopt(registration("ada", "t1", total_steps=None))

    misread = await reported(store, 225, 225, NOON)
    corrected = await reported(store, 24, 2400, NOON + timedelta(seconds=1))
    later = await reported(store, 120, 2400, NOON + timedelta(seconds=2))

    assert [misread, corrected, later] == [(99, 225, 225), (1, 24, 2400), (5, 120, 2400)]


@pytest.mark.parametrize(
    ("step", "total", "at"),
    [
        (24, 2400, NOON - timedelta(seconds=1)),
        (24, 2400, NOON),
        (200, 225, NOON + timedelta(hours=2)),
        (2160, 2400, NOON + timedelta(seconds=1)),
        (1, None, NOON + timedelta(seconds=1)),
    ],
    ids=["earlier", "of the same moment", "of the same total", "only a little less", "without a total"],
)
async def test_a_report_that_proves_no_misreading_corrects_nothing(store, step, total, at):
    await store.adopt(registration("ada", "t1", total_steps=None))
    before = await reported(store, 225, 225, NOON)

    assert await reported(store, step, total, at) == before


async def test_an_evaluation_that_is_misread_corrects_nothing(store):
    await store.adopt(registration("ada", "t1", total_steps=None))
    began = now()
    before = await reported(store, 1440, 2400, began)

    seen = [await reported(store, step, 250, began + timedelta(seconds=step)) for step in (1, 100, 150)]

    assert seen == [before] * 3
    assert await reported(store, 1464, 2400, began + timedelta(minutes=4)) == (61, 1464, 2400)


async def test_a_stalled_progress_is_corrected_by_the_log(store):
    await store.adopt(registration("ada", "t1", total_steps=None))
    began = now()
    before = await reported(store, 120, 225, began)

    soon = await reported(store, 24, 2400, began + timedelta(minutes=4))
    late = await reported(store, 25, 2400, began + timedelta(minutes=6))

    assert (before, soon, late) == ((53, 120, 225), (53, 120, 225), (1, 25, 2400))


async def test_step_and_share_are_of_the_same_report(store):
    await store.adopt(registration("ada", "t1", total_steps=None))
    began = now()

    await reported(store, 120, 225, began)
    behind = await reported(store, 240, 2400, began + timedelta(seconds=1))
    ahead = await reported(store, 1440, 2400, began + timedelta(seconds=2))

    assert (behind, ahead) == ((53, 120, 225), (60, 1440, 2400))


@pytest.mark.parametrize("report", [progressed("t1", 0.2, step=200), progressed("t1", 0.1), progressed("t1", None)])
async def test_progress_that_says_nothing_new_is_not_written(store, report):
    await store.adopt(registration("ada", "t1"))
    await store.record_progress([progressed("t1", 0.2, step=200)])
    before = await get(store, "t1")

    await store.record_progress([report])

    assert await get(store, "t1") == before


@pytest.mark.parametrize("end", [succeeded, ready, failed, canceled, not_verified])
async def test_progress_that_comes_after_the_end_is_nothing(store, end):
    await store.adopt(registration("ada", "t1"))
    await store.apply([end("t1")])
    before = await get(store, "t1")

    await store.record_progress([progressed("t1", 0.5), progressed("unknown", 0.5)])

    assert await get(store, "t1") == before


async def test_progress_waits_for_nobody(store, database_url):
    await store.adopt(registration("ada", "t1"))
    await store.adopt(registration("bob", "b1"))
    async with connected(database_url) as other, other.transaction():
        await other.execute("SELECT FROM state.trainings WHERE training_id = 't1' FOR UPDATE")

        await store.record_progress([progressed("t1", 0.5), progressed("b1", 0.5)])

    assert [(await get(store, name)).progress for name in ("t1", "b1")] == [0, 50]


@pytest.mark.parametrize("percent", [60, 70, 80])
async def test_progress_of_two_processes_meets_in_one_row(store, database_url, monkeypatch, percent):
    await store.adopt(registration("ada", "t1"))
    # Between the statement's snapshot and its lock of the row, another process commits a report.
    waiting = progress.RECORD_PROGRESS.replace("FROM json_to_rec", "FROM pg_advisory_xact_lock(1), json_to_rec")
    monkeypatch.setattr(progress, "RECORD_PROGRESS", waiting)
    async with opened_store(database_url) as another, connected(database_url) as holder:
        await holder.execute("SELECT pg_advisory_lock(1)")
        recording = asyncio.create_task(store.record_progress([progressed("t1", 0.7)]))
        while not await holder.fetchval(
            "SELECT EXISTS (SELECT FROM pg_locks WHERE locktype = 'advisory' AND NOT granted)"
        ):
            await asyncio.sleep(0)
        monkeypatch.undo()
        await another.record_progress([progressed("t1", percent / 100)])
        await holder.execute("SELECT pg_advisory_unlock(1)")
        await recording

    found = await get(store, "t1")
    assert (found.progress, found.progress_source, found.stage) == (max(70, percent), ProgressSource.LOG, Stage.RUNNING)


async def test_progress_may_bring_the_id_of_a_training(store):
    record, _ = await store.register(registration("ada"))

    await store.record_progress([progressed("t1", 0.5, ref=record.ref)])

    found = await store.find_training(record.ref)
    assert found is not None
    assert (found.progress, found.stage, found.training_id) == (50, Stage.RUNNING, None)


async def test_concurrent_progress_and_ends_do_not_conflict(store):
    names = [f"t{number}" for number in range(12)]
    for name in names:
        await store.adopt(registration(f"user of {name}", name))
    reports = [progressed(name, fraction / 20) for fraction in range(20) for name in names]

    await asyncio.gather(
        *(store.record_progress(reports[first::5]) for first in range(5)),
        *(store.apply([succeeded(name), ready(name)]) for name in names),
    )

    assert {(await get(store, name)).stage for name in names} == {Stage.ACTIVE}


# Lists


async def test_trainings_are_listed_newest_first_by_user_and_by_stage(store):
    for user_id, name in (("ada", "t1"), ("bob", "b1"), ("ada", "t2"), ("ada", "t3")):
        await store.adopt(registration(user_id, name))
    await store.apply([failed("t2"), started("b1")])

    async def names(user_id: str | None = None, stage: Stage | None = None, before: int = END) -> list[Any]:
        found = await store.list_trainings(user_id=user_id, stage=stage, before=before, limit=3)
        return [record.training_id for record in found]

    assert await names() == ["t3", "t2", "b1"]
    assert await names(before=(await get(store, "b1")).number) == ["t1"]
    assert await names("ada") == ["t3", "t2", "t1"]
    assert await names(stage=Stage.RUNNING) == ["b1"]
    assert await names("ada", Stage.FAILED) == ["t2"]


async def test_a_training_is_found_by_our_own_id_too(store):
    record, _ = await store.adopt(registration("ada", "t1", ref=UUID(int=7), destination=DESTINATION))

    assert await store.find_training(record.ref) == record


# Replays and previews


async def test_a_replay_delivered_twice_has_one_effect(store, database_url):
    await store.adopt(registration("ada", "t1"))
    await store.apply([not_verified("t1")])

    for _ in range(3):
        assert await store.apply([replayed(ready("t1"))]) == [None]
    assert await store.apply([replayed(ready("t1"), "a-replay:2")]) == [None]

    assert [key for key, *_ in await outbox(database_url)] == [
        "model.activated.v1",
        "replay.settled.v1",
        "replay.settled.v1",
    ]
    assert [(line.cause, line.reason) for line in await store.list_history("ada", limit=9)] == [
        ("replay", "replay a-replay:1")
    ]


async def test_a_preview_says_what_would_be_and_changes_nothing(store, database_url):
    await store.adopt(registration("ada", "t1"))

    changes = await store.preview(replayed(ready("t1")))

    assert [type(each.envelope.event).__name__ for each in changes.outbox] == ["ModelActivated", "ReplaySettled"]
    assert await store.find_model("ada") is None
    assert (await get(store, "t1")).stage is Stage.REQUESTED
    assert await outbox(database_url) == []
    assert not store.outbox_filled.is_set()
    assert await rows(database_url, "SELECT count(*) FROM state.inbox") == [(0,)]
