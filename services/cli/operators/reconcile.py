"""Does what Replicate tells reach us? Answers of the operators' API."""

from __future__ import annotations

from typing import Final

from services.cli.operators.replays import operators
from services.cli.output import console, print_json, print_table
from services.cli.words import Format
from services.ops.reconcile.views import Reconciliation

_BROKEN: Final = 'webhooks do not arrive: see "The public door is broken" in deploy/runbook.md'
_COLUMNS: Final = ("training", "user", "noticed", "looks", "asked for", "next look", "outcome", "trouble")


async def show_status(*, limit: int, output: Format) -> bool:
    """Show how many trainings were recovered and what is overdue; True if webhooks arrive."""
    async with operators() as api:
        shown = await api.reconciliation(limit=limit)
    if output is Format.JSON:
        print_json(shown.model_dump(mode="json"))
    else:
        print_table(("", "last hour", "last day"), _counts(shown), empty="")
        print()
        print_table(("", ""), _round(shown), empty="")
        print()
        rows = [
            (
                each.training_id or each.ref,
                each.user_id,
                each.noticed_at,
                each.looks,
                each.gets,
                None if each.outcome else each.look_at,
                each.outcome,
                None if each.outcome else each.trouble,
            )
            for each in shown.trainings
        ]
        print_table(_COLUMNS, rows, empty="no training was overdue")
        if shown.door_seems_broken:
            console().print(f"\n{_BROKEN}")
    return not shown.door_seems_broken


def _counts(shown: Reconciliation) -> list[tuple[object, ...]]:
    named = {
        "recovered": shown.recovered,
        "given up": shown.given_up,
        "never started": shown.never_started,
    }
    return [(name, counts.last_hour, counts.last_day) for name, counts in named.items()]


def _round(shown: Reconciliation) -> list[tuple[object, ...]]:
    last = shown.last_round
    return [
        ("last round", last.at),
        ("last that came to its end", last.last_success_at),
        ("overdue then", last.overdue),
        ("calls left", f"{last.calls_left} of {shown.calls_per_minute} a minute"),
        ("trouble", last.trouble),
        ("set aside", f"{shown.set_aside} that fail by themselves: see their trouble below" if shown.set_aside else ""),
    ]
