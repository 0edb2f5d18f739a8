"""Commands on dead letters."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import typer

from services.cli.choices import Format
from services.cli.options import (
    AuditReason,
    LetterStatus,
    Limit,
    Output,
    WatchReplay,
    Yes,
    group,
    run_async,
    selects_letters,
)

# Click breaks no line after \b.
dead_letters = group(
    "dead-letters",
    """
    Messages that failed and were set aside.

    An incident, from beginning to end:

    \b
    modelswap dead-letters groups --status open
      what failed, by likely cause
    modelswap dead-letters show 17
      one of them whole
    modelswap dead-letters try --since 24h
      what a fixed parser on this machine would make of them
    modelswap dead-letters replay --group 3f9a0c51d2e47b68 --reason "parser fixed" --dry-run
      what a replay would do to each, once the fixed parser is deployed
    modelswap replays start 5f0e --watch
      replay exactly those, in steps; also: replays pause, resume, cancel
    modelswap replays undo 5f0e --reason "they are all blurred"
      roll back the models that the replay has set
    modelswap dead-letters edit 17 --reason "version was cut off"
      correct one by hand, and replay it
    modelswap dead-letters drop 18 --reason "of the load test"
      not to be repaired; dead-letters restore opens it again
    modelswap audit
      who did what, and why
    """,
)

Numbers = Annotated[
    list[int] | None, typer.Argument(min=1, help="Their numbers; or select them with the options below.")
]
Number = Annotated[int, typer.Argument(min=1, help="Its number.")]


@dead_letters.command("list")
@selects_letters(by_status=True)
def dead_letters_list(*, chosen: Mapping[str, str], limit: Limit = 20, output: Output = Format.TABLE) -> None:
    """
    List dead letters, newest first.

    Example: modelswap dead-letters list --status open --since 2h

    Example: modelswap dead-letters list --group 3f9a0c51d2e47b68 --limit 100 -o json
    """
    from services.cli.operators.dead_letters import list_letters

    run_async(list_letters(chosen, limit=limit, output=output))


@dead_letters.command("groups")
def dead_letters_groups(status: LetterStatus = None, limit: Limit = 50, output: Output = Format.TABLE) -> None:
    """
    List dead letters by their most likely causes.

    The newest kind of failure first. The counts of the last hour, day and week show whether it goes on. With a status:
    groups that have a dead letter with it.

    Example: modelswap dead-letters groups --status open
    """
    from services.cli.operators.dead_letters import list_groups

    run_async(list_groups(status, limit=limit, output=output))


@dead_letters.command("show")
def dead_letters_show(number: Number, output: Output = Format.TABLE) -> None:
    """
    Show one dead letter whole: its headers, its body, its error.

    Example: modelswap dead-letters show 17
    """
    from services.cli.operators.dead_letters import show_letter

    run_async(show_letter(number, output))


@dead_letters.command("drop")
@selects_letters(by_status=False)
def dead_letters_drop(
    *,
    numbers: Numbers = None,
    reason: AuditReason,
    chosen: Mapping[str, str],
    yes: Yes = False,
    output: Output = Format.TABLE,
) -> None:
    """
    Mark open dead letters as not to be repaired.

    They are kept for a while, and can be restored until then. Asks before it drops more than one.

    Example: modelswap dead-letters drop 17 18 --reason "trainings of the load test"

    Example: modelswap dead-letters drop --group 3f9a0c51d2e47b68 --until 1d --reason "trainings of the load test"
    """
    from services.cli.operators.dead_letters import change

    run_async(change("drop", numbers or (), chosen, reason=reason, yes=yes, output=output))


@dead_letters.command("restore")
@selects_letters(by_status=False)
def dead_letters_restore(
    *,
    numbers: Numbers = None,
    reason: AuditReason,
    chosen: Mapping[str, str],
    yes: Yes = False,
    output: Output = Format.TABLE,
) -> None:
    """
    Open dropped dead letters again.

    Asks before it opens more than one.

    Example: modelswap dead-letters restore --group 3f9a0c51d2e47b68 --reason "they were real"
    """
    from services.cli.operators.dead_letters import change

    run_async(change("restore", numbers or (), chosen, reason=reason, yes=yes, output=output))


@dead_letters.command("export")
@selects_letters(by_status=True)
def dead_letters_export(
    *,
    chosen: Mapping[str, str],
    limit: Annotated[int | None, typer.Option(min=1, help="At most this many. Default: all.")] = None,
) -> None:
    """
    Print dead letters whole, one JSON line each, newest first.

    The body is base64, byte for byte.

    Example: modelswap dead-letters export --group 3f9a0c51d2e47b68 > letters.jsonl
    """
    from services.cli.operators.dead_letters import export

    run_async(export(chosen, limit=limit))


@dead_letters.command("replay")
@selects_letters(by_status=False)
def dead_letters_replay(
    *,
    numbers: Numbers = None,
    reason: AuditReason,
    chosen: Mapping[str, str],
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Send nothing; wait for the prediction for every dead letter.")
    ] = False,
    rate: Annotated[float | None, typer.Option(min=0.001, max=1000, help="How many a second. Default: 10.")] = None,
    steps: Annotated[
        str | None, typer.Option(help="How many at a time: numbers, shares, the rest. Default: 1,5%,rest.")
    ] = None,
    stop_share: Annotated[
        float | None, typer.Option(min=0, max=1, help="Stop when more than this share fails. Default: 0.2.")
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", help="No dry run first and no question, for scripts.")] = False,
    watch: WatchReplay = False,
    output: Output = Format.TABLE,
) -> None:
    """
    Send dead letters back to the queues where they failed.

    The selection is frozen at once: what fails later is not part of it. Without --yes, a dry run comes first, and
    exactly its dead letters are replayed. A step begins when every dead letter of the step before has its outcome. An
    old dead letter never undoes a newer swap.

    Example: modelswap dead-letters replay 17 18 --reason "parser fixed in 1.4.2"

    Example: modelswap dead-letters replay --group 3f9a0c51d2e47b68 --reason "parser fixed" --dry-run

    Example: modelswap dead-letters replay --group 3f9a0c51d2e47b68 --reason "fixed" --rate 5 --steps 1,10,rest --watch

    Example: modelswap dead-letters replay --user user-42 --since 2h --reason "asked by support" --yes
    """
    from services.cli.operators.replays import replay, request

    body = request(numbers or (), chosen, reason=reason, rate=rate, steps=steps, stop_share=stop_share)
    if not run_async(replay(body, dry_run=dry_run, yes=yes, watch=watch, output=output)) and watch:
        raise typer.Exit(1)


@dead_letters.command("edit")
def dead_letters_edit(
    number: Number,
    reason: AuditReason,
    body: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="The new body, as JSON; - reads standard input. Default: your editor."),
    ] = None,
    output: Output = Format.TABLE,
) -> None:
    """
    Replay one dead letter with another body.

    The dead letter itself is kept as it is. Ids cannot be edited, and the body must be one of the same event type.

    Example: modelswap dead-letters edit 17 --reason "version was cut off"

    Example: modelswap dead-letters edit 17 --reason "version was cut off" --body fixed.json
    """
    from services.cli.operators.edit import edit

    run_async(edit(number, text=None if body is None else _read(body), reason=reason, output=output))


def _read(file: Path) -> bytes:
    """Return the content of *file*; ``-`` is standard input, which typer's own check of paths refuses."""
    if str(file) == "-":
        return sys.stdin.buffer.read()
    try:
        return file.read_bytes()
    except OSError as error:
        raise typer.BadParameter(f"{file}: {error.strerror}", param_hint="--body") from error
