"""Confirmation before a command writes: a question at a terminal; without a terminal, ``--yes`` is required."""

from __future__ import annotations

import sys

import typer

from services.cli.output import printable, tell
from services.cli.problem import Problem


def confirm(what: str, question: str, *, then: str, nothing: str = "nothing was changed") -> None:
    """Show *what* would change, ask *question* and return after a yes; a no is a problem: *nothing*, and *then*."""
    if not sys.stdin.isatty():
        first, *_ = what.splitlines()
        raise Problem(f"there is no terminal to ask at: {printable(first)}", then="the same command with --yes")
    tell(what)
    if not typer.confirm(question, err=True):
        raise Problem(nothing, then=then)
