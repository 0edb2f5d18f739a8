"""What do commands have in common? The options of several, their groups, and how one is run."""

# ruff: noqa: PLC0415 (so that help is quick)

from __future__ import annotations

from collections.abc import Coroutine
from datetime import datetime
from typing import Annotated, Any, TypeVar

import typer

from services.cli.choices import Format

T = TypeVar("T")

Output = Annotated[
    Format, typer.Option("--output", "-o", help="wide: every column, however narrow the terminal. json: for programs.")
]
Limit = Annotated[int, typer.Option("--limit", min=1, help="At most this many.")]
User = Annotated[str, typer.Argument(help="The product's own id of a user.", show_default=False)]

Begin = Annotated[
    str,
    typer.Option("--since", metavar="TIME", help="From then on: how long ago (24h, 7d) or when.", show_default=False),
]


def group(text: str) -> typer.Typer:
    """A group of commands."""
    return typer.Typer(help=text, no_args_is_help=True)


def moment(since: str) -> datetime:
    """When is what somebody typed?"""
    from services.cli.timestamp import read_timestamp
    from shared.runtime.clock import now

    return read_timestamp(since, now=now())


def run_async(work: Coroutine[Any, Any, T]) -> T:
    """Do *work* to its end: typer does not await, so an async command would do nothing, and say nothing of it."""
    import asyncio

    return asyncio.run(work)


def run_until_stopped(work: Coroutine[Any, Any, T]) -> T | None:
    """Run what goes on until Ctrl-C, which is then no error."""
    try:
        return run_async(work)
    except KeyboardInterrupt:
        return None
