"""Commands that list the audit, and say whether webhooks arrive."""

from __future__ import annotations

from typing import Annotated

import typer

from services.cli.choices import Format
from services.cli.options import Limit, Output, group, run_async

reconcile = group("reconcile", "Trainings whose webhook never came.")


def audit(
    actor: Annotated[str | None, typer.Option(help="Who: the name of a token.")] = None,
    action: Annotated[str | None, typer.Option(help="What, e.g. dead_letter.dropped.")] = None,
    target: Annotated[str | None, typer.Option(help='Of what, e.g. "dead letter 17".')] = None,
    limit: Limit = 50,
    output: Output = Format.TABLE,
) -> None:
    """
    List who repaired what, and why.

    Example: modelswap audit --actor olga

    Example: modelswap audit --target "user user-42"
    """
    from services.cli.operators.audit import list_audit

    run_async(list_audit({"actor": actor, "action": action, "target": target}, limit=limit, output=output))


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
