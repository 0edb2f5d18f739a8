"""Standard output and standard error: text for people, JSON for programs; piped, without colour and uncut."""

from __future__ import annotations

import json
import sys
from typing import Any, Final

from pydantic import BaseModel
from rich.console import Console

#: Wider than any line, so that nothing is folded for a program that reads it.
_PIPED_WIDTH: Final = 10_000


def console(*, stderr: bool = False) -> Console:
    """Standard output (or *stderr*), as wide as a terminal is and with its colours; plain where it is none."""
    stream = sys.stderr if stderr else sys.stdout
    width = None if stream.isatty() else _PIPED_WIDTH
    return Console(stderr=stderr, highlight=False, markup=False, emoji=False, width=width)


def printable(text: str) -> str:
    """*text* without what would steer a terminal: some of it was written by strangers."""
    return "".join(character if character.isprintable() else "\N{REPLACEMENT CHARACTER}" for character in text)


def tell(text: str) -> None:
    """On standard error: the answer goes to standard output."""
    sys.stderr.write("\n".join(map(printable, text.splitlines())) + "\n")
    sys.stderr.flush()


def to_json(value: Any, *, indent: int | None = None) -> str:
    r"""Return *value* as JSON that people can read and that steers no terminal: what is not printable as ``\uXXXX``."""
    text = json.dumps(value, indent=indent, ensure_ascii=False, default=_plain)
    return "".join(each if each.isprintable() or each == "\n" else json.dumps(each)[1:-1] for each in text)


def print_json(value: Any) -> None:
    sys.stdout.write(to_json(value, indent=2) + "\n")


def print_json_line(value: Any) -> None:
    """One line, out at once: somebody may wait for it."""
    sys.stdout.write(to_json(value) + "\n")
    sys.stdout.flush()


def _plain(value: object) -> object:
    # A field that an API left out of its answer is left out here as well, not shown with its default.
    return value.model_dump(mode="json", exclude_unset=True) if isinstance(value, BaseModel) else str(value)
