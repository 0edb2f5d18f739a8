"""What operators read about replays: facts, dead letters, and the list of all replays."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from services.cli.choices import Format
from services.cli.table import Column, print_one
from services.ops.replays.plan import Outcome, Status
from services.ops.replays.views import ReplayedLetterView, ReplayView

REPLAYS: Final[Sequence[Column[ReplayView]]] = (
    Column("replay", lambda each: each.id),
    Column("status", lambda each: f"{each.status}, {each.undo.status}" if each.undo else each.status, 1),
    Column("dead letters", lambda each: each.letters, 2),
    Column("ended", lambda each: each.ended, 4),
    Column("failed", lambda each: each.outcomes.get(Outcome.FAILED, 0), 3),
    Column("by", lambda each: each.actor, 7),
    Column("reason", lambda each: each.reason, 5, is_prose=True),
    Column("created", lambda each: each.created_at, 6),
)


def _is_prediction(letter: ReplayedLetterView) -> bool:
    return letter.outcome is Outcome.PLANNED and letter.predicted is not None


def _outcome(letter: ReplayedLetterView) -> str:
    return f"would be {letter.predicted}" if _is_prediction(letter) else letter.outcome


def _detail(letter: ReplayedLetterView) -> str:
    detail = letter.predicted_detail if _is_prediction(letter) else letter.detail
    return f"{detail} (edited)" if letter.edited else detail


LETTERS: Final[Sequence[Column[ReplayedLetterView]]] = (
    Column("dead letter", lambda each: each.letter),
    Column("user", lambda each: each.user_id, 3),
    Column("outcome", _outcome, 1),
    Column("detail", _detail, 2, is_prose=True),
    Column("undo", lambda each: f"{each.undo}: {each.undo_detail}" if each.undo else "", 4, is_prose=True),
)


def print_replay(found: ReplayView, output: Format) -> None:
    print_one(_facts(found), output, data=found)


def held_up_by(found: ReplayView) -> str:
    return "; ".join([*([found.trouble] if found.trouble else []), *found.waiting_for])


def is_underway(found: ReplayView) -> bool:
    """Return whether it changes by itself."""
    is_undoing = found.undo is not None and found.undo.status == "undoing"
    return is_undoing or found.status in (Status.PREVIEWING, Status.RUNNING)


def _facts(found: ReplayView) -> list[tuple[str, object]]:
    facts: list[tuple[str, object]] = [
        ("replay", found.id),
        ("status", f"{found.status}: {found.status_reason}" if found.status_reason else found.status),
        *([("held up by", found.trouble)] if found.trouble else []),
        *(("waits for", reason) for reason in found.waiting_for),
        ("reason", found.reason),
        ("by", found.actor),
        ("dead letters", found.letters),
        ("ended", found.ended),
        ("outcomes", counted(found.outcomes)),
        ("steps end after", ", ".join(map(str, found.steps))),
        ("rate per second", f"{found.rate_per_second:g}"),
        ("stops above", f"{found.stop_when_failed_share * 100:g}% failed"),
        ("arrived since", found.arrived),
        ("created", found.created_at),
        ("started", found.started_at),
        ("ended at", found.ended_at),
    ]
    if found.predictions:
        facts.append(("predictions", counted(found.predictions)))
    if found.note:
        facts.append(("note", found.note))
    if (undo := found.undo) is not None:
        users = f"{undo.reverted} users reverted, {undo.kept} kept, {undo.waiting} to look at"
        facts.append(("undo", f"{undo.status} by {undo.actor}: {users} ({undo.reason})"))
    if (then := _next(found)) is not None:
        facts.append(("next", then))
    return facts


def _next(found: ReplayView) -> str | None:
    """Return the next command, where there is something to decide or to wait for."""
    name = short_id(found)
    if is_underway(found):
        watch = f"modelswap replays show {name} --watch"
        return f"{watch}, or replays pause {name}" if found.outcomes.get(Outcome.SENT) else watch
    if found.status is Status.PREVIEWED:
        return f"modelswap replays start {name} --watch, or replays cancel {name}"
    if found.status in (Status.PAUSED, Status.STOPPED):
        return f"modelswap replays resume {name}, or replays cancel {name}"
    if found.outcomes.get(Outcome.FAILED):
        return f"modelswap replays show {name} --outcome failed"
    return None


def counted(counts: Mapping[Outcome, int]) -> str:
    return ", ".join(f"{count} {outcome}" for outcome, count in counts.items())


def short_id(found: ReplayView) -> str:
    """Return enough of the id to find the replay by."""
    return str(found.id)[:8]
