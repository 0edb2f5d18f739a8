"""The options of `modelswap trigger`. Pure, except the random id of a new training."""

from __future__ import annotations

import re
import secrets
from collections.abc import Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Final, TypeVar

from pydantic import JsonValue

from services.cli.choices import Trigger
from services.cli.problem import Problem
from shared.contract import identity
from shared.contract.identity import ModelName
from shared.contract.text import read_json

T = TypeVar("T")

VERSION: Final = re.compile(identity.VERSION)


@dataclass(frozen=True, slots=True, kw_only=True)
class TriggerRequest:
    """Which webhooks or public events to send, and how."""

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
    #: How many times each is sent.
    times: int
    #: Shuffles all that is sent; None: the order in which they happen.
    random: Random | None
    own_id: str = field(default_factory=lambda: f"trigger{secrets.token_hex(10)}")

    def __post_init__(self) -> None:
        """Refuse what makes no sense before a training is registered, or anything sent."""
        if self.version is not None and not VERSION.fullmatch(self.version):
            raise Problem(f"{self.version!r} is not a version", then="--version with 64 lower-case hexadecimal digits")
        self.read_output()

    def read_output(self) -> JsonValue:
        """Return the output that was typed as JSON; None if none was."""
        if self.output is None:
            return None
        try:
            return read_json(self.output)
        except ValueError as error:
            then = """--output '{"version": "owner/name:…"}'"""
            raise Problem(f"--output cannot be sent: {error}", then=then) from error

    def destination_name(self) -> ModelName | None:
        if self.destination is None:
            return None
        name = ModelName.parse(self.destination)
        if name is None:
            raise Problem(f"{self.destination!r} is not a model name", then="--destination owner/name, lower case")
        return name

    def arranged(self, things: Sequence[T]) -> list[T]:
        """Return *things* as many times, and in the order, in which they are sent."""
        arranged = [thing for thing in things for _ in range(self.times)]
        if self.random is not None:
            self.random.shuffle(arranged)
        return arranged
