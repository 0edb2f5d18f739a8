"""`modelswap reconcile status`: whether Replicate's webhooks arrive, and which trainings were recovered."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from services.cli.choices import Format
from services.cli.operators.client import operators
from services.cli.output import console, print_json
from services.cli.table import Column, print_facts, print_table
from services.ops.reconcile.views import Reconciliation, RecoveryCounts, RecoveryView

_LOST: Final = 'webhooks do not arrive: see "Webhooks do not arrive" in deploy/runbook.md'
TRAININGS: Final[Sequence[Column[RecoveryView]]] = (
    Column("training", lambda each: each.training_id or each.ref),
    Column("user", lambda each: each.user_id, 3),
    Column("noticed", lambda each: each.noticed_at, 4),
    Column("looks", lambda each: each.looks, 6),
    Column("requests", lambda each: each.gets, 7),
    Column("next look", lambda each: None if each.outcome else each.look_at, 5),
    Column("outcome", lambda each: each.outcome, 1),
    Column("trouble", lambda each: None if each.outcome else each.trouble, 2, is_prose=True),
)


async def show_status(*, limit: int, output: Format) -> bool:
    """Show how many trainings were recovered and what is overdue; return True if webhooks arrive."""
    async with operators() as api:
        shown = await api.get(Reconciliation, "/v1/reconciliation", {"limit": str(limit)})
    if output is Format.JSON:
        print_json(shown)
    else:
        print_facts(_facts(shown))
        print()
        print_table(shown.trainings, TRAININGS, output, empty="no training was overdue")
        if shown.webhooks_seem_lost:
            console().print(f"\n{_LOST}", soft_wrap=True)
    return not shown.webhooks_seem_lost


def _facts(shown: Reconciliation) -> list[tuple[str, object]]:
    last = shown.last_round
    return [
        ("recovered", _counted(shown.recovered)),
        ("given up", _counted(shown.given_up)),
        ("never started", _counted(shown.never_started)),
        ("last round", last.at),
        ("last complete round", last.last_success_at),
        ("overdue then", last.overdue),
        ("calls left", f"{last.calls_left} of {shown.calls_per_minute} a minute"),
        ("trouble", last.trouble),
        ("set aside", f"{shown.set_aside} that fail by themselves: see their trouble below" if shown.set_aside else ""),
    ]


def _counted(counts: RecoveryCounts) -> str:
    return f"{counts.last_hour} in the last hour, {counts.last_day} in the last day"
