"""Which commands try today's parser on the past?"""

# ruff: noqa: PLC0415 (each command imports what it needs when it runs, so that help is quick)

from __future__ import annotations

from typing import Annotated

import typer

from services.cli.choices import Format
from services.cli.options import Begin, Limit, Output, moment, run_async


def trainings_re_extract(
    since: Begin,
    *,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only say what today's parser makes of each output. Nothing is changed.")
    ] = False,
    reason: Annotated[str, typer.Option(help="For the audit; needed without --dry-run.", show_default=False)] = "",
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    limit: Limit = 1000,
    output: Output = Format.TABLE,
) -> None:
    """
    Read past outputs with today's parser.

    The dry run compares each with the model that its training has: same, different, now found, now fails, still fails.
    Without it, each unverified training of which a model is found now is looked at again, through the usual gate; those
    that have a model are left alone.

    Example: modelswap trainings re-extract --since 7d --dry-run

    Example: modelswap trainings re-extract --since 2026-11-24T08:00 --reason "parser fixed in 0.2.0"
    """
    from services.cli.backtest import outputs as past

    begin = moment(since)
    if dry_run:
        run_async(past.re_extract(begin, limit=limit, output=output))
        return
    if not reason:
        raise typer.BadParameter("say why, for the audit; or try it with --dry-run", param_hint="--reason")
    found = run_async(past.found_by_now(begin, limit=limit))
    if found and not yes:
        from services.cli.confirm import confirm

        then = "modelswap trainings re-extract --since TIME --dry-run, for what it would find"
        confirm(f"{len(found)} trainings are looked at again, through the usual gate", "Look again?", then=then)
    refused = run_async(past.look_again(found, reason))
    past.print_looked_again(found, refused, output)
    if refused:
        raise typer.Exit(1)


def dead_letters_try(since: Begin, limit: Limit = 1000, output: Output = Format.TABLE) -> None:
    """
    Read the extractor's dead letters with today's parser.

    The parser is this command's own: so a fix can be tried before it is deployed. Says which letters would give which
    model now, and which still fail and how. Nothing is changed, and whether the models work is not asked.

    Example: modelswap dead-letters try --since 24h

    Example: modelswap dead-letters try --since 24h -o json | jq .groups
    """
    from services.cli.backtest.outputs import try_letters

    run_async(try_letters(moment(since), limit=limit, output=output))
