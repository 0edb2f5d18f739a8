"""
Pages of a list, newest items first. Pure.

A cursor names the item beside its page, so a page stays the same while newer items are added.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable, Sequence
from typing import Final, Generic, NamedTuple, TypeVar

_SIZE: Final = 100

_T = TypeVar("_T")


class Page(NamedTuple, Generic[_T]):
    """One page of items, with the cursors of the previous and next page; None if there is none."""

    items: Sequence[_T]
    previous: str | None
    next: str | None


def page(items: Sequence[_T], cursor: str | None, *, key: Callable[[_T], str]) -> Page[_T] | None:
    """Return the page of *items* at *cursor* (None: the first), or None if there is none; *key* identifies an item."""
    span = (0, _SIZE) if cursor is None else _span([key(item) for item in items], cursor)
    if span is None:
        return None
    begin, end = span
    previous = _encode("before", key(items[begin])) if begin > 0 else None
    following = _encode("after", key(items[end - 1])) if end < len(items) else None
    return Page(items[begin:end], previous, following)


def _span(keys: Sequence[str], cursor: str) -> tuple[int, int] | None:
    side, _, neighbour = _decode(cursor).partition(":")
    place = keys.index(neighbour) if neighbour in keys else None
    match side, place:
        case "after", int(place) if place + 1 < len(keys):
            return place + 1, place + 1 + _SIZE
        case "before", int(place) if place > 0:
            return max(place - _SIZE, 0), place
    return None


def _encode(side: str, neighbour: str) -> str:
    return base64.urlsafe_b64encode(f"{side}:{neighbour}".encode()).decode()


def _decode(cursor: str) -> str:
    try:
        return base64.urlsafe_b64decode(cursor).decode()
    except (binascii.Error, UnicodeDecodeError, ValueError):
        return ""
