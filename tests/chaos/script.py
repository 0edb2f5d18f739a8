"""What is to become of each training of a chaos run, by a seed: the simulator plays it, the oracle holds us to it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from random import Random
from typing import Any, Final

from pydantic import JsonValue

from services.simulator.faults import FaultOrder, WebhookEvent
from services.simulator.job import Status
from services.simulator.knobs import Knobs
from services.simulator.requests import TrainingRequest
from services.simulator.training import Training
from services.simulator.world import Kept, World

_TRAININGS_OF_A_USER: Final = 5
#: Of 100 trainings so many are canceled by the product, if it comes in time.
_CANCELED_PERCENT: Final = 3
#: The name of a request's input that says which case it is.
CASE: Final = "case"


class Ending(StrEnum):
    """What must become of a training that Replicate lets succeed."""

    GOOD = "good"  #: Its model is proven good.
    BAD = "bad"  #: No usable model is found: a dead letter.
    EITHER = "either"  #: The model is found, if nothing else can have made it.


#: Outputs that name the model, as trainers were seen to write them.
_GOOD_OUTPUTS: Final[Sequence[Any]] = (
    "$destination:$version",
    "$version",
    ["$destination:$version"],
    {"version": "$version", "weights": "$weights"},
    {"version": {"id": "$version"}},
    {"model": "$destination", "version": "$version"},
    {"version": "https://replicate.com/$destination/versions/$version"},
)
#: Outputs that name none, several, or somebody else's; the last ones are of another user, who exists.
_BAD_OUTPUTS: Final[Sequence[Any]] = (
    [],
    {},
    {"weights": "$weights"},
    {"version": 7},
    {"version": f"$destination:{'0' * 63}g"},
    {"version": "$destination:$version", "model_version": f"$destination:{'0' * 64}"},
    {"version": "somebody-else/model:$version"},
    {"version": "acme/user-0:$version"},
    {"model": "acme/user-0", "version": "$version"},
)
_WEBHOOK_FAULTS: Final[Sequence[Mapping[str, Any]]] = (
    {"duplicate": 1},
    {"duplicate": 3},
    {"reorder": True},
    {"reorder": True, "duplicate": 2},
    {"late_seconds": 120},
    {"late_logs_seconds": 60},
    {"drop": [WebhookEvent.COMPLETED]},
    {"drop": list(WebhookEvent)},
    {"drop": [WebhookEvent.START], "late_seconds": 60},
    {"bad_signature": True},
    {"old_timestamp_seconds": 3600},
)


@dataclass(frozen=True)
class Case:
    """One training of the script."""

    number: int
    user: str
    ending: Ending
    #: What goes wrong with it at Replicate.
    faults: Mapping[str, Any]
    #: Does the product ask Replicate to cancel it?
    is_canceled: bool = False
    destination: str = field(default="")


def script(seed: int, trainings: int) -> list[Case]:
    """As many cases, in the order of their requests; those of a user lie anywhere among the others."""
    dice = Random(f"{seed}:script")
    users = [f"user-{number % max(1, trainings // _TRAININGS_OF_A_USER)}" for number in range(trainings)]
    dice.shuffle(users)
    return [_case(number, user, dice) for number, user in enumerate(users)]


def _case(number: int, user: str, dice: Random) -> Case:
    ending, faults = dice.choices(_KINDS, _WEIGHTS)[0](dice)
    destination = f"acme/{user}"
    if ending is Ending.EITHER:
        # Apart from the user's other trainings, whose versions could be meant as well.
        destination += f"-{number}"
    elif user == "user-0" and "acme/user-0" in str(faults.get("output")):
        faults["output"] = {}
    if dice.random() < 0.3:
        faults |= dice.choice(_WEBHOOK_FAULTS)
    faults["duration_seconds"] = dice.uniform(60, 500)
    is_canceled = dice.random() * 100 < _CANCELED_PERCENT
    return Case(number, user, ending, faults, is_canceled, destination)


_Drawn = tuple[Ending, dict[str, Any]]


def _plain(_: Random) -> _Drawn:
    return Ending.GOOD, {}


def _shaped(dice: Random) -> _Drawn:
    return Ending.GOOD, {"output": dice.choice(_GOOD_OUTPUTS)}


def _late(dice: Random) -> _Drawn:
    """The version is not there yet when it is first asked for."""
    return Ending.GOOD, dice.choice(({"version_late_calls": dice.randint(1, 3)}, {"version_late_seconds": 60}))


def _nothing_said(dice: Random) -> _Drawn:
    """Only Replicate's list of versions may tell; or Replicate has removed what it knew."""
    return Ending.EITHER, dice.choice(({"output": None}, {"data_removed": True}))


def _misshapen(dice: Random) -> _Drawn:
    return Ending.BAD, {"output": dice.choice(_BAD_OUTPUTS)}


def _unusable(dice: Random) -> _Drawn:
    """Somebody else's version, one without a prompt, or one that was deleted."""
    return Ending.BAD, dice.choice(({"foreign_version": True}, {"no_prompt": True}, {"version_late_seconds": 10**9}))


def _ended(dice: Random) -> _Drawn:
    # The ending is never reached.
    return Ending.GOOD, {"outcome": dice.choice((Status.FAILED, Status.FAILED, Status.CANCELED, Status.ABORTED))}


_KINDS: Final = (_plain, _shaped, _late, _nothing_said, _misshapen, _unusable, _ended)
_WEIGHTS: Final = (40, 15, 10, 5, 8, 7, 15)


class ScriptedWorld(World):
    """A Replicate that does with each training what its case says, however often and in whatever order it is asked."""

    def __init__(
        self, knobs: Knobs, cases: Sequence[Case], *, changed: Callable[[Kept], object] = lambda _: None
    ) -> None:
        super().__init__(knobs, changed=changed)
        self.cases = cases
        #: How often each case was started.
        self.started: Counter[int] = Counter()

    def create_training(
        self, request: TrainingRequest, *, trainer: str, version: str, api_url: str, now: datetime
    ) -> Training | None:
        case = self._case(request.input[CASE])
        self.started[case.number] += 1
        self.orders.add(FaultOrder.model_validate({**case.faults, "destination": request.destination}))
        return super().create_training(request, trainer=trainer, version=version, api_url=api_url, now=now)

    def case_of(self, training: Training) -> Case:
        return self._case(training.input[CASE])

    def _case(self, number: JsonValue) -> Case:
        assert isinstance(number, int)
        return self.cases[number]
