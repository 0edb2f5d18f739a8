"""Which model does a rollback go back to where none is named? One row for each kind of past."""

from __future__ import annotations

from uuid import UUID

import pytest

from services.state.rollback import Line, model_before
from shared.contract.values import Cause
from tests.state import model_of

CAUSES = {"train": Cause.TRAINING, "replay": Cause.REPLAY, "back": Cause.ROLLBACK, "withdraw": Cause.WITHDRAWAL}

#: What happened to a user's model (a letter is a model), and which one a rollback offers.
PASTS = {
    "nothing": None,
    "train A": None,
    "train A, train B": "A",
    "train A, train B, train C": "B",
    "train A, replay B": "A",
    # taken back by a rollback, or by the undo of a replay, which is one
    "train A, train B, back A": None,
    "train A, train B, train C, back B": "A",
    "train A, replay B, back A, train C": "A",
    "train A, train B, back A, train C, train D": "C",
    # several in a row
    "train A, train B, train C, back B, back A": None,
    "train A, train B, train C, train D, back C, back B": "A",
    "train A, replay B, replay C, back B, back A, train D": "A",
    "train A, replay B, back A, replay C, back A, train D": "A",
    # chosen again, by name
    "train A, train B, back A, back B": None,
    "train A, train B, back A, back B, train C": "B",
    "train A, train B, back A, back B, back A, train C": "A",
    "train A, train B, train C, back A, back C": "B",
    # taken away
    "train A, withdraw": None,
    "train A, train B, withdraw": "A",
    "train A, withdraw, train B": None,
    "train A, withdraw, back A, train B": "A",
    "train A, train B, withdraw, back A": None,
    "train A, train B, withdraw, withdraw": "A",
    "train A, withdraw, train B, withdraw, train C": None,
    # made again by another training: what an operator took back stays so
    "train A, train B, back A, train B, train C": "A",
    "train A, train B, train A": "B",
}


@pytest.mark.parametrize(("past", "expected"), PASTS.items())
def test_the_newest_earlier_model_not_taken_back_is_offered(past, expected):
    assert model_before(history(past)) == (None if expected is None else ref(expected))


def test_of_two_trainings_with_one_model_the_newer_is_offered():
    older, newer, other = UUID(int=1), UUID(int=2), UUID(int=3)
    lines = [
        Line(Cause.TRAINING, older, model_of("A"), None),
        Line(Cause.TRAINING, newer, model_of("A"), model_of("A")),
        Line(Cause.TRAINING, other, model_of("B"), model_of("A")),
    ]

    assert model_before(lines) == newer


def history(past: str) -> list[Line]:
    lines: list[Line] = []
    previous = None
    for change in past.split(", ") if past != "nothing" else ():
        verb, _, name = change.partition(" ")
        model = model_of(name) if name else None
        lines.append(Line(CAUSES[verb], ref(name), model, previous))
        previous = model
    return lines


def ref(name: str) -> UUID:
    return UUID(int=sum(name.encode()))
