"""Confirmation before a command writes: a question at a terminal; without a terminal, ``--yes`` is required."""

from __future__ import annotations

import sys

import typer

from services.cli.output import printable, tell
from services.cli.problem import Problem


def confirm(what: str, question: str, *, then: str) -> None:
    """
    Show *what* would change and ask *question*; return if the answer is yes.

    Raises:
        Problem: if it is no, or there is no terminal. *then* is what to do after a no.

    """
    if not sys.stdin.isatty():
        raise Problem(f"nobody is there to be asked: {printable(what)}", then="the same command with --yes")
    tell(what)
    if not typer.confirm(question, err=True):
        raise Problem("nothing was changed", then=then)
