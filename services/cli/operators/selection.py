"""The options that select dead letters: declared once, for every command that takes them."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Annotated, Any, Final

import typer

Command = Callable[..., None]


def _option(name: str, text: str, metavar: str | None = None) -> Any:
    return Annotated[str | None, typer.Option(name, metavar=metavar, help=text, show_default=False)]


LetterStatus = Annotated[
    str | None, typer.Option("--status", help="open, replaying, resolved or dropped.", show_default=False)
]
#: By the names that the operators' API has for them.
OPTIONS: Final = {
    "status": LetterStatus,
    "fingerprint": _option("--group", "Of this group only.", "FINGERPRINT"),
    "queue": _option("--queue", "Where it failed."),
    "error_code": _option("--error-code", "E.g. unknown_training."),
    "error_class": _option("--error-class", "E.g. PermanentError."),
    "event_type": _option("--event-type", "E.g. model.ready.v1."),
    "training_id": _option("--training", "Replicate's id."),
    "user_id": _option("--user", "Once it is known whose it is."),
    "since": _option("--since", "Failed since: 2h, 7d …", "TIME"),
    "until": _option("--until", "Failed before then.", "TIME"),
    "text": _option("--text", "Words in the error's text."),
}


def selects_letters(*, by_status: bool) -> Callable[[Command], Command]:
    """
    Give a command these options in the place of its parameter *chosen*, which holds what was given of them.

    Without *by_status* for commands that decide themselves which status a letter must have.
    """
    names = [name for name in OPTIONS if by_status or name != "status"]
    options = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=OPTIONS[name])
        for name in names
    ]

    def decorate(command: Command) -> Command:
        own = inspect.signature(command, eval_str=True).parameters.values()
        parameters = [each for one in own for each in (options if one.name == "chosen" else [one])]

        @functools.wraps(command)
        def run(**given: Any) -> None:
            chosen = {name: text for name in names if (text := given.pop(name)) is not None}
            command(**given, chosen=chosen)

        # Typer reads what a command takes from its signature.
        typed: Any = run
        typed.__signature__ = inspect.Signature(parameters)
        typed.__annotations__ = {each.name: each.annotation for each in parameters}
        return run

    return decorate
