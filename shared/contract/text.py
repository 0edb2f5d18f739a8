"""Which text and which JSON can be stored, logged and shown? Pure."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # errors are imported by commands that must begin quickly
    from pydantic import JsonValue


def clean(text: str, limit: int = 4096) -> str:
    """*text* as Postgres and a log line can hold it: no NUL, no lone surrogate, at most *limit* characters."""
    return text[:limit].replace("\x00", "").encode("utf-8", "replace").decode()


def printable(text: str) -> str:
    """
    Let *text* pass if people can read all of it.

    Raises:
        ValueError: if something in it is not printable.

    """
    if not text.isprintable():
        raise ValueError("must consist of printable characters")
    return text


def is_storable(value: JsonValue) -> bool:
    """Can Postgres store this JSON? It can not where a string holds a NUL or a lone surrogate, or a number is NaN."""
    match value:
        case str():
            return "\x00" not in value and _is_unicode(value)
        case float():
            return math.isfinite(value)
        case list():
            return all(map(is_storable, value))
        case dict():
            return all(is_storable(name) and is_storable(part) for name, part in value.items())
    return True


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
