"""What does every HTTP API of ours answer in? Pure: pages of things, and problems (RFC 9457)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Generic, TypeVar

from pydantic import BaseModel

Item = TypeVar("Item")


class Page(BaseModel, Generic[Item]):
    """Some of the items, newest first, and where the next ones are."""

    items: Sequence[Item]
    next_cursor: str | None


class Mistake(BaseModel):
    """What is wrong with one part of a request."""

    #: Which part: ``#/destination`` in the body, else like ``query.limit``.
    pointer: str
    detail: str


class Problem(BaseModel):
    """Why a request was not done."""

    type: str
    title: str
    status: int
    detail: str
    errors: Sequence[Mistake] = ()
