"""The command that lists the audit."""

from __future__ import annotations

from typing import Annotated

import typer

from services.cli.choices import Format
from services.cli.options import Limit, Output, run_async


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
