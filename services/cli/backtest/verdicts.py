"""Compare the model that today's parser finds in a past output with the training's model. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum

from pydantic import JsonValue

from services.extractor.errors import NeedsLookup, NoModel
from services.extractor.outputs import find_model
from shared.contract.identity import ModelName, ModelRef


class Verdict(StrEnum):
    """The parser's result today, compared with the training's model."""

    FOUND = "now found"  #: There was no model; now there would be one.
    FAILS = "still fails"  #: There was no model, and there is none.
    SAME = "same"  #: The training's own model.
    DIFFERENT = "different"  #: Another model than the training's.
    LOST = "now fails"  #: The training has a model that would not be found today.
    ASKS = "asks Replicate"  #: The output has only a part of the version; Replicate's list of versions has the rest.


@dataclass(frozen=True, slots=True, kw_only=True)
class Past:
    """The output of a training, and the model it has."""

    training_id: str
    user_id: str | None
    output: JsonValue = None
    destination: ModelName | None = None
    trainer: str | None = None
    trainer_version: str | None = None
    #: Its model, if one was verified.
    model: ModelRef | None = None
    #: The number of the dead letter that holds the output; None: state holds it.
    letter: int | None = None

    @property
    def name(self) -> str:
        """The id for a next command: the dead letter's number, or the training's id."""
        return self.training_id if self.letter is None else str(self.letter)


@dataclass(frozen=True, slots=True)
class Judged:
    """The parser's result today."""

    past: Past
    verdict: Verdict
    model: ModelRef | None
    #: The shape of output that names the model, or the error.
    code: str
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Group:
    """Results with the same verdict and code."""

    verdict: Verdict
    code: str
    count: int
    example: str


def judge(past: Past) -> Judged:
    """Run the parser on the output of *past*; does not check whether the model works."""
    try:
        found = find_model(
            past.output, destination=past.destination, trainer=past.trainer, trainer_version=past.trainer_version
        )
    except NeedsLookup as error:
        return Judged(past, Verdict.ASKS, None, error.code, str(error))
    except NoModel as error:
        verdict = Verdict.FAILS if past.model is None else Verdict.LOST
        return Judged(past, verdict, None, error.code, str(error))
    verdict = Verdict.SAME if found.model == past.model else Verdict.DIFFERENT
    return Judged(past, Verdict.FOUND if past.model is None else verdict, found.model, found.shape)


def grouped(judged: Iterable[Judged]) -> list[Group]:
    """Count the results by verdict and code, the most frequent first."""
    groups: dict[tuple[Verdict, str], list[str]] = {}
    for each in judged:
        groups.setdefault((each.verdict, each.code), []).append(each.past.name)
    found = [Group(verdict, code, len(names), names[0]) for (verdict, code), names in groups.items()]
    return sorted(found, key=lambda group: (-group.count, group.verdict, group.code))
