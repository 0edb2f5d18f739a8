"""Commands on trainings whose webhook never came."""

from __future__ import annotations

import typer

from services.cli.choices import Format
from services.cli.options import Limit, Output, group, run_async

reconcile = group("reconcile", "Trainings whose webhook never came.")


@reconcile.command("status")
def reconcile_status(limit: Limit = 20, output: Output = Format.TABLE) -> None:
    """
    Show whether Replicate's webhooks reach us.

    How many trainings were recovered because no webhook came, the last round's result, and what was overdue. Exit code
    1 if webhooks do not arrive.

    Example: modelswap reconcile status

    Example: modelswap reconcile status -o json | jq .recovered
    """
    from services.cli.operators.reconcile import show_status

    if not run_async(show_status(limit=limit, output=output)):
        raise typer.Exit(1)
