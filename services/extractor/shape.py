"""
Which shape has an output? Pure: its names and types, never its values, in a few words that are the same for all alike.

Operators read it, and dead letters are grouped by it. So it is short, sorted, and holds nothing that is one user's or
secret: a list is described by the kinds of things in it, not by how many they are, and a name that may be an id is
a ``*``.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import islice
from typing import Final

from pydantic import JsonValue

_MOST_PATHS: Final = 8
#: So much of an output is looked at.
_MOST_VALUES: Final = 2000
_DEPTH: Final = 3
#: Words, such as a programmer gives. Anything else may be an id, a file's name or an address.
_NAME: Final = re.compile(r"[A-Za-z]+(?:[_-][A-Za-z]+){0,5}")
_NAME_LENGTH: Final = 32


def shape_of(output: JsonValue) -> str:
    """Such as ``an object with artifact (text), files[].url (text)``."""
    match output:
        case dict() if output:
            return f"an object with {_members(output)}"
        case list() if output:
            return f"a list of {_members(output)}"
    return _kind(output)


def _members(value: JsonValue) -> str:
    paths = sorted(set(islice(_leaves(value, "", _DEPTH), _MOST_VALUES)))
    more = ", and more" if len(paths) > _MOST_PATHS else ""
    return ", ".join(paths[:_MOST_PATHS]) + more


def _leaves(value: JsonValue, path: str, depth: int) -> Iterator[str]:
    """Where something stands that holds nothing more, and what kind of thing."""
    match value:
        case dict() if value and depth:
            for name, member in value.items():
                shown = name if len(name) <= _NAME_LENGTH and _NAME.fullmatch(name) else "*"
                yield from _leaves(member, f"{path}.{shown}" if path else shown, depth - 1)
        case list() if value and depth:
            for element in value:
                yield from _leaves(element, f"{path}[]" if path else "", depth - 1)
        case _:
            yield f"{path} ({_kind(value)})" if path else _kind(value)


def _kind(value: JsonValue) -> str:
    match value:
        case None:
            return "null"
        case bool():
            return "true or false"
        case str():
            return "text" if value.strip() else "empty text"
        case int() | float():
            return "a number"
        case list():
            return "a list" if value else "an empty list"
    return "an object" if value else "an empty object"
