"""Answers of Replicate's API that are no training, prediction or version. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Generic, TypeVar
from urllib.parse import parse_qs

from pydantic import BaseModel, ConfigDict, Field, JsonValue, ValidationError

from shared.replicate.training import Training

_Item = TypeVar("_Item")
_Kind = TypeVar("_Kind", bound=BaseModel)


@dataclass(frozen=True, slots=True)
class TrainingsPage:
    """One page of trainings, newest first, with the cursor of the next page."""

    trainings: tuple[Training, ...]
    next_cursor: str | None


class _Answer(BaseModel):
    model_config = ConfigDict(hide_input_in_errors=True)


class Page(_Answer, Generic[_Item]):
    """One page of a list."""

    results: list[_Item]
    next: str | None = None

    @property
    def next_cursor(self) -> str | None:
        # The URL itself is not followed, only its cursor is used: the token must not go to another host.
        _, _, query = (self.next or "").partition("?")
        return parse_qs(query).get("cursor", [None])[0]


class Secret(_Answer):
    """The signing secret of the account's webhooks."""

    key: str = Field(min_length=1)


class Account(_Answer):
    """The token's account."""

    username: str = Field(min_length=1)


def valid(items: Sequence[JsonValue], kind: type[_Kind]) -> Iterator[_Kind]:
    """Yield the *items* that are of this *kind*."""
    for item in items:
        with suppress(ValidationError):
            yield kind.model_validate(item)
