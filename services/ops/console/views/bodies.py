"""The body of a dead letter for people: as a JSON tree, as text, and as bytes; bounded. Pure."""

from __future__ import annotations

import base64
import difflib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from typing import Final

from pydantic import JsonValue

from services.ops.letters.letter import editable, indented
from services.ops.letters.views import LetterView

#: How much of a body is asked for, and shown as text.
SHOWN_BYTES: Final = 64 * 1024
#: How much is shown as bytes.
_DUMPED_BYTES: Final = 2048
_LINE_BYTES: Final = 16
#: A larger tree slows the browser down, and is not read.
_MOST_NODES: Final = 2000
_MOST_DEPTH: Final = 40
_MOST_LINES: Final = 3000
_SPACE, _DELETE = 0x20, 0x7F


@dataclass(frozen=True, slots=True)
class DumpLine:
    """Sixteen bytes."""

    offset: str
    bytes: str
    text: str


class Letter(LetterView):
    """A dead letter with its body, or the beginning of it."""

    @cached_property
    def content(self) -> bytes:
        return base64.b64decode(self.body_base64)

    @property
    def is_cut(self) -> bool:
        """Whether only the beginning of the body is here."""
        return len(self.content) < self.body_bytes

    @cached_property
    def tree(self) -> JsonValue:
        """What a JSON object or list holds; None: it is neither, or too large to be shown as a tree."""
        if self.is_cut or self.body_text is None:
            return None
        parsed = parse(self.body_text)
        return parsed if isinstance(parsed, dict | list) and is_small(parsed) else None

    @cached_property
    def text(self) -> str | None:
        """The body as text, a tree with one field a line; None: it is no text."""
        if self.body_text is None or self.tree is None:
            return self.body_text
        return pretty(self.body_text)

    @property
    def dump(self) -> Sequence[DumpLine]:
        return _dump(self.content[:_DUMPED_BYTES])

    @property
    def undumped_bytes(self) -> int:
        """Bytes beyond those of the dump."""
        return self.body_bytes - len(self.content[:_DUMPED_BYTES])

    @property
    def editable(self) -> str | None:
        """What of it can be edited, as JSON; None: nothing."""
        return editable(self.queue, self.content_type, self.content)


def parse(text: str) -> JsonValue:
    """Return the JSON value in *text*; None if it is none, or nested too deeply."""
    try:
        parsed: JsonValue = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return parsed


def is_small(value: JsonValue) -> bool:
    """Return whether *value* can be shown as a tree; else it is shown as text."""
    level, nodes = [value], 1
    for _ in range(_MOST_DEPTH):
        level = [part for each in level for part in _parts(each)]
        nodes += len(level)
        if nodes > _MOST_NODES:
            return False
        if not level:
            return True
    return False


def _parts(value: JsonValue) -> Sequence[JsonValue]:
    match value:
        case dict():
            return list(value.values())
        case list():
            return value
    return ()


def _dump(content: bytes) -> list[DumpLine]:
    rows = (content[begin : begin + _LINE_BYTES] for begin in range(0, len(content), _LINE_BYTES))
    return [
        DumpLine(
            offset=f"{number * _LINE_BYTES:06x}",
            bytes=row.hex(" "),
            text="".join(chr(byte) if _SPACE <= byte < _DELETE else "·" for byte in row),
        )
        for number, row in enumerate(rows)
    ]


def pretty(text: str) -> str:
    """Return JSON *text* with one field a line; any other text as it is."""
    parsed = parse(text)
    if not isinstance(parsed, dict | list):
        return text
    try:
        return indented(parsed)
    except (ValueError, RecursionError):
        return text


@dataclass(frozen=True, slots=True)
class DiffLine:
    """A line of a difference; *kind* is added, removed, place or same."""

    kind: str
    text: str


def diff(before: str, after: str) -> list[DiffLine]:
    """Return how *after* differs from *before*, line by line of their JSON."""
    old, new = pretty(before).splitlines()[:_MOST_LINES], pretty(after).splitlines()[:_MOST_LINES]
    lines = islice(difflib.unified_diff(old, new, lineterm="", n=2), 2, _MOST_LINES)
    kinds = {"+": "added", "-": "removed", "@": "place"}
    return [DiffLine(kinds.get(line[:1], "same"), line) for line in lines]
