"""Text and JSON that can be stored, logged and shown. Pure."""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:  # errors are imported by commands that must begin quickly
    from pydantic import JsonValue

Json = TypeVar("Json", bound="JsonValue")


def clean(text: str, limit: int = 4096) -> str:
    """Make *text* storable in Postgres and logs: no NUL, no lone surrogate, at most *limit* characters."""
    return text[:limit].replace("\x00", "").encode("utf-8", "replace").decode()


def without_controls(text: str, *, but: str = "") -> str:
    """Replace the control characters of untrusted *text*, which a terminal would obey, *but* these."""
    return "".join(each if each.isprintable() or each in but else "\N{REPLACEMENT CHARACTER}" for each in text)


def plural(count: int, noun: str, nouns: str = "") -> str:
    """Return a number with what is counted; *nouns* is the plural, where it is not with an s."""
    return f"{count:,} {noun if count == 1 else nouns or noun + 's'}"


def printable(text: str) -> str:
    """
    Return *text* if all of it is printable.

    Raises:
        ValueError: if a character is not printable.

    """
    if not text.isprintable():
        raise ValueError("must consist of printable characters")
    return text


def is_storable(value: JsonValue) -> bool:
    """Return whether Postgres can store this JSON: no NUL, no lone surrogate, no NaN or infinity."""
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


def storable(value: Json) -> Json:
    """
    Return *value* if Postgres can store it.

    Raises:
        ValueError: if it cannot.

    """
    try:
        is_good = is_storable(value)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error
    if not is_good:
        raise ValueError("it holds a NUL, half a surrogate pair, NaN or infinity")
    return value


def read_json(text: str | bytes) -> JsonValue:
    """
    Return the JSON in *text*, as typed by a person.

    Raises:
        ValueError: if it is none, or cannot be sent and stored.

    """
    try:
        value: JsonValue = json.loads(text)
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"it is no JSON: {error}") from error
    except ValueError as error:
        raise ValueError("it holds a number of too many digits") from error
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error
    return storable(value)


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
