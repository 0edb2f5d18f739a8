"""What becomes of overdue trainings? The reconciler over a real Postgres and a real state API; Replicate to order."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Final
from uuid import UUID

import pytest
from prometheus_client import REGISTRY
from structlog.testing import capture_logs

from services.ops.migrate import ROLE
from services.ops.reconcile.api import reconciliation_router
from services.ops.reconcile.reconciler import Reconciler
from services.ops.reconcile.store import Store
from services.ops.reconcile.trainings import CallBudget, Limits, Memory, Stage, Unfinished
from services.ops.reconcile.views import Reconciliation, RecoveryCounts, RecoveryOutcome
from shared.contract.envelope import Envelope
from shared.contract.errors import DependencyDown
from shared.contract.events import ExtractionFailed, TrainingFailed, TrainingStarted, TrainingSucceeded
from shared.contract.headers import trace_id_in
from shared.contract.health import OK, Health, Seen, judge
from shared.contract.identity import ModelName
from shared.contract.topology import STATE_QUEUE
from shared.replicate.answers import TrainingsPage
from shared.replicate.errors import BadAnswer, NoAnswer, NotThere, OperatorNeeded
from shared.replicate.training import Training
from shared.replicate.webhook_url import webhook_url
from shared.runtime import telemetry, tracing
from shared.runtime.aside import SetAside
from shared.runtime.clock import now
from shared.runtime.postgres import Pool
from tests.collector import tracing_here
from tests.databases import opened_pool
from tests.state import connected

HOUR: Final = timedelta(hours=1)
NOON: Final = datetime(2026, 11, 24, 12, tzinfo=UTC)
LIMITS: Final = Limits(after=HOUR, every=timedelta(minutes=1), give_up_after=timedelta(days=3), retries=3 * HOUR)
OUTPUT: Final = {"version": "acme/ann:" + "a" * 64}


@pytest.fixture
async def pool(database_url: str) -> AsyncIterator[Pool]:
    async with opened_pool(database_url, role=ROLE) as pool:
        yield pool


@pytest.fixture
def store(pool: Pool) -> Store:
    return Store(pool)


def overdue(number: int = 1, **facts: Any) -> Unfinished:
    """A training that should have ended at noon."""
    known = {
        "ref": UUID(int=number),
        "training_id": f"t{number}",
        "user_id": f"user-{number}",
        "stage": Stage.RUNNING,
        "destination": ModelName("acme", "ann"),
        "trainer": None,
        "total_steps": 1000,
        "requested_at": NOON - HOUR,
        "started_at": None,
        "updated_at": NOON - HOUR,
    }
    return Unfinished.model_validate(known | facts)


def replicates(number: int = 1, **facts: Any) -> Training:
    known = {"id": f"t{number}", "status": "succeeded", "output": OUTPUT, "created_at": (NOON - HOUR).isoformat()}
    return Training.model_validate(known | facts)


@dataclass
class State:
    """Knows these trainings, until an end of theirs is published."""

    trainings: list[Unfinished] = field(default_factory=list)
    looked_at_again: list[datetime] = field(default_factory=list)
    moment: datetime = NOON
    never: list[tuple[UUID, str]] = field(default_factory=list)
    #: Stages that have changed since the trainings were listed.
    changed: dict[UUID, str] = field(default_factory=dict)

    async def unfinished(self) -> AsyncIterator[Unfinished]:
        for training in self.trainings:
            yield training

    async def knows(self, training_id: str) -> bool:
        return any(training.training_id == training_id for training in self.trainings)

    async def stage_of(self, ref: UUID) -> str:
        return next(self.changed.get(ref, each.stage) for each in self.trainings if each.ref == ref)

    async def retry_extraction(self, training: str) -> None:
        self.looked_at_again.append(self.moment)
        self.trainings = [
            each.model_copy(update={"updated_at": self.moment}) if str(each.ref) == training else each
            for each in self.trainings
        ]

    async def never_started(self, ref: UUID, reason: str) -> None:
        self.never.append((ref, reason))


@dataclass
class Replicate:
    """Lists some trainings, a few on a page, and knows more when it is asked for them alone."""

    listed: list[Training] = field(default_factory=list)
    unlisted: dict[str, Training] = field(default_factory=dict)
    page: int = 100
    error: Exception | None = None
    #: The first page that is answered with the error.
    fails_from: int = 0
    lists: int = 0
    gets: list[str] = field(default_factory=list)

    async def list_trainings(self, cursor: str | None = None) -> TrainingsPage:
        self.lists += 1
        begin = int(cursor or 0)
        if self.error and begin >= self.fails_from:
            raise self.error
        end = begin + self.page
        return TrainingsPage(tuple(self.listed[begin:end]), str(end) if end < len(self.listed) else None)

    async def get_training(self, training_id: str) -> Training:
        self.gets.append(training_id)
        if self.error:
            raise self.error
        if training_id not in self.unlisted:
            raise NotThere(f"get training {training_id}: 404")
        return self.unlisted[training_id]


@dataclass
class Scene:
    """A reconciler, whom it asks, and what it published."""

    store: Store
    state: State = field(default_factory=State)
    replicate: Replicate = field(default_factory=Replicate)
    published: list[Envelope] = field(default_factory=list)
    #: The trace that each of them was published in.
    traces: list[str | None] = field(default_factory=list)
    error: Exception | None = None
    #: Why state applies no events.
    paused: str = ""
    budget: CallBudget = field(default_factory=lambda: CallBudget(60))
    seconds: float = 0.0

    def __post_init__(self) -> None:
        self.reconciler = Reconciler(
            self.state,
            self.replicate,
            self.store,
            self._publish,
            self._look,
            limits=LIMITS,
            budget=self.budget,
            ref_secrets=("of-ours",),
        )
        self.reconciler.aside = SetAside("test", clock=lambda: self.seconds)

    async def _look(self) -> Mapping[str, Seen]:
        health = Health(status=OK, version="1", checks={}, consumers={STATE_QUEUE: self.paused or OK})
        return {"state": judge("state", health, "1")}

    async def _publish(self, envelope: Envelope) -> None:
        if self.error:
            raise self.error
        self.published.append(envelope)
        self.traces.append(trace_id_in(tracing.context().get("traceparent")))

    async def rounds(self, *moments: datetime) -> None:
        for self.state.moment in moments:
            async with self.store.alone() as turn:
                assert turn is not None
                await self.reconciler.round(self.state.moment, turn)

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """The reconciler in its loop."""
        stopping = asyncio.Event()
        running = asyncio.create_task(self.reconciler.run(stopping))
        try:
            yield
        finally:
            stopping.set()
            await running

    async def until_checked(self, trouble: str | None) -> None:
        async with asyncio.timeout(60):
            while await self.reconciler.check() != trouble:
                await asyncio.sleep(0.01)

    async def until_stored(self, trouble: str) -> None:
        async with asyncio.timeout(60):
            while (await self.store.last_round()).trouble != trouble:
                await asyncio.sleep(0.01)


@pytest.fixture
def scene(store: Store) -> Scene:
    return Scene(store)


async def rows(database_url: str, statement: str) -> list[tuple[Any, ...]]:
    async with connected(database_url) as connection:
        return [tuple(row.values()) for row in await connection.fetch(statement)]


async def shown_by(store: Store) -> Reconciliation:
    router = reconciliation_router(store, State(), calls_per_minute=60)
    shown = await router.routes[0].endpoint(limit=20)  # type: ignore[attr-defined]
    assert isinstance(shown, Reconciliation)
    return shown


async def test_what_is_not_overdue_costs_nothing(scene: Scene):
    scene.state.trainings = [overdue()]

    await scene.rounds(NOON - timedelta(seconds=1))

    assert (scene.replicate.lists, scene.published) == (0, [])


async def test_what_another_process_counted_is_measured_here(scene: Scene):
    scene.state.trainings = [overdue(1), overdue(2)]
    scene.replicate.listed = [replicates(1, status="processing"), replicates(2, status="processing")]
    await scene.rounds(now())
    telemetry.overdue.set(7)

    async with scene.running(), asyncio.timeout(60):
        while REGISTRY.get_sample_value("modelswap_trainings_overdue") == 7:
            await asyncio.sleep(0.01)

    assert REGISTRY.get_sample_value("modelswap_trainings_overdue") == 2


async def test_what_is_recovered_begins_a_trace_of_its_own(scene: Scene, monkeypatch: pytest.MonkeyPatch):
    scene.state.trainings = [overdue(1), overdue(2)]
    scene.replicate.listed = [replicates(1), replicates(2)]

    with tracing_here("ops", monkeypatch) as collector:
        await scene.rounds(NOON)

    begun = [span for span in collector.spans if span.name == "reconcile"]
    assert sorted(span.trace_id for span in begun) == sorted(filter(None, scene.traces))
    assert len({*scene.traces}) == 2
    assert {span.parent_id for span in begun} == {""}


async def test_recovered_end_is_published_like_a_webhook_once(scene: Scene, database_url: str):
    scene.state.trainings = [overdue()]
    scene.replicate.listed = [replicates()]

    await scene.rounds(NOON, NOON + timedelta(minutes=1), NOON + HOUR)

    first, again = scene.published
    assert first.event == TrainingSucceeded(
        training_id="t1",
        ref=UUID(int=1),
        recovered=True,
        destination=ModelName("acme", "ann"),
        user_id="user-1",
        output=OUTPUT,
        created_at=NOON - HOUR,
    )
    # State has not heard it within an hour: the same fact, which has one effect.
    assert (first.source, first.id) == ("/modelswap/ops", again.id)
    assert (await scene.store.counts(NOON + HOUR / 2))[RecoveryOutcome.RECOVERED] == RecoveryCounts(
        last_hour=1, last_day=1
    )
    assert await rows(database_url, "SELECT actor, action, target FROM ops.audit") == [
        ("ops", "training.recovered", "training t1")
    ]


async def test_nothing_is_missed_while_state_applies_no_events(scene: Scene, store: Store):
    scene.state.trainings = [overdue()]
    scene.replicate.listed = [replicates()]
    scene.paused = "Postgres is away"

    with pytest.raises(DependencyDown, match="state applies no events, webhooks among them: Postgres is away"):
        await scene.rounds(NOON)
    before, scene.paused = await store.counts(NOON), ""
    await scene.rounds(NOON + HOUR)

    assert before == {}
    assert [each.event.training_id for each in scene.published] == ["t1"]


async def test_list_is_read_back_to_the_oldest_only(scene: Scene):
    scene.state.trainings = [overdue()]
    scene.replicate.listed = [
        replicates(number, created_at=(NOON - number * timedelta(minutes=20)).isoformat()) for number in range(9, 0, -1)
    ][::-1]
    scene.replicate.page = 2

    await scene.rounds(NOON)

    assert scene.replicate.lists == 2
    assert [each.event.training_id for each in scene.published] == ["t1"]


async def test_training_is_fetched_at_most_thrice_despite_crashes(scene: Scene, store: Store):
    scene.state.trainings = [overdue()]
    moments = [NOON + number * HOUR / 4 for number in range(200)]

    for moment in moments:
        # A new process each time: nothing but Postgres remembers.
        fresh = Scene(store, state=scene.state, replicate=scene.replicate)
        await fresh.rounds(moment)

    assert scene.replicate.gets == ["t1"] * 3


async def test_one_that_the_list_does_not_show_is_asked_for_and_told(scene: Scene):
    scene.state.trainings = [overdue()]
    scene.replicate.unlisted = {"t1": replicates(status="failed", error="out of memory")}

    await scene.rounds(NOON)

    (told,) = scene.published
    assert told.event == TrainingFailed(training_id="t1", ref=UUID(int=1), recovered=True, reason="out of memory")


async def test_training_with_lost_start_is_fetched_and_reported(scene: Scene):
    lost = overdue(training_id=None, stage=Stage.REQUESTED)
    webhook = webhook_url("https://hooks.example.com", lost.claim, ("of-ours",))
    scene.state.trainings = [lost, overdue(2)]
    scene.replicate.listed = [replicates(2), replicates(output=None, webhook=webhook)]
    scene.replicate.unlisted = {"t1": replicates()}

    await scene.rounds(NOON)

    assert {(each.event.training_id, getattr(each.event, "output", None) is None) for each in scene.published} == {
        ("t1", False),
        ("t2", False),
    }


async def test_what_nobody_can_find_out_is_given_up_with_a_reason(scene: Scene, database_url: str):
    scene.state.trainings = [overdue()]

    await scene.rounds(*(NOON + number * HOUR for number in range(80)))

    assert {type(each.event) for each in scene.published} == {TrainingFailed}
    assert await rows(database_url, "SELECT action, target, reason FROM ops.audit") == [
        ("training.given_up", "training t1", "given up after 3 days without an end: Replicate does not show it")
    ]


async def test_what_never_began_is_said_to_state(scene: Scene):
    scene.state.trainings = [overdue(training_id=None, stage=Stage.REQUESTED)]

    await scene.rounds(*(NOON + number * HOUR for number in range(3)))

    assert [ref for ref, _ in scene.state.never] == [UUID(int=1)]
    assert scene.published == []


async def test_what_never_began_ends_beside_a_later_training(scene: Scene):
    trainer = "ostris/trainer:" + "0" * 64
    scene.state.trainings = [
        overdue(training_id=None, stage=Stage.REQUESTED, trainer=trainer),
        overdue(2, requested_at=NOON + 9 * HOUR),
    ]
    scene.replicate.listed = [replicates(2, model="ostris/trainer")]

    await scene.rounds(*(NOON + number * HOUR for number in range(3)))

    assert [ref for ref, _ in scene.state.never] == [UUID(int=1)]


async def test_of_two_candidates_the_unclaimed_one_is_identified(scene: Scene):
    trainer = "ostris/trainer:" + "0" * 64
    scene.state.trainings = [
        overdue(training_id=None, stage=Stage.REQUESTED, trainer=trainer),
        overdue(2, requested_at=NOON),
    ]
    scene.replicate.listed = [replicates(number, model="ostris/trainer") for number in (3, 2)]

    await scene.rounds(NOON)

    (told,) = scene.published
    assert (told.event.training_id, getattr(told.event, "ref", None)) == ("t3", UUID(int=1))


async def test_nobody_guesses_between_two(scene: Scene):
    trainer = "ostris/trainer:" + "0" * 64
    scene.state.trainings = [overdue(training_id=None, stage=Stage.REQUESTED, trainer=trainer)]
    scene.replicate.listed = [replicates(number, model="ostris/trainer") for number in (3, 2)]

    await scene.rounds(*(NOON + number * HOUR for number in range(5)))

    assert (scene.published, scene.state.never) == ([], [])


async def test_missing_model_is_extracted_again_after_all_retries(scene: Scene):
    scene.state.trainings = [overdue(stage=Stage.VERIFYING)]

    await scene.rounds(*(NOON + number * HOUR / 4 for number in range(50)))

    assert scene.state.looked_at_again == [NOON + 3 * HOUR, NOON + 7 * HOUR, NOON + 11 * HOUR]
    assert scene.replicate.lists == 0


async def test_unverified_model_is_given_up_after_one_fetch(scene: Scene, database_url: str):
    scene.state.trainings = [overdue(stage=Stage.VERIFYING)]

    await scene.rounds(*(NOON + number * HOUR for number in range(72)))

    (told,) = scene.published
    assert isinstance(told.event, ExtractionFailed)
    assert (told.event.training_id, told.event.ref, told.event.error) == ("t1", UUID(int=1), "given_up")
    assert scene.replicate.gets == ["t1"]
    assert await rows(database_url, "SELECT action, reason FROM ops.audit") == [
        ("training.given_up", told.event.detail)
    ]


@pytest.mark.parametrize("stage", [Stage.RUNNING, Stage.VERIFYING])
@pytest.mark.parametrize(
    "error",
    [OperatorNeeded("Replicate does not accept our token"), DependencyDown("throttled", retry_after_seconds=9)],
)
async def test_replicate_outage_fails_no_training_and_is_shown(scene: Scene, error: Exception, stage: Stage):
    training = overdue(requested_at=now() - timedelta(days=30), stage=stage)
    scene.state.trainings = [training]
    scene.replicate.error = error
    for _ in range(3):
        await scene.store.record_check(training, NOON, look_at=NOON)

    async with scene.running():
        await scene.until_checked(str(error))
        await scene.until_stored(str(error))

    assert scene.published == []


async def test_pages_before_an_error_are_acted_on(scene: Scene):
    shown, hidden, old = overdue(), overdue(2), overdue(3, training_id=None, stage=Stage.REQUESTED)
    scene.state.trainings = [shown, hidden, old]
    scene.replicate.page, scene.replicate.fails_from = 1, 1
    scene.replicate.listed = [replicates(), replicates(2)]
    scene.replicate.error = DependencyDown("throttled")

    for hour in range(3):
        with pytest.raises(DependencyDown):
            await scene.rounds(NOON + hour * HOUR)

    assert {each.event.training_id for each in scene.published} == {"t1"}
    assert (scene.replicate.gets, scene.state.never) == ([], [])


async def test_when_replicate_is_back_the_trouble_is_over(scene: Scene):
    scene.state.trainings = [overdue(requested_at=now() - 2 * HOUR)]
    scene.replicate.error = DependencyDown("away")
    scene.replicate.listed = [replicates()]

    async with scene.running():
        await scene.until_checked("away")
        scene.replicate.error = None
        await scene.until_checked(None)

    last = await scene.store.last_round()
    assert (last.trouble, last.overdue) == ("", 1)
    assert len(scene.published) == 1


async def test_what_was_not_confirmed_is_told_again_and_counted_once(scene: Scene):
    scene.state.trainings = [overdue()]
    scene.replicate.listed = [replicates()]
    scene.error = DependencyDown("no receipt")

    with pytest.raises(DependencyDown):
        await scene.rounds(NOON)
    scene.error = None
    await scene.rounds(NOON)

    assert len(scene.published) == 1
    assert await scene.store.counts(NOON) == {RecoveryOutcome.RECOVERED: RecoveryCounts(last_hour=1, last_day=1)}


@pytest.mark.parametrize("error", [AssertionError("poison"), NoAnswer("503"), BadAnswer("no JSON")], ids=repr)
async def test_a_poisoned_training_stops_no_other_and_is_shown(scene: Scene, error: Exception):
    scene.state.trainings = [overdue(number, requested_at=NOON - number * HOUR) for number in (1, 2, 3)]
    scene.replicate.listed = [replicates(number) for number in (1, 2)]

    async def poisoned(training_id: str) -> Training:
        raise error

    scene.replicate.get_training = poisoned  # type: ignore[method-assign]
    await scene.rounds(NOON)
    shown = await shown_by(scene.store)

    assert {each.event.training_id for each in scene.published} == {"t1", "t2"}
    assert (shown.set_aside, shown.trainings[0].training_id, len(scene.reconciler.aside)) == (1, "t3", 1)
    assert str(error) in shown.trainings[0].trouble
    assert shown.last_round.at == shown.last_round.last_success_at == NOON


async def test_training_checked_again_is_no_longer_set_aside(scene: Scene):
    scene.state.trainings = [overdue(1), overdue(2)]
    scene.replicate.unlisted = {"t1": replicates(1, status="paused"), "t2": replicates(2, status="processing")}
    await scene.rounds(NOON)
    before = await shown_by(scene.store)
    scene.replicate.listed = [replicates(1), replicates(2)]
    scene.seconds += 60

    await scene.rounds(NOON + HOUR)

    after = await shown_by(scene.store)
    assert (before.set_aside, after.set_aside, len(scene.reconciler.aside)) == (1, 0, 0)


async def test_one_bad_answer_harms_only_its_own_training(scene: Scene):
    scene.state.trainings = [overdue(1, stage=Stage.REQUESTED), overdue(2)]
    scene.replicate.listed = [replicates(2)]
    scene.replicate.get_training = _bad_answer  # type: ignore[method-assign]

    with capture_logs() as logs:
        await scene.rounds(NOON)

    assert [each.event.training_id for each in scene.published] == ["t2"]
    assert [line["error"] for line in logs if line["event"] == "item.set_aside"] == ["replicate_bad_answer"]


async def _bad_answer(training_id: str) -> Training:
    raise BadAnswer(f"get training {training_id}: no JSON")


async def test_the_budget_is_kept_and_the_rest_comes_later(store: Store):
    scene = Scene(store, budget=CallBudget(3))
    scene.state.trainings = [overdue(number) for number in range(10)]

    await scene.rounds(NOON, NOON)

    assert (scene.replicate.lists, len(scene.replicate.gets)) == (1, 2)


async def test_that_one_runs_is_told_where_nobody_knew(scene: Scene):
    scene.state.trainings = [overdue(stage=Stage.REQUESTED)]
    scene.replicate.listed = [replicates(status="processing", output=None)]

    await scene.rounds(NOON)

    assert [each.event for each in scene.published] == [
        TrainingStarted(training_id="t1", ref=UUID(int=1), recovered=True)
    ]


async def test_an_end_that_state_heard_of_in_the_round_is_not_reported(scene: Scene):
    scene.state.trainings = [overdue(1), overdue(2)]
    scene.replicate.listed = [replicates(1), replicates(2)]
    scene.state.changed = {UUID(int=1): "active"}

    await scene.rounds(NOON)

    assert [each.event.training_id for each in scene.published] == ["t2"]


async def test_many_recovered_ones_are_a_warning(scene: Scene):
    scene.state.trainings = [overdue(number) for number in range(3)]
    scene.replicate.listed = [replicates(number) for number in range(3)]

    with capture_logs() as logs:
        await scene.rounds(NOON, NOON)

    assert [line["recovered_last_hour"] for line in logs if line["event"] == "webhooks.do_not_arrive"] == [3]


# The store


async def test_one_process_works_at_a_time(store: Store):
    async with store.alone() as first, store.alone() as second:
        both = (first, second)
    async with store.alone() as third:
        pass

    assert [turn is not None for turn in (*both, third)] == [True, False, True]


async def test_of_two_processes_one_does_a_round(store: Store):
    first, second = Scene(store), Scene(store)

    await first.reconciler._alone()
    done = await store.last_round()
    await second.reconciler._alone()

    assert done.last_success_at is not None
    assert await store.last_round() == done


async def test_a_round_that_fails_lets_the_next_process_work(store: Store):
    with contextlib.suppress(ValueError):
        async with store.alone():
            raise ValueError
    async with store.alone() as next_one:
        pass

    assert next_one


async def test_no_transaction_is_open_while_one_process_works(store: Store, database_url: str):
    query = """
        SELECT count(*) FROM pg_stat_activity
        WHERE datname = current_database() AND backend_type = 'client backend' AND xact_start IS NOT NULL
    """
    async with store.alone() as turn:
        # One is the transaction of the query itself.
        found = await rows(database_url, query)

    assert turn is not None
    assert found == [(1,)]


async def test_a_round_that_lost_its_lock_notes_no_success(store: Store, database_url: str):
    scene = Scene(store)
    end_holder = """
        SELECT pg_terminate_backend(pid) FROM pg_locks JOIN pg_database d ON d.oid = database
        WHERE locktype = 'advisory' AND d.datname = current_database()
    """

    async def loses_its_lock() -> None:
        async with store.alone() as turn:
            assert turn is not None
            assert await rows(database_url, end_holder) == [(True,)]
            await scene.reconciler.round(NOON, turn)

    with pytest.raises(DependencyDown):
        await loses_its_lock()

    assert (await store.last_round()).last_success_at is None


async def test_ended_trainings_are_forgotten_unless_recovered(store: Store):
    one, two, three = (overdue(number) for number in (1, 2, 3))
    for each in (one, two, three):
        await store.record_check(each, NOON, look_at=NOON)
    await store.settle(three, RecoveryOutcome.RECOVERED, "found", NOON)

    await store.forget_others({one.ref})

    assert {each.ref for each in await store.latest(9)} == {one.ref, three.ref}


async def test_only_a_recovered_training_is_settled_again(store: Store):
    ends = [RecoveryOutcome.RECOVERED, RecoveryOutcome.RECOVERED, RecoveryOutcome.GIVEN_UP]
    ends += [RecoveryOutcome.GIVEN_UP, RecoveryOutcome.RECOVERED]

    settled = [await store.settle(overdue(), outcome, "found", NOON) for outcome in ends]

    assert settled == [True, False, True, False, False]
    assert await store.counts(NOON) == {RecoveryOutcome.GIVEN_UP: RecoveryCounts(last_hour=1, last_day=1)}


async def test_absences_count_in_a_row(store: Store):
    for is_absent in (True, True, False, True):
        await store.record_check(overdue(), NOON, look_at=NOON + HOUR, is_absent=is_absent)

    assert await store.recall([UUID(int=1)]) == {UUID(int=1): Memory(looks=4, absences=1, look_at=NOON + HOUR)}


# What operators see


async def test_reconciliation_shows_recovered_and_last_round(scene: Scene):
    moment = now()
    scene.state.trainings = [overdue(requested_at=moment - 2 * HOUR)]
    scene.replicate.listed = [replicates(created_at=(moment - 2 * HOUR).isoformat())]
    await scene.rounds(moment)

    shown = await shown_by(scene.store)

    assert (shown.recovered, shown.webhooks_seem_lost) == (RecoveryCounts(last_hour=1, last_day=1), False)
    assert (shown.last_round.overdue, shown.last_round.calls_left, shown.calls_per_minute) == (1, 59, 60)
    assert [(each.training_id, each.outcome) for each in shown.trainings] == [("t1", RecoveryOutcome.RECOVERED)]
