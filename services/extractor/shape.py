"""
Describes the shape of an output: its field names and types, never its values. Pure.

Operators read it, and dead letters are grouped by it. So it is short, sorted, equal for equal shapes, and contains no
user data: a list is described by the types of its elements, not their number, and a name that may be an id becomes
``*``.
"""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Iterator
from itertools import islice
from typing import Final

from pydantic import JsonValue

_MOST_PATHS: Final = 8
#: At most this many values of an output are read.
_MOST_VALUES: Final = 2000
_DEPTH: Final = 3
#: Names made of words. Any other name may be an id, a file name or a URL.
_NAME: Final = re.compile(r"[A-Za-z]+(?:[_-][A-Za-z]+){0,5}")
_NAME_LENGTH: Final = 32


def shape_of(output: JsonValue) -> str:
    """Describe *output*, such as ``an object with artifact (text), files[].url (text)``."""
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
    """Yield the path and type of each leaf."""
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


def elements(value: JsonValue) -> list[JsonValue]:
    """Return the elements of a list, or the value itself."""
    return value if isinstance(value, list) else [value]


def decoded_json(value: JsonValue) -> list[JsonValue]:
    """Decode JSON inside a string, one level deep; return any other value as it is."""
    if isinstance(value, str) and value.lstrip()[:1] in ("{", "[", '"'):
        with contextlib.suppress(ValueError, RecursionError):
            return elements(json.loads(value, object_pairs_hook=_object))
    return [value]


def _object(members: list[tuple[str, JsonValue]]) -> dict[str, JsonValue]:
    """Refuse duplicate names: JSON does not define which value counts."""
    names = dict(members)
    if len(names) != len(members):
        raise ValueError("a name that comes twice")
    return names


def shape_with_json(output: JsonValue) -> str:
    """Return the shape of *output*, also of JSON inside a string."""
    decoded = decoded_json(output)
    if decoded == [output]:
        return shape_of(output)
    return f"JSON in text, {shape_of(decoded[0] if len(decoded) == 1 else decoded)}"
