"""Which model does each user use after these events? Every order of every end, and what can be wrong with an event."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from datetime import timedelta
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.state.changes import (
    Changes,
    CurrentModel,
    Loaded,
    Result,
    Rival,
    Swap,
    Training,
    Withdrawal,
)
from services.state.extraction import NotRetryable, retry_extraction
from services.state.ownership import DestinationMismatch, DestinationShared, MadeByAnother, MayBeAnothers
from services.state.rollback import (
    AlreadyCurrent,
    NoModel,
    NothingToRollBackTo,
    NotTheirs,
    PreconditionFailed,
    RollbackOrder,
    Target,
    WithdrawalOrder,
    roll_back,
    withdraw,
)
from services.state.swap import UnconfirmedRef, UnknownTraining, fold
from services.state.transitions import Stage
from shared.contract.envelope import Envelope
from shared.contract.errors import PermanentError
from shared.contract.events import (
    ExtractionRequested,
    ModelActivated,
    ModelReverted,
    ModelSuperseded,
    ModelWithdrawn,
    ReplaySettled,
    TrainingStarted,
    TrainingSucceeded,
)
from shared.contract.identity import ModelName, ModelRef
from shared.contract.values import Cause, Effect
from tests.state import (
    DESTINATION,
    NOON,
    canceled,
    destination_unknown,
    envelope,
    failed,
    model_of,
    not_verified,
    ready,
    replayed,
    started,
    succeeded,
)

ENDS: dict[str, Callable[[str], Envelope]] = {
    "good": ready,
    "failed": failed,
    "canceled": canceled,
    "no model": not_verified,
}
STAGES = {
    "good": {Stage.REPLACED, Stage.SUPERSEDED},
    "failed": {Stage.FAILED},
    "canceled": {Stage.CANCELED},
    "no model": {Stage.UNVERIFIED},
}


def training(generation: int, *, user_id: str = "ada", **fields: object) -> Training:
    """The user's training number *generation*, named after it."""
    known = Training(
        ref=UUID(int=generation),
        training_id=f"t{generation}",
        user_id=user_id,
        generation=generation,
        destination=DESTINATION,
        trigger_word="TOK",
        stage=Stage.REQUESTED,
    )
    return replace(known, **fields)  # type: ignore[arg-type]


@dataclass
class World:
    """The tables in memory, and what must hold whenever something was written."""

    trainings: dict[UUID, Training]
    models: dict[str, CurrentModel] = field(default_factory=dict)
    inbox: set[str] = field(default_factory=set)
    history: list[Swap | Withdrawal] = field(default_factory=list)
    told: list[ModelActivated | ModelSuperseded | ModelWithdrawn] = field(default_factory=list)
    asked: list[ExtractionRequested] = field(default_factory=list)
    noted: list[ModelReverted] = field(default_factory=list)

    @classmethod
    def of(cls, *trainings: Training) -> World:
        return cls({each.ref: each for each in trainings})

    def take(self, *envelopes: Envelope) -> Sequence[Result]:
        """Apply *envelopes* as one batch."""
        trainings = self.trainings.values()
        shared = [
            one.destination for one, other in itertools.combinations(trainings, 2) if one.user_id != other.user_id
        ]
        loaded = Loaded(trainings, self.models, self.withdrawn, applied=self.inbox, shared=shared)
        changes = fold(envelopes, loaded, now=NOON)
        self._write(changes)
        self._check()
        return changes.results

    def retry_extraction(self, generation: int, request_id: UUID) -> None:
        self._write(retry_extraction(self.trainings[UUID(int=generation)], request_id=request_id, now=NOON))
        self._check()

    def roll_back(self, to: int, generation: int) -> None:
        """Make the model of training number *to* the current one, as *generation*."""
        target = self.trainings[UUID(int=to)]
        order = RollbackOrder("ada", model_of(f"t{to}"), "too dark", "eve")
        found = Target(target, f"t{to}", model_of(f"t{to}"))
        self._write(roll_back(order, self.models.get("ada"), found, generation=generation, now=NOON))
        self._check()

    def withdraw(self, generation: int) -> None:
        """Take ada's model away, as *generation*."""
        current = self.models["ada"]
        made = Target(self.trainings[current.ref], f"t{current.ref.int}", current.model)
        order = WithdrawalOrder("ada", "not hers", "eve")
        self._write(withdraw(order, current, made, generation=generation, now=NOON))
        self._check()

    @property
    def withdrawn(self) -> dict[str, int]:
        return {line.user_id: line.generation for line in self.history if line.user_id not in self.models}

    def copy(self) -> World:
        return World(
            dict(self.trainings),
            dict(self.models),
            set(self.inbox),
            list(self.history),
            list(self.told),
            list(self.asked),
            list(self.noted),
        )

    def stage(self, generation: int) -> Stage:
        return self.trainings[UUID(int=generation)].stage

    def _write(self, changes: Changes) -> None:
        self.inbox.update(changes.applied)
        for change in changes.trainings:
            row = self.trainings[change.ref]
            self.trainings[change.ref] = replace(
                row,
                stage=change.stage or row.stage,
                training_id=row.training_id or change.training_id,
                output=row.output or change.output,
                trainer_version=row.trainer_version or change.trainer_version,
                started_at=row.started_at or change.started_at,
                reported_at=row.reported_at or change.reported_at,
            )
        for swap in changes.current:
            known = self.models.get(swap.user_id)
            assert known is None or known.generation < swap.generation
            self.models[swap.user_id] = CurrentModel(swap.generation, swap.ref, swap.model)
        for withdrawal in changes.withdrawals:
            assert self.models.pop(withdrawal.user_id).generation < withdrawal.generation
        self.history += changes.lines
        for outgoing in changes.outbox:
            event = outgoing.envelope.event
            if isinstance(event, ExtractionRequested):
                self.asked.append(event)
            elif isinstance(event, ModelReverted):
                self.noted.append(event)
            elif not isinstance(event, ReplaySettled):
                assert isinstance(event, ModelActivated | ModelSuperseded | ModelWithdrawn)
                self.told.append(event)

    def _check(self) -> None:
        active = {each.user_id: each.ref for each in self.trainings.values() if each.stage is Stage.ACTIVE}
        assert active == {user: model.ref for user, model in self.models.items()}
        generations = [swap.generation for swap in self.history]
        assert generations == sorted(set(generations))
        activated = [event for event in self.told if isinstance(event, ModelActivated)]
        assert [(e.generation, e.model, e.previous, e.cause) for e in activated] == [
            (line.generation, line.model, line.previous, line.cause) for line in self.history if isinstance(line, Swap)
        ]
        withdrawn = [event for event in self.told if isinstance(event, ModelWithdrawn)]
        assert [(e.generation, e.ref, e.previous) for e in withdrawn] == [
            (line.generation, line.ref, line.previous) for line in self.history if isinstance(line, Withdrawal)
        ]


def assert_newest_good_is_live(world: World, ends: Sequence[str]) -> None:
    """*ends* are those of generation 1, 2, …"""
    newest = max((number for number, end in enumerate(ends, 1) if end == "good"), default=None)
    live = world.models.get("ada")
    assert (live and live.generation) == newest
    for number, end in enumerate(ends, 1):
        assert world.stage(number) in ({Stage.ACTIVE} if number == newest else STAGES[end])
    if live:
        assert live.model == model_of(f"t{newest}")


def orders(events: Iterable[Envelope]) -> Iterable[tuple[Envelope, ...]]:
    return itertools.permutations(events)


@pytest.mark.parametrize("ends", list(itertools.product(ENDS, repeat=4)), ids="-".join)
def test_of_four_trainings_the_newest_good_one_wins_in_any_order(ends):
    events = [ENDS[end](f"t{number}") for number, end in enumerate(ends, 1)]

    for order in orders(events):
        world = World.of(*map(training, range(1, 5)))
        for event in order:
            world.take(event)

        assert_newest_good_is_live(world, ends)


@pytest.mark.parametrize("ends", list(itertools.product(ENDS, repeat=2)), ids="-".join)
def test_every_order_of_duplicated_events_ends_the_same(ends):
    events = [started("t1"), ENDS[ends[0]]("t1"), started("t2"), ENDS[ends[1]]("t2")]

    for order in orders(events):
        for again in order:
            world = World.of(training(1), training(2))
            for event in (*order, again):
                world.take(event)

            assert_newest_good_is_live(world, ends)


@pytest.mark.parametrize("ends", list(itertools.product(["good", "no model"], repeat=2)), ids="-".join)
def test_a_success_that_is_told_too_late_changes_nothing(ends):
    events = [succeeded("t1"), ENDS[ends[0]]("t1"), succeeded("t2"), ENDS[ends[1]]("t2")]

    for order in orders(events):
        world = World.of(training(1), training(2))
        for event in order:
            world.take(event)

        assert_newest_good_is_live(world, ends)


EVENTS = [
    tell(training_id)
    for tell in (started, succeeded, ready, failed, canceled, not_verified, destination_unknown)
    for training_id in ("t1", "t2", "t3")
]


@given(st.lists(st.sampled_from(EVENTS), max_size=12), st.integers(1, 12))
def test_a_batch_comes_to_the_same_as_its_events_one_by_one(events, size):
    together, alone = World.of(*map(training, (1, 2, 3))), World.of(*map(training, (1, 2, 3)))

    for first in range(0, len(events), size):
        together.take(*events[first : first + size])
    for event in events:
        alone.take(event)

    assert together == alone


def test_an_older_model_is_used_while_a_newer_training_runs():
    world = World.of(training(1), training(2))

    world.take(started("t2"), ready("t1"))
    until_then = world.models["ada"].generation
    world.take(ready("t2"))

    assert [until_then, world.models["ada"].generation] == [1, 2]
    assert [swap.previous for swap in world.history] == [None, model_of("t1")]


def test_an_older_training_that_ends_later_is_superseded():
    world = World.of(training(1), training(2))

    world.take(ready("t2"))
    world.take(ready("t1"))

    assert world.models["ada"].generation == 2
    assert isinstance(world.told[-1], ModelSuperseded)
    assert (world.told[-1].generation, world.told[-1].current_generation) == (1, 2)


def test_a_rollback_beats_all_earlier_requests():
    rolled_back = CurrentModel(3, UUID(int=1), model_of("t1"))
    world = World.of(training(1, stage=Stage.ACTIVE), training(2))
    world.models["ada"] = rolled_back

    world.take(ready("t2"))

    assert world.models["ada"] == rolled_back


def test_looking_again_may_find_the_model_that_was_missing():
    world = World.of(training(1))

    world.take(succeeded("t1"), not_verified("t1"))
    world.take(ready("t1"))

    assert world.stage(1) is Stage.ACTIVE


def test_the_newest_reason_why_there_is_no_model_is_kept():
    changes = fold(
        [not_verified("t1", "short_version"), not_verified("t1", "not_there")], Loaded([training(1)], {}), now=NOON
    )

    assert [change.failure and change.failure.code for change in changes.trainings] == ["not_there"]


# Looking again


@pytest.mark.parametrize("stage", [Stage.VERIFYING, Stage.UNVERIFIED])
def test_a_retried_extraction_has_all_known_facts(stage):
    world = World.of(
        training(
            1, stage=stage, output='{"version": ["é", null]}', trainer_version="f" * 64, started_at=NOON, user_id="ada"
        )
    )

    world.retry_extraction(1, UUID(int=7))

    assert world.stage(1) is Stage.VERIFYING
    assert world.asked == [
        ExtractionRequested(
            training_id="t1",
            request_id=UUID(int=7),
            ref=UUID(int=1),
            destination=DESTINATION,
            user_id="ada",
            output={"version": ["é", None]},
            trainer_version="f" * 64,
            started_at=NOON,
        )
    ]


@pytest.mark.parametrize(
    ("stage", "code"),
    [
        (Stage.REQUESTED, "still_running"),
        (Stage.RUNNING, "still_running"),
        (Stage.FAILED, "training_failed"),
        (Stage.CANCELED, "training_canceled"),
        (Stage.ACTIVE, "has_model"),
        (Stage.REPLACED, "has_model"),
        (Stage.SUPERSEDED, "has_model"),
    ],
)
def test_where_there_is_nothing_to_look_for_it_is_said_why(stage, code):
    with pytest.raises(NotRetryable, match="training t1 ") as refused:
        retry_extraction(training(1, stage=stage), request_id=UUID(int=7), now=NOON)

    assert refused.value.code == code


@pytest.mark.parametrize(
    "output",
    [None, '"' + "x" * 600_000 + '"', "{", "NaN", r'"\ud800"', r'"\u0000"', "[" * 100_000],
    ids=["none", "too long", "no JSON", "no number", "half a pair", "a NUL", "too deep"],
)
def test_an_output_that_can_not_travel_is_left_to_replicate(output):
    (outgoing,) = retry_extraction(
        training(1, stage=Stage.UNVERIFIED, output=output), request_id=UUID(int=7), now=NOON
    ).outbox

    assert isinstance(outgoing.envelope.event, ExtractionRequested)
    assert outgoing.envelope.event.output is None
    assert len(outgoing.envelope.body()) < 1000


@pytest.mark.parametrize("order", list(itertools.permutations(["older fails", "older fails again", "newer ends"])))
@pytest.mark.parametrize(("end", "stage"), [("good", Stage.ACTIVE), ("no model", Stage.UNVERIFIED)])
def test_a_late_result_of_an_older_extraction_changes_nothing(order, end, stage):
    world = World.of(training(1, stage=Stage.UNVERIFIED))
    world.retry_extraction(1, UUID(int=7))
    world.retry_extraction(1, UUID(int=8))
    said = {
        "older fails": not_verified("t1"),
        "older fails again": not_verified("t1", request_id=UUID(int=7)),
        "newer ends": ready("t1") if end == "good" else not_verified("t1", request_id=UUID(int=8)),
    }

    for name in order:
        world.take(said[name])

    assert world.stage(1) is stage


def test_a_second_failure_is_a_fact_of_its_own():
    world = World.of(training(1))
    world.take(not_verified("t1"))

    world.retry_extraction(1, UUID(int=7))
    world.take(not_verified("t1", request_id=UUID(int=7)))

    assert world.stage(1) is Stage.UNVERIFIED


# Looking again, with the destination


def test_a_missing_destination_is_added_for_a_new_extraction():
    world = World.of(training(1))

    world.take(started("t1"), succeeded("t1", output="f" * 64), destination_unknown("t1"))

    assert world.stage(1) is Stage.VERIFYING
    (asked,) = world.asked
    assert (asked.training_id, asked.ref, asked.destination, asked.output) == (
        "t1",
        UUID(int=1),
        DESTINATION,
        "f" * 64,
    )


def test_an_extraction_is_requested_with_the_first_output():
    world = World.of(training(1, stage=Stage.VERIFYING, output='"first"'))

    world.take(succeeded("t1", output="last"), destination_unknown("t1"))

    (asked,) = world.asked
    assert asked.output == "first"


def test_that_is_asked_once_however_often_it_is_told():
    world = World.of(training(1), training(2))

    world.take(destination_unknown("t1"), destination_unknown("t1"), destination_unknown("t2"))
    world.take(destination_unknown("t1"))

    assert [asked.training_id for asked in world.asked] == ["t1", "t2"]
    assert len({asked.request_id for asked in world.asked}) == 2


def test_an_operator_s_replay_asks_anew():
    world = World.of(training(1))

    world.take(destination_unknown("t1"))
    world.take(replace(destination_unknown("t1"), replay="7"))

    assert len({asked.request_id for asked in world.asked}) == 2


def test_it_does_not_go_round_in_circles():
    world = World.of(training(1))

    world.take(not_verified("t1", "destination_unknown", request_id=UUID(int=7)))

    assert (world.stage(1), world.asked) == (Stage.UNVERIFIED, [])


@pytest.mark.parametrize("stage", [Stage.FAILED, Stage.CANCELED, Stage.ACTIVE, Stage.REPLACED, Stage.SUPERSEDED])
def test_what_has_ended_otherwise_is_not_looked_at_again(stage):
    changes = fold([destination_unknown("t1")], Loaded([training(1, stage=stage)], {}), now=NOON)

    assert (changes.results, changes.outbox) == ([None], [])


# Rolling back


@pytest.mark.parametrize("newer", [None, *ENDS])
@pytest.mark.parametrize("position", range(2, 5))
@pytest.mark.parametrize("back_to", range(1, 4))
def test_a_rollback_beats_earlier_and_not_later_requests(newer, position, back_to):
    happened = 0
    for order in orders([ready(f"t{number}") for number in range(1, 5)]):
        world = World.of(*map(training, range(1, 5)))
        for event in order[:position]:
            world.take(event)
        if world.stage(back_to) not in (Stage.REPLACED, Stage.SUPERSEDED):
            continue
        happened += 1

        world.roll_back(back_to, 5)
        for event in order:
            world.take(event)
        chosen = world.models["ada"]
        if newer:
            world.trainings[UUID(int=6)] = training(6)
            world.take(ENDS[newer]("t6"))

        live = 6 if newer == "good" else back_to
        assert (chosen.generation, chosen.model) == (5, model_of(f"t{back_to}"))
        assert world.models["ada"].model == model_of(f"t{live}")
        assert world.stage(live) is Stage.ACTIVE
        assert all(world.stage(each) in STAGES["good"] for each in range(1, 5) if each != live)
    assert happened


def test_a_rollback_says_who_and_why():
    world = World.of(training(1), training(2))
    world.take(ready("t1"), ready("t2"))

    world.roll_back(1, 3)

    last = world.history[-1]
    assert isinstance(last, Swap)
    assert (last.cause, last.actor, last.reason) == (Cause.ROLLBACK, "eve", "too dark")
    assert last.previous == model_of("t2")
    (noted,) = world.noted
    assert (noted.user_id, noted.generation, noted.actor, noted.reason) == ("ada", 3, "eve", "too dark")
    assert (noted.previous, noted.model) == (model_of("t2"), model_of("t1"))


CURRENT = CurrentModel(4, UUID(int=2), model_of("t2"))


@pytest.mark.parametrize(
    ("current", "fields", "error"),
    [
        (None, {}, NoModel),
        (CURRENT, {"only_from": {3, 5}}, PreconditionFailed),
        (CURRENT, {"only_from": set()}, PreconditionFailed),
        (CURRENT, {"to": model_of("t2")}, AlreadyCurrent),
        (CURRENT, {"to": model_of("stranger")}, NotTheirs),
        (CURRENT, {"only_from": {4}}, NothingToRollBackTo),
    ],
)
def test_what_can_not_be_rolled_back_is_said(current, fields, error):
    order = replace(RollbackOrder("ada", None, "too dark", "eve"), **fields)

    with pytest.raises(error):
        roll_back(order, current, None, generation=5, now=NOON)


# Withdrawing


def test_a_withdrawal_leaves_no_model_and_says_who_and_why():
    world = World.of(training(1))
    world.take(ready("t1"))

    world.withdraw(2)

    assert (world.models, world.stage(1)) == ({}, Stage.REPLACED)
    assert world.history[-1] == Withdrawal("ada", 2, UUID(int=1), model_of("t1"), "not hers", "eve")
    (noted,) = world.noted
    assert (noted.generation, noted.actor, noted.reason) == (2, "eve", "not hers")
    assert (noted.previous, noted.model) == (model_of("t1"), None)


def test_after_a_withdrawal_only_a_newer_training_is_used():
    world = World.of(training(1), training(2))
    world.take(ready("t2"))
    world.withdraw(3)

    world.take(ready("t1"))
    still = dict(world.models)
    world.trainings[UUID(int=4)] = training(4)
    world.take(ready("t4"))

    superseded = world.told[-2]
    assert (still, world.stage(1)) == ({}, Stage.SUPERSEDED)
    assert isinstance(superseded, ModelSuperseded)
    assert (superseded.generation, superseded.current_generation) == (1, 3)
    assert (world.models["ada"].generation, world.stage(4)) == (4, Stage.ACTIVE)


def test_what_was_withdrawn_can_be_chosen_again_by_name():
    world = World.of(training(1))
    world.take(ready("t1"))
    world.withdraw(2)

    world.roll_back(1, 3)

    assert world.models["ada"] == CurrentModel(3, UUID(int=1), model_of("t1"))
    assert (world.stage(1), world.noted[-1].previous) == (Stage.ACTIVE, None)


@pytest.mark.parametrize(
    ("current", "only_from", "error"),
    [
        (None, None, NoModel),
        (None, {4}, NoModel),
        (CURRENT, {3, 5}, PreconditionFailed),
        (CURRENT, set(), PreconditionFailed),
    ],
)
def test_what_can_not_be_withdrawn_is_said(current, only_from, error):
    made = Target(training(2), "t2", model_of("t2"))

    with pytest.raises(error):
        withdraw(WithdrawalOrder("ada", "not hers", "eve", only_from), current, made, generation=5, now=NOON)


def test_in_every_order_the_newest_generation_decides():
    """
    Up to three trainings are requested, each is ready at any time or never, and operators act up to twice meanwhile.

    What is live afterwards is known without any order but that of the generations: the newest of what an operator did
    and of what proved good.
    """
    seen = 0
    todo: list[tuple[World, int, int, dict[int, int | None]]] = [(World.of(), 1, 0, {})]
    while todo:
        world, generation, acts, decided = todo.pop()
        seen += 1
        live, said = world.models.get("ada"), decided[max(decided)] if decided else None
        assert (live.ref.int if live else None) == said
        requested = [ref.int for ref in world.trainings]
        if len(requested) < 3:
            after = world.copy()
            after.trainings[UUID(int=generation)] = training(generation)
            todo.append((after, generation + 1, acts, decided))
        for number in requested:
            if world.stage(number) is Stage.REQUESTED:
                after = world.copy()
                after.take(ready(f"t{number}"))
                todo.append((after, generation, acts, {**decided, number: number}))
        if acts < 2:
            if live is not None:
                after = world.copy()
                after.withdraw(generation)
                todo.append((after, generation + 1, acts + 1, {**decided, generation: None}))
            for number in requested:
                if world.stage(number) in (Stage.REPLACED, Stage.SUPERSEDED):
                    after = world.copy()
                    after.roll_back(number, generation)
                    todo.append((after, generation + 1, acts + 1, {**decided, generation: number}))
        late = world.copy()
        late.inbox.clear()
        late.take(*(ready(f"t{number}") for number in requested if world.stage(number) is not Stage.REQUESTED))
        assert (late.models, late.history) == (world.models, world.history)
    assert seen > 900


def test_users_do_not_touch_each_other():
    world = World.of(training(1), training(2, user_id="bob"))

    world.take(ready("t1"), ready("t2"))

    assert {user: model.ref.int for user, model in world.models.items()} == {"ada": 1, "bob": 2}


# What can be wrong with an event


def test_an_event_of_an_unknown_training_is_retried():
    world = World.of(training(1))

    results = world.take(ready("t1"), ready("t9"))

    assert results[0] is None
    assert isinstance(results[1], UnknownTraining)
    assert (results[1].code, results[1].max_attempts) == ("unknown_training", 5)
    assert ready("t9").id not in world.inbox


def test_a_looked_up_model_of_another_training_is_refused():
    world = World.of(training(1), training(2))

    results = world.take(ready("t1"), ready("t2", model=model_of("t1"), looked_up=True))

    assert results[0] is None
    assert isinstance(results[1], MadeByAnother)
    assert (world.models["ada"].generation, world.stage(2)) == (1, Stage.UNVERIFIED)


def test_a_looked_up_model_at_a_shared_destination_is_refused():
    world = World.of(training(1), training(2, user_id="bob"))

    # It may be bob's already, of whose training nobody has heard yet.
    (result,) = world.take(ready("t1", looked_up=True))

    assert isinstance(result, DestinationShared)
    assert (world.models, world.stage(1)) == ({}, Stage.UNVERIFIED)


def test_what_an_output_names_is_theirs_wherever_it_lies():
    world = World.of(training(1), training(2, user_id="bob"))

    assert list(world.take(ready("t1"), ready("t2"))) == [None, None]
    assert {user: model.model for user, model in world.models.items()} == {"ada": model_of("t1"), "bob": model_of("t2")}


def test_two_trainings_of_a_user_may_have_made_the_same_model():
    world = World.of(training(1), training(2))

    assert list(world.take(ready("t1"), ready("t2", model=model_of("t1")))) == [None, None]
    assert world.models["ada"].generation == 2


BEFORE, AFTER = NOON - timedelta(hours=1), NOON + timedelta(hours=1)


@pytest.mark.parametrize(
    ("started_at", "completed_at", "is_taken"),
    [
        (None, None, False),
        (BEFORE, None, False),
        (BEFORE, NOON, False),
        (None, NOON - timedelta(minutes=9), False),
        (AFTER, None, True),
        (None, NOON - timedelta(minutes=11), True),
    ],
)
def test_a_looked_up_model_without_rivals_is_accepted(started_at, completed_at, is_taken):
    others = [Rival(UUID(int=1), DESTINATION, None, None), Rival(UUID(int=2), DESTINATION, started_at, completed_at)]
    elsewhere = Rival(UUID(int=3), ModelName("acme", "other"), None, None)
    loaded = Loaded([training(1)], {}, rivals=[*others, elsewhere])

    changes = fold([ready("t1", looked_up=True, made_at=NOON)], loaded, now=NOON)

    assert [type(result) for result in changes.results] == [type(None) if is_taken else MayBeAnothers]
    assert len(changes.swaps) == is_taken
    assert changes.trainings[0].stage is (Stage.ACTIVE if is_taken else Stage.UNVERIFIED)


@pytest.mark.parametrize(("registered", "is_taken"), [((), False), (["x1"], False), (["x1", "x2"], True)])
def test_a_model_with_an_unregistered_rival_is_refused(registered, is_taken):
    loaded = Loaded([training(1)], {}, registered=registered)

    changes = fold([ready("t1", looked_up=True, made_at=NOON, rivals=("x1", "x2"))], loaded, now=NOON)

    assert len(changes.swaps) == is_taken


def test_a_model_at_another_destination_is_never_used():
    stranger = model_of("t1", ModelName("acme", "bob"))
    world = World.of(training(1, stage=Stage.VERIFYING))

    results = [*world.take(ready("t1", model=stranger)), *world.take(ready("t1", model=stranger))]

    assert [type(result) for result in results] == [DestinationMismatch, DestinationMismatch]
    assert world.stage(1) is Stage.UNVERIFIED
    assert (world.models, world.inbox) == ({}, set())


def test_a_model_somewhere_else_leaves_the_current_one_alone():
    world = World.of(training(1), training(2))

    world.take(ready("t1"), ready("t2", model=model_of("t2", ModelName("acme", "bob"))))

    assert world.models["ada"].model == model_of("t1")


def test_late_events_of_a_deleted_user_do_nothing():
    changes = fold([ready("t1")], Loaded([training(1)], {}, deleted_users={"ada"}), now=NOON)

    assert (changes.results, changes.swaps, changes.outbox) == ([None], [], [])
    assert list(changes.applied) == [ready("t1").id]


def test_a_late_event_sets_no_id_of_a_deleted_user_s_training():
    unstarted = training(1, training_id=None, stage=Stage.FAILED)

    changes = fold([started("t1", ref=UUID(int=1))], Loaded([unstarted], {}, deleted_users={"ada"}), now=NOON)

    assert (changes.results, changes.trainings, changes.users) == ([None], (), ["ada"])


def test_an_event_that_is_none_of_ours_is_set_aside():
    event = ExtractionRequested(training_id="t1", request_id=UUID(int=7), ref=UUID(int=1), destination=DESTINATION)

    (result,) = World.of(training(1)).take(envelope(event))

    assert isinstance(result, PermanentError)
    assert result.code == "unexpected_event"


# Which training an event is about


def test_a_webhook_that_proves_our_own_id_brings_replicate_s():
    world = World.of(training(1, training_id=None))

    world.take(started("t1", ref=UUID(int=1)))
    world.take(ready("t1"))

    assert world.trainings[UUID(int=1)].training_id == "t1"
    assert world.models["ada"].model == model_of("t1")


def test_an_id_is_known_to_later_events_of_its_batch():
    world = World.of(training(1, training_id=None))

    assert world.take(started("t1", ref=UUID(int=1)), ready("t1")) == [None, None]
    assert world.stage(1) is Stage.ACTIVE


@pytest.mark.parametrize("in_one_batch", [True, False])
def test_our_own_id_belongs_to_the_first_training_that_brings_it(in_one_batch):
    world = World.of(training(1, training_id=None))
    events = [started("t1", ref=UUID(int=1)), ready("stranger", ref=UUID(int=1))]

    batches = [events] if in_one_batch else [[event] for event in events]
    results = [result for batch in batches for result in world.take(*batch)]

    assert results[0] is None
    assert isinstance(results[1], UnknownTraining)
    assert world.stage(1) is Stage.RUNNING


def test_replicate_s_id_counts_more_than_ours():
    world = World.of(training(1), training(2, training_id=None))

    world.take(ready("t1", ref=UUID(int=2)))

    assert [world.stage(1), world.stage(2)] == [Stage.ACTIVE, Stage.REQUESTED]


def test_a_training_marked_not_started_counts_when_it_runs():
    world = World.of(training(1, training_id=None, stage=Stage.FAILED))

    world.take(started("t1", ref=UUID(int=1)))
    running = world.stage(1)
    world.take(ready("t1"))

    assert [running, world.stage(1)] == [Stage.RUNNING, Stage.ACTIVE]


def test_the_address_that_was_called_attaches_no_training():
    world = World.of(training(1, training_id=None))
    event = TrainingSucceeded(training_id="t9", called_ref=UUID(int=1), output={"version": str(model_of("t9"))})

    (result,) = world.take(envelope(event))

    assert isinstance(result, UnconfirmedRef)
    assert (result.code, result.max_attempts) == ("ref_unconfirmed", UnknownTraining.max_attempts)
    assert world.trainings == World.of(training(1, training_id=None)).trainings


def test_a_training_that_is_known_needs_no_address():
    world = World.of(training(1), training(2, training_id=None))

    world.take(envelope(TrainingStarted(training_id="t1", called_ref=UUID(int=2))))

    assert [world.stage(1), world.stage(2)] == [Stage.RUNNING, Stage.REQUESTED]


# What is kept of what Replicate said


def test_of_what_replicate_said_twice_the_first_is_kept():
    events = [succeeded("t1", output="first", completed_at=NOON), succeeded("t1", output="second")]

    (change,) = fold(events, Loaded([training(1)], {}), now=NOON).trainings

    assert (change.output, change.completed_at) == ('"first"', NOON)


def test_an_output_is_kept_even_where_its_model_was_ready_before():
    (change,) = fold([ready("t1"), succeeded("t1", output=["a"])], Loaded([training(1)], {}), now=NOON).trainings

    assert (change.stage, change.output) == (Stage.ACTIVE, '["a"]')


def test_a_time_without_a_zone_is_taken_for_utc():
    (change,) = fold(
        [succeeded("t1", completed_at=NOON.replace(tzinfo=None))], Loaded([training(1)], {}), now=NOON
    ).trainings

    assert change.completed_at == NOON


def test_what_follows_carries_the_trace_and_names_its_cause():
    cause = replace(ready("t1"), trace={"traceparent": "00-1-2-01"})

    (outgoing,) = fold([cause], Loaded([training(1)], {}), now=NOON).outbox

    assert outgoing.envelope.causation_id == cause.id
    assert outgoing.envelope.trace == cause.trace
    assert outgoing.envelope.event == ModelActivated(
        training_id="t1",
        user_id="ada",
        generation=1,
        ref=UUID(int=1),
        model=ModelRef(*DESTINATION, model_of("t1").version),
        trigger_word="TOK",
    )


def settled(world: World, *events: Envelope) -> list[tuple[str, Effect, str, int | None]]:
    """What operators are told when *events* are applied as one batch: the replay, effect, stage and model."""
    changes = fold(events, Loaded(world.trainings.values(), world.models, applied=world.inbox), now=NOON)
    told = [outgoing.envelope.event for outgoing in changes.outbox]
    return [(each.replay, each.effect, each.stage, each.generation) for each in told if isinstance(each, ReplaySettled)]


@pytest.mark.parametrize(
    ("before", "event", "expected"),
    [
        ([], ready("t1"), (Effect.SWAPPED, "active", 1)),
        ([not_verified("t1")], ready("t1"), (Effect.SWAPPED, "active", 1)),
        ([ready("t1")], ready("t1"), (Effect.NOTHING, "active", 1)),
        ([ready("t2")], ready("t1"), (Effect.SUPERSEDED, "superseded", 2)),
        ([ready("t2"), ready("t1")], ready("t1"), (Effect.NOTHING, "superseded", 2)),
        ([failed("t1")], ready("t1"), (Effect.NOTHING, "failed", None)),
        ([], failed("t1"), (Effect.MOVED, "failed", None)),
        ([ready("t2")], canceled("t1"), (Effect.MOVED, "canceled", 2)),
    ],
)
def test_a_replayed_letter_says_what_it_came_to(before, event, expected):
    world = World.of(training(1), training(2))
    for earlier in before:
        world.take(earlier)

    assert settled(world, replayed(event)) == [("a-replay:1", *expected)]


def test_a_replay_duplicates_itself_and_not_the_original():
    world = World.of(training(1))
    world.take(ready("t1"))
    again = replayed(ready("t1"))

    assert len(settled(world, again, again)) == 1
    assert len(settled(world, again, replayed(ready("t1"), "another:1"))) == 2


def test_what_a_replay_swaps_says_so_and_carries_its_mark():
    changes = fold([replayed(ready("t1"))], Loaded([training(1)], {}), now=NOON)

    activated, told = (outgoing.envelope for outgoing in changes.outbox)
    assert isinstance(activated.event, ModelActivated)
    assert activated.event.cause is Cause.REPLAY
    assert [swap.cause for swap in changes.swaps] == [Cause.REPLAY]
    assert {activated.replay, told.replay} == {"a-replay:1"}


def test_a_replay_that_fails_here_publishes_no_outcome():
    world = World.of(training(1))

    assert settled(world, replayed(ready("t1", model=model_of("t1", ModelName("acme", "bob"))))) == []


def test_what_settled_a_replay_is_told_with_its_kind_and_error():
    changes = fold([replayed(not_verified("t1"))], Loaded([training(1)], {}), now=NOON)

    (told,) = (outgoing.envelope.event for outgoing in changes.outbox)
    assert isinstance(told, ReplaySettled)
    assert (told.event, told.error, told.effect) == ("extraction.failed.v1", "short_version", Effect.MOVED)
