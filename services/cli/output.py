"""Standard output and standard error: text for people, JSON for programs; piped, without colour and uncut."""

from __future__ import annotations

import json
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Final

import typer
from pydantic import BaseModel
from rich.console import Console

from services.cli.problem import Problem
from shared.contract.text import without_controls

#: Wider than any line, so that nothing is wrapped for a program.
_PIPED_WIDTH: Final = 10_000


def console(*, stderr: bool = False) -> Console:
    """Return a console on standard output (or *stderr*): with a terminal's width and colours, or plain if piped."""
    stream = sys.stderr if stderr else sys.stdout
    width = None if stream.isatty() else _PIPED_WIDTH
    return Console(stderr=stderr, highlight=False, markup=False, emoji=False, width=width)


def tell(text: str) -> None:
    """Print *text* to standard error; results go to standard output."""
    sys.stderr.write("\n".join(map(without_controls, text.splitlines())) + "\n")
    sys.stderr.flush()


def confirm(what: str, question: str, *, then: str, nothing: str = "nothing was changed") -> None:
    """
    Show *what* would change, ask *question*, and return after a yes.

    Raises:
        Problem: after a no: *nothing*, with *then* as advice; or without a terminal, where ``--yes`` is required.
        typer.Abort: after Ctrl-C.

    """
    if not sys.stdin.isatty():
        first, *_ = what.splitlines()
        raise Problem(f"there is no terminal to ask at: {without_controls(first)}", then="the same command with --yes")
    tell(what)
    # asyncio's own handler cancels the task at its next await, and the prompt would go on.
    with on_ctrl_c(signal.default_int_handler):
        is_sure = typer.confirm(question, err=True)
    if not is_sure:
        raise Problem(nothing, then=then)


@contextmanager
def on_ctrl_c(act: Callable[[int, FrameType | None], object]) -> Iterator[None]:
    before = signal.signal(signal.SIGINT, act)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def to_json(value: object, *, indent: int | None = None) -> str:
    r"""Return *value* as readable JSON; control characters are escaped as ``\uXXXX``."""
    return escaped(json.dumps(value, indent=indent, ensure_ascii=False, default=_plain))


def escaped(text: str) -> str:
    r"""Return JSON with the control characters in its texts as ``\uXXXX``."""
    return "".join(each if each.isprintable() or each == "\n" else json.dumps(each)[1:-1] for each in text)


def print_json(value: object) -> None:
    sys.stdout.write(to_json(value, indent=2) + "\n")


def print_json_line(value: object) -> None:
    """Print one line and flush it: a reader may wait for it."""
    sys.stdout.write(to_json(value) + "\n")
    sys.stdout.flush()


def _plain(value: object) -> object:
    # A field that the API left out is left out here too, not shown with its default.
    return value.model_dump(mode="json", exclude_unset=True) if isinstance(value, BaseModel) else str(value)
