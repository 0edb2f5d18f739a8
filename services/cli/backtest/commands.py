"""Commands that run this machine's parser on past outputs."""

from __future__ import annotations

from typing import Annotated

import typer

from services.cli.choices import Format
from services.cli.options import Begin, Limit, Output, Yes, run_async, timestamp


def trainings_re_extract(
    since: Begin,
    *,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only show what the parser would find.")] = False,
    reason: Annotated[str, typer.Option(help="For the audit; needed without --dry-run.")] = "",
    yes: Yes = False,
    limit: Limit = 1000,
    output: Output = Format.TABLE,
) -> None:
    """
    Run today's parser on past outputs.

    The dry run takes the newest --limit trainings of every stage, and compares each result with the training's model:
    same, different, now found, now fails, still fails. Without it, the newest --limit unverified ones are taken, and
    the extraction of each whose model is found now is retried, with the usual verification. Trainings that have a
    model are left alone.

    Example: modelswap trainings re-extract --since 7d --dry-run

    Example: modelswap trainings re-extract --since 2026-11-24T08:00 --reason "parser fixed in 0.2.0"
    """
    from services.cli.backtest.outputs import retry_extractions, try_outputs

    if dry_run:
        run_async(try_outputs(timestamp(since), limit=limit, output=output))
    elif not reason:
        raise typer.BadParameter("say why, for the audit; or add --dry-run", param_hint="--reason")
    elif not run_async(retry_extractions(timestamp(since), reason, yes=yes, limit=limit, output=output)):
        raise typer.Exit(1)


def dead_letters_try(since: Begin, limit: Limit = 1000, output: Output = Format.TABLE) -> None:
    """
    Run today's parser on the extractor's dead letters.

    The parser is the one on this machine, so a fix can be tried before it is deployed. Shows which dead letters would
    give which model now, and which still fail and how. Changes nothing, and does not check whether the models work.

    Example: modelswap dead-letters try --since 24h

    Example: modelswap dead-letters try --since 24h -o json | jq .groups
    """
    from services.cli.backtest.outputs import try_letters

    run_async(try_letters(timestamp(since), limit=limit, output=output))
