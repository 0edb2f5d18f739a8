"""Options and arguments that several commands take, declared once; groups of commands, and how a command runs."""

from __future__ import annotations

import functools
import inspect
import re
import shlex
from collections.abc import Callable, Coroutine, Mapping
from datetime import datetime
from typing import Annotated, Final, TypeVar, get_args
from urllib.parse import urlsplit

import typer

from services.cli.choices import Format
from services.cli.problem import Problem
from shared.contract.typed_time import typed_time
from shared.runtime.clock import now

T = TypeVar("T")

Output = Annotated[
    Format, typer.Option("--output", "-o", help="wide: every column, however narrow the terminal. json: for programs.")
]
Limit = Annotated[int, typer.Option("--limit", min=1, help="At most this many.")]
EventTypes = Annotated[
    list[str] | None,
    typer.Option("--type", "--types", help="Only these, e.g. model.activated; may be given several times."),
]
User = Annotated[str, typer.Argument(help="The product's own id of a user.")]
Begin = Annotated[str, typer.Option("--since", metavar="TIME", help="From then on: how long ago (24h, 7d) or when.")]
Yes = Annotated[bool, typer.Option("--yes", help="Do not ask, for scripts.")]
AuditReason = Annotated[str, typer.Option("--reason", help="Why. It is kept in the audit.")]
HistoryReason = Annotated[str, typer.Option("--reason", help="Why. It is kept in the history.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Only show what would change.")]
WatchReplay = Annotated[bool, typer.Option("--watch", help="Wait for the end. Exit code 1 if a dead letter failed.")]

LetterStatus = Annotated[str | None, typer.Option("--status", help="open, replaying, resolved or dropped.")]


def _whole_group(given: str | None) -> str | None:
    """Refuse what can be no group: a beginning of one would select nothing, as if nothing were open."""
    if given is not None and not re.fullmatch("[0-9a-f]{16}", given):
        raise typer.BadParameter(f"{given!r} is no group: it has 16 digits, as dead-letters groups shows them")
    return given


def _filter(
    name: str, text: str, metavar: str | None = None, check: Callable[[str | None], str | None] | None = None
) -> object:
    return Annotated[str | None, typer.Option(name, metavar=metavar, help=text, callback=check)]


#: The options that select dead letters, by their names in the operators' API.
LETTER_FILTERS: Final[dict[str, object]] = {
    "status": LetterStatus,
    "fingerprint": _filter("--group", "Of this group only.", "FINGERPRINT", _whole_group),
    "queue": _filter("--queue", "Where it failed."),
    "error_code": _filter("--error-code", "E.g. unknown_training."),
    "error_class": _filter("--error-class", "E.g. PermanentError."),
    "event_type": _filter("--event-type", "E.g. model.ready.v1."),
    "training_id": _filter("--training", "Replicate's id."),
    "user_id": _filter("--user", "The user, where it is known."),
    "since": _filter("--since", "Failed since: 2h, 7d …", "TIME"),
    "until": _filter("--until", "Failed before then.", "TIME"),
    "text": _filter("--text", "Words in the error's text."),
}


def selects_letters(*, by_status: bool) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """
    Replace a command's parameter *chosen* by the options of `LETTER_FILTERS`; *chosen* holds those that were given.

    Without *by_status* for commands that decide themselves which status a dead letter must have.
    """
    filters = {name: option for name, option in LETTER_FILTERS.items() if by_status or name != "status"}
    options = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=option)
        for name, option in filters.items()
    ]

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        own = inspect.signature(command, eval_str=True).parameters.values()
        parameters = [each for one in own for each in (options if one.name == "chosen" else [one])]

        @functools.wraps(command)
        def run(**given: object) -> None:
            chosen = {name: text for name in filters if (text := given.pop(name)) is not None}
            command(**given, chosen=chosen)

        # Typer reads a command's parameters from its signature and annotations.
        run.__dict__["__signature__"] = inspect.Signature(parameters)
        run.__annotations__ = {each.name: each.annotation for each in parameters}
        return run

    return decorate


def typed(chosen: Mapping[str, str]) -> str:
    """Return the options that select dead letters, as they were typed."""
    # In an annotation, typer takes an option's name for its default.
    options = {name: get_args(option)[1].default for name, option in LETTER_FILTERS.items()}
    return shlex.join(part for name, text in chosen.items() for part in (options[name], text))


def names(text: str) -> list[str]:
    """Return the names in *text*, which commas separate."""
    return [name for part in text.split(",") if (name := part.strip())]


def group(name: str, text: str) -> typer.Typer:
    return typer.Typer(name=name, help=text, no_args_is_help=True)


def timestamp(since: str) -> str:
    """Return the time in *since*, as typed (``2h``), in ISO 8601."""
    return read_timestamp(since, now=now()).isoformat()


def read_timestamp(text: str, *, now: datetime) -> datetime:
    """Return the time in *text*: an age (``2h``) or a timestamp (``2026-11-24 12:00``, UTC if it has no offset)."""
    found = typed_time(text, now)
    if found is None:
        raise Problem(f"{text!r} is not a time", then="give one like 30m, 2h, 7d or 2026-11-24T12:00Z")
    return found


def check_address(url: str, *, then: str) -> None:
    """Refuse a *url* that nothing can be posted to."""
    try:
        parts = urlsplit(url)
        # An impossible port is noticed when it is read.
        is_one = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        is_one = False
    if not is_one:
        raise Problem(f"{url!r} is not an address to post to", then=then)


def run_async(work: Coroutine[object, object, T]) -> T:
    """Run *work* to its end: typer does not await an async command."""
    import asyncio

    return asyncio.run(work)


def run_until_stopped(work: Coroutine[object, object, T]) -> T | None:
    """Run *work* until its end or Ctrl-C, which is no error."""
    try:
        return run_async(work)
    except KeyboardInterrupt:
        return None
