"""Which commands look at what failed, and repair it?"""

# ruff: noqa: PLC0415 (each command imports what it needs when it runs, so that help is quick)

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import typer

from services.cli.choices import Format
from services.cli.operators.selection import LetterStatus, selects_letters
from services.cli.options import Limit, Output, group, run_async, run_until_stopped

# Click breaks no line after \b.
dead_letters = group(
    """
    What failed and was set aside.

    An incident, from its beginning to its end:

    \b
    modelswap dead-letters groups --status open
      what failed, by likely cause
    modelswap dead-letters show 17
      one of them whole
    modelswap dead-letters try --since 24h
      what a mended parser on this machine would make of them
    modelswap dead-letters replay --group 3f9a0c51d2e47b68 --reason "parser mended" --dry-run
      what a replay would do to each, once the mended parser is deployed
    modelswap replays start 5f0e --watch
      replay just those, in steps; also: replays pause, resume, cancel
    modelswap replays undo 5f0e --reason "they are all blurred"
      take back what that replay has set
    modelswap dead-letters edit 17 --reason "version was cut off"
      mend one by hand, and replay it
    modelswap dead-letters drop 18 --reason "of the load test"
      not to be repaired; dead-letters restore opens it again
    modelswap audit
      who did what, and why
    """
)
replays = group(
    """
    Replays of dead letters, and what became of each.

    \b
    From a replay to its undoing:
      modelswap replays list
      modelswap replays show 5f0e --outcome failed     what became of its letters
      modelswap replays pause 5f0e                     send no more for now
      modelswap replays resume 5f0e
      modelswap replays undo 5f0e --reason "they are blurred" --watch

    A replay is made with `dead-letters replay`. Of its id, the beginning is enough.
    """
)
reconcile = group("Trainings of which no webhook came.")

LetterNumbers = Annotated[
    list[int] | None, typer.Argument(help="Their numbers; or what they share:", show_default=False)
]
LetterNumber = Annotated[int, typer.Argument(help="Its number.", show_default=False)]
LetterReason = Annotated[str, typer.Option(help="Why. It is kept in the audit.", show_default=False)]
Yes = Annotated[bool, typer.Option("--yes", help="Do not ask, for scripts.")]

ReplayArgument = Annotated[str, typer.Argument(help="The replay's id, or its beginning.", show_default=False)]
ReplayReason = Annotated[str, typer.Option(help="Why. It is kept in the audit.", show_default=False)]


@dead_letters.command("list")
@selects_letters(by_status=True)
def dead_letters_list(
    *,
    chosen: Mapping[str, str],
    limit: Limit = 20,
    output: Output = Format.TABLE,
) -> None:
    """
    List dead letters, newest first.

    Example: modelswap dead-letters list --status open --since 2h

    Example: modelswap dead-letters list --group 3f9a0c51d2e47b68 --limit 100 -o json
    """
    from services.cli.operators.letters import list_letters, wanted

    run_async(list_letters(wanted(chosen), limit=limit, output=output))


@dead_letters.command("groups")
def dead_letters_groups(status: LetterStatus = None, limit: Limit = 50, output: Output = Format.TABLE) -> None:
    """
    List dead letters by their most likely causes.

    The newest kind of failure first. How many failed in the last hour, day and week says whether it goes on. With a
    status: groups that have a letter with it.

    Example: modelswap dead-letters groups --status open
    """
    from services.cli.operators.letters import list_groups

    run_async(list_groups(status, limit=limit, output=output))


@dead_letters.command("show")
def dead_letters_show(number: LetterNumber, output: Output = Format.TABLE) -> None:
    """
    Show one dead letter whole: its headers, its body, its error.

    Example: modelswap dead-letters show 17
    """
    from services.cli.operators.letters import show_letter

    run_async(show_letter(number, output))


@dead_letters.command("drop")
@selects_letters(by_status=False)
def dead_letters_drop(
    *,
    numbers: LetterNumbers = None,
    reason: LetterReason,
    chosen: Mapping[str, str],
    yes: Yes = False,
    output: Output = Format.TABLE,
) -> None:
    """
    Say that open letters are not to be repaired.

    They are kept for a while, and can be restored until then. Before more than one is dropped, it is said how many, and
    asked.

    Example: modelswap dead-letters drop 17 18 --reason "trainings of the load test"

    Example: modelswap dead-letters drop --group 3f9a0c51d2e47b68 --until 1d --reason "trainings of the load test"
    """
    from services.cli.operators.letters import change, wanted

    run_async(change("drop", numbers or (), wanted(chosen), reason=reason, yes=yes, output=output))


@dead_letters.command("restore")
@selects_letters(by_status=False)
def dead_letters_restore(
    *,
    numbers: LetterNumbers = None,
    reason: LetterReason,
    chosen: Mapping[str, str],
    yes: Yes = False,
    output: Output = Format.TABLE,
) -> None:
    """
    Open dropped letters again.

    Before more than one is, it is said how many, and asked.

    Example: modelswap dead-letters restore --group 3f9a0c51d2e47b68 --reason "they were real"
    """
    from services.cli.operators.letters import change, wanted

    run_async(change("restore", numbers or (), wanted(chosen), reason=reason, yes=yes, output=output))


@dead_letters.command("export")
@selects_letters(by_status=True)
def dead_letters_export(
    *,
    chosen: Mapping[str, str],
    limit: Annotated[
        int | None, typer.Option(min=1, help="At most this many. Default: all.", show_default=False)
    ] = None,
) -> None:
    """
    Print dead letters whole, one JSON line each, newest first.

    The body is base64: byte for byte, whatever it is.

    Example: modelswap dead-letters export --group 3f9a0c51d2e47b68 > letters.jsonl
    """
    from services.cli.operators.letters import export, wanted

    run_async(export(wanted(chosen), limit=limit))


@dead_letters.command("replay")
@selects_letters(by_status=False)
def dead_letters_replay(
    *,
    numbers: LetterNumbers = None,
    reason: LetterReason,
    chosen: Mapping[str, str],
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only say of each letter what would happen; wait for all of it.")
    ] = False,
    rate: Annotated[
        float | None,
        typer.Option(min=0.001, max=1000, help="How many a second. Default: 10.", show_default=False),
    ] = None,
    steps: Annotated[
        str | None,
        typer.Option(help="How many at a time: numbers, shares, the rest. Default: 1,5%,rest.", show_default=False),
    ] = None,
    stop_share: Annotated[
        float | None,
        typer.Option(min=0, max=1, help="Stop when more than this share fails. Default: 0.2.", show_default=False),
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Do not look first and do not ask, for scripts.")] = False,
    watch: Annotated[bool, typer.Option("--watch", help="Wait for the end. Exit code 1 if a letter failed.")] = False,
    output: Output = Format.TABLE,
) -> None:
    """
    Send dead letters back to where they came from.

    Which letters is settled at once: what fails meanwhile is not among them. Unless told --yes, a dry run looks first,
    and just what it looked at is replayed. A step begins when every letter of the one before has its outcome. An old
    letter never undoes a newer swap.

    Example: modelswap dead-letters replay 17 18 --reason "parser mended in 1.4.2"

    Example: modelswap dead-letters replay --group 3f9a0c51d2e47b68 --reason "parser mended" --dry-run

    Example: modelswap dead-letters replay --group 3f9a0c51d2e47b68 --reason "mended" --rate 5 --steps 1,10,rest --watch

    Example: modelswap dead-letters replay --user user-42 --since 2h --reason "asked by support" --yes
    """
    from services.cli.operators.letters import wanted
    from services.cli.operators.replays import Plan, replay

    plan = Plan(numbers or (), wanted(chosen), reason, rate, steps, stop_share)
    if not run_until_stopped(replay(plan, dry_run=dry_run, yes=yes, watch=watch, output=output)) and watch:
        raise typer.Exit(1)


@dead_letters.command("edit")
def dead_letters_edit(
    number: LetterNumber,
    reason: LetterReason,
    body: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="The new body, as JSON; - reads it. Default: your editor.", show_default=False
        ),
    ] = None,
    output: Output = Format.TABLE,
) -> None:
    """
    Replay one letter with another body.

    The letter itself is kept as it is. Ids can not be edited, and it must still say the same kind of thing.

    Example: modelswap dead-letters edit 17 --reason "version was cut off"

    Example: modelswap dead-letters edit 17 --reason "version was cut off" --body mended.json
    """
    from services.cli.operators.replays import edit

    run_async(edit(number, text=None if body is None else _read(body), reason=reason, output=output))


def _read(file: Path) -> bytes:
    """What is in *file*; ``-`` is standard input, which typer's own check of files does not let pass as a path."""
    if str(file) == "-":
        return sys.stdin.buffer.read()
    try:
        return file.read_bytes()
    except OSError as error:
        raise typer.BadParameter(f"{file}: {error.strerror}", param_hint="--body") from error


@replays.command("list")
def replays_list(limit: Limit = 20, output: Output = Format.TABLE) -> None:
    """List replays, newest first."""
    from services.cli.operators.replays import list_replays

    run_async(list_replays(limit=limit, output=output))


@replays.command("show")
def replays_show(
    *,
    replay: ReplayArgument,
    outcome: Annotated[
        str | None,
        typer.Option(
            help="Only letters with this outcome: planned, waiting, sent, swapped, superseded, moved, nothing, failed, "
            "canceled or skipped.",
            show_default=False,
        ),
    ] = None,
    limit: Limit = 50,
    watch: Annotated[bool, typer.Option("--watch", help="Wait until nothing changes by itself any more.")] = False,
    output: Output = Format.TABLE,
) -> None:
    """
    Show a replay and what became of its letters.

    Example: modelswap replays show 5f0e --outcome failed
    """
    from services.cli.operators.replays import show

    run_until_stopped(show(replay, outcome=outcome, limit=limit, watch=watch, output=output))


@replays.command("start")
def replays_start(
    *,
    replay: ReplayArgument,
    reason: ReplayReason = "",
    watch: Annotated[bool, typer.Option("--watch", help="Wait for the end. Exit code 1 if a letter failed.")] = False,
    output: Output = Format.TABLE,
) -> None:
    """
    Replay just the letters that a dry run looked at.

    Example: modelswap replays start 5f0e --watch
    """
    from services.cli.operators.replays import steer

    if not run_until_stopped(steer(replay, "start", reason=reason, watch=watch, output=output)) and watch:
        raise typer.Exit(1)


@replays.command("pause")
def replays_pause(replay: ReplayArgument, reason: ReplayReason = "", output: Output = Format.TABLE) -> None:
    """
    Send no more for now; outcomes of what went come all the same.

    Example: modelswap replays pause 5f0e --reason "the extractor is slow"
    """
    from services.cli.operators.replays import steer

    run_async(steer(replay, "pause", reason=reason, output=output))


@replays.command("resume")
def replays_resume(replay: ReplayArgument, reason: ReplayReason = "", output: Output = Format.TABLE) -> None:
    """
    Go on, also after it stopped by itself.

    What has failed so far does not stop it any more.

    Example: modelswap replays resume 5f0e --reason "those few are known"
    """
    from services.cli.operators.replays import steer

    run_async(steer(replay, "resume", reason=reason, output=output))


@replays.command("cancel")
def replays_cancel(
    *, replay: ReplayArgument, reason: ReplayReason = "", yes: Yes = False, output: Output = Format.TABLE
) -> None:
    """
    Send no more at all; letters that did not go are open again.

    For more than one it is asked first; `replays pause` asks nothing, and stops it at once.
    Those that went still get their outcome. Where that never comes (RabbitMQ lost its disk), cancel once more: they are
    given up, and open again, too.

    Example: modelswap replays cancel 5f0e --reason "the fix is none"
    """
    from services.cli.operators.replays import steer

    run_async(steer(replay, "cancel", reason=reason, yes=yes, output=output))


@replays.command("undo")
def replays_undo(
    *,
    replay: ReplayArgument,
    reason: LetterReason,
    watch: Annotated[bool, typer.Option("--watch", help="Wait until every user was looked at.")] = False,
    yes: Yes = False,
    output: Output = Format.TABLE,
) -> None:
    """
    Take back every model that a replay has set.

    Of just those users who use it still; of each other one `replays show` says why not. A user who had no model before
    has none afterwards. It is said how many it set, and asked.

    Example: modelswap replays undo 5f0e --reason "they are all blurred" --watch
    """
    from services.cli.operators.replays import steer

    run_until_stopped(steer(replay, "undo", reason=reason, watch=watch, yes=yes, output=output))


@reconcile.command("status")
def reconcile_status(limit: Limit = 20, output: Output = Format.TABLE) -> None:
    """
    Show whether Replicate's webhooks reach us.

    How many trainings were recovered because no webhook came, how the last round went, and what was overdue last. Exit
    code 1 if webhooks do not arrive.

    Example: modelswap reconcile status

    Example: modelswap reconcile status -o json | jq .recovered
    """
    from services.cli.operators.reconcile import show_status

    if not run_async(show_status(limit=limit, output=output)):
        raise typer.Exit(1)


def audit(
    actor: Annotated[str | None, typer.Option(help="Who: the name of a token.", show_default=False)] = None,
    action: Annotated[str | None, typer.Option(help="What, e.g. letter.dropped.", show_default=False)] = None,
    target: Annotated[str | None, typer.Option(help='Of what, e.g. "letter 17".', show_default=False)] = None,
    limit: Limit = 50,
    output: Output = Format.TABLE,
) -> None:
    """
    List who repaired what, and why.

    Example: modelswap audit --actor olga

    Example: modelswap audit --target "user user-42"
    """
    from services.cli.operators.letters import list_audit

    run_async(list_audit({"actor": actor, "action": action, "target": target}, limit=limit, output=output))
