"""What would today's parser make of a past output, and what would that change? Pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum

from pydantic import JsonValue

from services.extractor.outputs import NeedsLookup, NoModel, find_model
from shared.contract.identity import ModelName, ModelRef


class Verdict(StrEnum):
    """What today's parser says beside what was known."""

    FOUND = "now found"  #: There was no model; now there would be one.
    FAILS = "still fails"  #: There was no model, and there is none.
    SAME = "same"  #: The model that it has.
    DIFFERENT = "different"  #: Another model than the one it has.
    LOST = "now fails"  #: It has a model that would not be found today.
    ASKS = "asks Replicate"  #: The output says a part of the version; Replicate's list has the rest.


@dataclass(frozen=True, slots=True)
class Past:
    """What came out of a training once."""

    training_id: str
    user_id: str | None
    output: JsonValue
    destination: ModelName | None
    trainer: str | None
    trainer_version: str | None
    #: The model it has, if one was proven.
    model: ModelRef | None = None
    #: The number of the dead letter that has the output; None: state has it.
    letter: int | None = None

    @property
    def name(self) -> str:
        """What a next command needs: the letter's number, or the training's id."""
        return self.training_id if self.letter is None else str(self.letter)


@dataclass(frozen=True, slots=True)
class Judged:
    """What today's parser makes of it."""

    past: Past
    verdict: Verdict
    model: ModelRef | None
    #: Which shape of output named the model, or why none was found.
    code: str
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Group:
    """Those of which the same is to be said."""

    verdict: Verdict
    code: str
    count: int
    example: str


def judge(past: Past) -> Judged:
    """Read the output of *past* with today's parser. Whether the model works is not asked."""
    try:
        found = find_model(
            past.output, destination=past.destination, trainer=past.trainer, trainer_version=past.trainer_version
        )
    except NeedsLookup as error:
        return Judged(past, Verdict.ASKS, None, error.code, str(error))
    except NoModel as error:
        verdict = Verdict.FAILS if past.model is None else Verdict.LOST
        return Judged(past, verdict, None, error.code, str(error))
    return Judged(past, _compared(found.model, past.model), found.model, found.shape)


def _compared(today: ModelRef, then: ModelRef | None) -> Verdict:
    if then is None:
        return Verdict.FOUND
    return Verdict.SAME if today == then else Verdict.DIFFERENT


def grouped(judged: Iterable[Judged]) -> list[Group]:
    """How many of each kind, the most frequent first."""
    groups: dict[tuple[Verdict, str], list[str]] = {}
    for each in judged:
        groups.setdefault((each.verdict, each.code), []).append(each.past.name)
    found = [Group(verdict, code, len(names), names[0]) for (verdict, code), names in groups.items()]
    return sorted(found, key=lambda group: (-group.count, group.verdict, group.code))
