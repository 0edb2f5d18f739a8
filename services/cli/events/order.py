"""What `modelswap trigger` was asked for, as it was typed. Pure."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import dataclass, field
from random import Random
from typing import TypeVar

from services.cli.choices import Trigger
from services.cli.problem import Problem
from shared.contract.identity import ModelName

T = TypeVar("T")

_OWN_ID_BYTES = 10


def _own_id() -> str:
    return f"trigger{secrets.token_hex(_OWN_ID_BYTES)}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """Which webhooks, or which public events."""

    triggers: Sequence[Trigger]
    user_id: str | None
    #: None for a new training.
    training_id: str | None
    destination: str | None
    version: str | None
    #: The output of a success, as JSON.
    output: str | None
    percent: int
    error: str
    #: Of the first public event.
    generation: int
    #: How often each is sent.
    times: int
    #: In which order all are sent; None for the order in which they happen.
    dice: Random | None
    #: The id of a new training.
    own_id: str = field(default_factory=_own_id)

    def destination_name(self) -> ModelName | None:
        """
        The model to train; None if none is named.

        Raises:
            Problem: if it is no model's name.

        """
        if self.destination is None:
            return None
        name = ModelName.parse(self.destination)
        if name is None:
            raise Problem(f"{self.destination!r} is no model name", then="--destination owner/name, in lower case")
        return name

    def arranged(self, things: Sequence[T]) -> list[T]:
        """*things* as often, and in the order, in which they are to be sent."""
        all_of_them = [thing for thing in things for _ in range(self.times)]
        if self.dice is not None:
            self.dice.shuffle(all_of_them)
        return all_of_them
