"""Commands on replays."""

from __future__ import annotations

from typing import Annotated

import typer

from services.cli.choices import Format
from services.cli.options import AuditReason, Limit, Output, WatchReplay, Yes, group, run_async, run_until_stopped

replays = group(
    "replays",
    """
    Replays of dead letters, and the outcome of each.

    \b
    From a replay to its undo:
      modelswap replays list
      modelswap replays show 5f0e --outcome failed     the dead letters that failed again
      modelswap replays pause 5f0e                     send no more for now
      modelswap replays resume 5f0e
      modelswap replays undo 5f0e --reason "they are blurred" --watch

    `dead-letters replay` starts one. The beginning of its id is enough to name it.
    """,
)

Replay = Annotated[str, typer.Argument(help="The replay's id, or its beginning.")]
#: Written out, because `--help` is quick: the enumeration needs pydantic.
_OUTCOMES = "planned, waiting, sent, swapped, superseded, moved, nothing, delivered, failed, canceled or skipped"


@replays.command("list")
def replays_list(limit: Limit = 20, output: Output = Format.TABLE) -> None:
    """List replays, newest first."""
    from services.cli.operators.replays import list_replays

    run_async(list_replays(limit=limit, output=output))


@replays.command("show")
def replays_show(
    *,
    replay: Replay,
    outcome: Annotated[str | None, typer.Option(help=f"Only dead letters with this outcome: {_OUTCOMES}.")] = None,
    limit: Limit = 50,
    watch: Annotated[bool, typer.Option("--watch", help="Wait until it no longer changes by itself.")] = False,
    output: Output = Format.TABLE,
) -> None:
    """
    Show a replay and the outcomes of its dead letters.

    Example: modelswap replays show 5f0e --outcome failed
    """
    from services.cli.operators.replays import show

    run_until_stopped(show(replay, outcome=outcome, limit=limit, watch=watch, output=output))


@replays.command("start")
def replays_start(
    *, replay: Replay, reason: AuditReason = "", watch: WatchReplay = False, output: Output = Format.TABLE
) -> None:
    """
    Replay exactly the dead letters of a dry run.

    Example: modelswap replays start 5f0e --watch
    """
    from services.cli.operators.replays import steer

    if not run_async(steer(replay, "start", reason=reason, watch=watch, output=output)) and watch:
        raise typer.Exit(1)


@replays.command("pause")
def replays_pause(replay: Replay, reason: AuditReason = "", output: Output = Format.TABLE) -> None:
    """
    Send no more for now.

    Outcomes of dead letters that were sent still arrive.

    Example: modelswap replays pause 5f0e --reason "the extractor is slow"
    """
    from services.cli.operators.replays import steer

    run_async(steer(replay, "pause", reason=reason, output=output))


@replays.command("resume")
def replays_resume(replay: Replay, reason: AuditReason = "", output: Output = Format.TABLE) -> None:
    """
    Go on, also after it stopped by itself.

    Failures so far no longer count towards the share at which it stops.

    Example: modelswap replays resume 5f0e --reason "those few are known"
    """
    from services.cli.operators.replays import steer

    run_async(steer(replay, "resume", reason=reason, output=output))


@replays.command("cancel")
def replays_cancel(
    *, replay: Replay, reason: AuditReason = "", yes: Yes = False, output: Output = Format.TABLE
) -> None:
    """
    Send no more, for good.

    Dead letters that were not sent are open again. Asks if it is more than one; `replays pause` does not ask, and stops
    it at once. Dead letters that were sent still get their outcome. If that never comes (RabbitMQ lost its disk),
    cancel again: they are given up, and open again.

    Example: modelswap replays cancel 5f0e --reason "the fix does not work"
    """
    from services.cli.operators.replays import steer

    run_async(steer(replay, "cancel", reason=reason, yes=yes, output=output))


@replays.command("undo")
def replays_undo(
    *,
    replay: Replay,
    reason: AuditReason,
    watch: Annotated[bool, typer.Option("--watch", help="Wait until every user is done.")] = False,
    yes: Yes = False,
    output: Output = Format.TABLE,
) -> None:
    """
    Roll back every model that a replay has set.

    Only for users who still use it; for each other user, `replays show` says why not. A user who had no model before
    has none afterwards. Says how many models the replay has set, and asks if it is more than one.

    Example: modelswap replays undo 5f0e --reason "they are all blurred" --watch
    """
    from services.cli.operators.replays import steer

    run_async(steer(replay, "undo", reason=reason, watch=watch, yes=yes, output=output))
