"""What stage is a training in after a fact?"""

import itertools

import pytest

from services.ops.letters.letter import LetterTraining, why_closed
from services.state import transitions
from services.state.transitions import Fact, Stage, accepts_model, next_stage

#: How strong the fact is that a stage stands for.
STRENGTH = {
    Stage.REQUESTED: 0,
    Stage.RUNNING: 1,
    Stage.VERIFYING: 2,
    Stage.FAILED: 3,
    Stage.CANCELED: 3,
    Stage.UNVERIFIED: 3,
    Stage.SUPERSEDED: 4,
    Stage.ACTIVE: 4,
    Stage.REPLACED: 5,
}
#: What somebody asks for may move a training back, and `APPEARED` is about our own mistake: each has its own rule.
BACK = (Fact.APPEARED, Fact.EXTRACTION_RETRIED, Fact.CHOSEN)
#: Facts that Replicate or the extractor tell.
TOLD = [fact for fact in Fact if fact not in BACK]


def moved_by(fact: Fact) -> dict[Stage, Stage]:
    """Where a fact leads, from each stage that it moves."""
    return {stage: after for stage in Stage if (after := next_stage(stage, fact))}


@pytest.mark.parametrize(("stage", "fact"), list(itertools.product(Stage, TOLD)))
def test_no_fact_moves_a_training_back(stage, fact):
    after = next_stage(stage, fact)

    assert after is None or STRENGTH[after] > STRENGTH[stage] or after is stage is Stage.UNVERIFIED


@pytest.mark.parametrize("stage", [Stage.FAILED, Stage.CANCELED, Stage.SUPERSEDED, Stage.REPLACED])
def test_an_end_is_an_end_whatever_is_told_afterwards(stage):
    assert [None] * len(TOLD) == [next_stage(stage, fact) for fact in TOLD]


def test_an_active_training_moves_only_for_a_newer_model():
    moving = {fact: after for fact in Fact if (after := next_stage(Stage.ACTIVE, fact))}

    assert moving == {Fact.DISPLACED: Stage.REPLACED}


@pytest.mark.parametrize("verdict", [Fact.FAILED, Fact.CANCELED])
@pytest.mark.parametrize("stage", [Stage.VERIFYING, Stage.UNVERIFIED])
def test_what_succeeded_does_not_fail_afterwards(stage, verdict):
    assert next_stage(stage, verdict) is None


@pytest.mark.parametrize("stage", [Stage.REQUESTED, Stage.RUNNING, Stage.VERIFYING, Stage.UNVERIFIED])
def test_a_ready_model_counts_however_little_was_told_before(stage):
    assert accepts_model(stage)
    assert next_stage(stage, Fact.WON) == Stage.ACTIVE
    assert next_stage(stage, Fact.LOST) == Stage.SUPERSEDED


def test_a_not_started_training_is_requested_when_it_runs():
    assert moved_by(Fact.APPEARED) == {Stage.FAILED: Stage.REQUESTED}


def test_only_unverified_trainings_can_be_extracted_again():
    assert moved_by(Fact.EXTRACTION_RETRIED) == {Stage.VERIFYING: Stage.VERIFYING, Stage.UNVERIFIED: Stage.VERIFYING}


def test_only_a_verified_unused_model_can_be_chosen():
    assert moved_by(Fact.CHOSEN) == {Stage.REPLACED: Stage.ACTIVE, Stage.SUPERSEDED: Stage.ACTIVE}


@pytest.mark.parametrize("fact", Fact)
def test_every_fact_means_something_somewhere(fact):
    assert any(next_stage(stage, fact) for stage in Stage)


def test_every_stage_can_be_reached():
    reached = {next_stage(stage, fact) for stage in Stage for fact in Fact}

    assert set(Stage) <= reached


@pytest.mark.parametrize("stage", Stage)
def test_the_drawing_shows_every_stage(stage):
    assert transitions.__doc__ is not None
    assert stage in transitions.__doc__


@pytest.mark.parametrize("stage", Stage)
def test_letters_are_closed_once_no_event_counts(stage):
    ended = LetterTraining(user_id="ada", stage=stage, reference=f"acme/ada:{'5c' * 32}")

    assert (why_closed(ended) is None) == accepts_model(stage)


@pytest.mark.parametrize("fact", [fact for fact in Fact if fact is not Fact.STARTED])
def test_a_decision_may_have_missed_that_a_training_started(fact):
    """A report of progress moves it from requested to running without the lock of `store.write`."""
    assert next_stage(Stage.REQUESTED, fact) == next_stage(Stage.RUNNING, fact)
