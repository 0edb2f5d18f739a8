"""The tree of commands, put together from the folders."""

from __future__ import annotations

import os
import sys
from codecs import register_error
from collections.abc import Sequence
from io import TextIOWrapper
from pathlib import Path
from typing import Annotated

import typer

from services.cli.backtest.commands import dead_letters_try, trainings_re_extract
from services.cli.docs.commands import docs
from services.cli.events.commands import events, extract, listen, progress, trigger
from services.cli.local.commands import config, console, db, demo, doctor, serve, topology, up
from services.cli.mistyped import explain_mistake, tree_of
from services.cli.operators.commands import audit, reconcile, subscriptions
from services.cli.operators.letter_commands import dead_letters
from services.cli.operators.replay_commands import replays
from services.cli.problem import exit_code, explain
from services.cli.product.commands import models, trainings
from services.cli.webhooks.commands import webhooks
from shared.contract.errors import ModelswapError

app = typer.Typer(
    help="Find the model of a finished Replicate training, verify it, swap it in. Begin with `modelswap demo`.",
    no_args_is_help=True,
    # `mistyped` suggests the whole line to type.
    suggest_commands=False,
    # Plain help takes half the time of a coloured one.
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _print_version(*, wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version  # noqa: PLC0415 (no other command needs it)

        print(f"modelswap {version('modelswap')}")
        raise typer.Exit


@app.callback()
def options(
    *,
    version: Annotated[  # noqa: ARG001 (its callback has acted on it)
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """Options of the command itself."""
    import logging  # noqa: PLC0415 (help needs none)

    # Without a handler, Python prints the libraries' log records to standard error; they raise the same as errors.
    logging.getLogger().addHandler(logging.NullHandler())


for command in (demo, up, serve, doctor, console, audit, listen, trigger, extract, progress):
    app.command()(command)
trainings.command("re-extract")(trainings_re_extract)
dead_letters.command("try")(dead_letters_try)
for group in (events, trainings, models, dead_letters, replays, reconcile, webhooks, subscriptions):
    app.add_typer(group)
for group in (config, db, topology, docs):
    app.add_typer(group)


def _escape(error: UnicodeError) -> tuple[str, int]:
    """Write characters that an encoding does not have as JSON does."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    import json  # noqa: PLC0415 (hardly ever needed)

    return json.dumps(error.object[error.start : error.end])[1:-1], error.end


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command in *arguments* (default: as typed); print a known error as one line and what to try next."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        # Python sets those to None that were closed before it began.
        if getattr(sys, name) is None:
            setattr(sys, name, Path(os.devnull).open(mode))  # noqa: SIM115 (it stays open)
    if isinstance(sys.stdout, TextIOWrapper):
        # Not every terminal has every character, and what a command has done it must say.
        register_error("escape", _escape)
        sys.stdout.reconfigure(errors="escape")
    code = _run(arguments)
    try:
        sys.stdout.flush()
    except OSError as error:
        # A closed pipe or a full disk: Python must not try again at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if not code and not isinstance(error, BrokenPipeError):
            sys.stderr.write(
                f"modelswap: standard output: {error.strerror}\nNext: make room, and the same command again\n"
            )
        return code or 1
    return code


def _run(arguments: Sequence[str] | None) -> int:
    try:
        return tree_of(app)(arguments, prog_name="modelswap", standalone_mode=False) or 0
    except typer.TyperException as error:
        typed = sys.argv[1:] if arguments is None else arguments
        sys.stderr.write(explain_mistake(error, app, typed))
        return error.exit_code
    except typer.Abort:
        sys.stderr.write("modelswap: aborted\n")
        return 1
    except ModelswapError as error:
        sys.stderr.write(explain(error))
        return exit_code(error)
    except UnicodeError as error:
        # In the arguments, or in a file that they name.
        sys.stderr.write(f"modelswap: not text in UTF-8: {error}\nNext: the same command with --help\n")
        return 1
    except OSError as error:
        # Such as a full disk, or a file that cannot be read.
        sys.stderr.write(f"modelswap: {error}\nNext: correct that, and the same command again\n")
        return 1
