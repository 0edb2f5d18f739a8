"""The numbers of steps and epochs that a training's input requests. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from operator import itemgetter
from typing import Final

from pydantic import JsonValue

MOST_STEPS: Final = 2**31 - 1

_CAMEL: Final = re.compile(r"(?<=[a-z])(?=[A-Z])")
_OF_TRAINING: Final = r"(?:(?:max|num|n|number_of|total|train|training)_?){0,3}"
_STEPS: Final = re.compile(_OF_TRAINING + r"(?:steps|iterations|iters?|updates)")
_EPOCHS: Final = re.compile(_OF_TRAINING + r"epochs?")
_STEPS_PER_EPOCH: Final = re.compile(r"(?:steps|updates|iters|iterations)_per_epoch")


@dataclass(frozen=True, slots=True)
class Plan:
    """Requested length of a training; None where its input does not tell."""

    steps: int | None
    epochs: int | None
    #: Totals of bars that count the training's steps.
    totals: frozenset[int]
    steps_per_epoch: int | None

    @classmethod
    def of(cls, training_input: Mapping[str, JsonValue]) -> Plan:
        steps, epochs, steps_per_epoch = (
            _first_number(training_input, name) for name in (_STEPS, _EPOCHS, _STEPS_PER_EPOCH)
        )
        if steps is None and epochs and steps_per_epoch:
            steps = _whole_number(epochs * steps_per_epoch)
        totals = {steps, steps * (epochs or 1), steps_per_epoch or steps} if steps else ()
        return cls(steps, epochs, frozenset(totals), steps_per_epoch)

    def with_steps(self, steps: int | None) -> Plan:
        """Return the plan with the number of *steps* that the log announces."""
        return replace(self, steps=steps, totals=frozenset((steps,))) if steps else self


def configured_steps(training_input: Mapping[str, JsonValue]) -> int | None:
    """Return the number of steps that this input requests, or None."""
    return Plan.of(training_input).steps


def _first_number(training_input: Mapping[str, JsonValue], name: re.Pattern[str]) -> int | None:
    """Prefer ``steps``, then ``max_train_steps``, then ``num_steps``, which may be the steps of sampling."""
    names = ((_CAMEL.sub("_", key).lower(), value) for key, value in training_input.items())
    found = [(key != "steps", "train" not in key, value) for key, value in names if name.fullmatch(key)]
    return next(filter(None, (_whole_number(value) for *_, value in sorted(found, key=itemgetter(0, 1)))), None)


def _whole_number(value: JsonValue) -> int | None:
    """Parse a number of steps or epochs, also as text of a form. Zero and less mean that it is not set."""
    if isinstance(value, str) and re.fullmatch(r"[0-9]{1,10}", value):
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value <= MOST_STEPS:
        return None
    return int(value) if value == int(value) else None
