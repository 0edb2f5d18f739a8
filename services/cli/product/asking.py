"""What is asked of a training or of a user's model, and what came of it? Requests to the product's API."""

from __future__ import annotations

import sys

import typer

from services.cli.output import print_json, print_table, printable, tell
from services.cli.problem import Problem
from services.cli.product.trainings import print_training, product
from services.cli.words import Format
from services.state.views import ModelView


async def retry_extraction(training_id: str | None, user_id: str | None, output: Format) -> None:
    """Of a training, or, where none is named, of a user's newest without a model of its own."""
    async with product() as api:
        if training_id is not None:
            asked = await api.retry_extraction(training_id)
        else:
            asked = await api.retry_user_extraction(user_id or "")
    print_training(asked, output)


async def cancel(training_id: str, output: Format) -> None:
    async with product() as api:
        print_training(await api.cancel_training(training_id), output)


async def roll_back(user_id: str, *, to: str | None, reason: str, dry_run: bool, yes: bool, output: Format) -> None:
    """Show what would be, ask, and do it only if the model is still the one that was shown."""
    async with product() as api:
        current = await api.get_model(user_id)
        generation = current.generation
        planned = await api.roll_back(user_id, to=to, reason=reason, generation=generation, dry_run=True)
        if dry_run:
            _print_rollback(current, planned, output)
            return
        if not yes:
            _ask(f"{user_id}: {current.reference} → {planned.reference}")
        done = await api.roll_back(
            user_id, to=str(planned.reference), reason=reason, generation=generation, dry_run=False
        )
    _print_rollback(current, done, output)


def _ask(what: str) -> None:
    if not sys.stdin.isatty():
        raise Problem(f"nobody is there to be asked: {printable(what)}", then="the same command with --yes")
    tell(what)
    if not typer.confirm("Roll back?", err=True):
        raise Problem("nothing was changed", then="modelswap models history, to see which models there are")


def _print_rollback(before: ModelView, after: ModelView, output: Format) -> None:
    if output is Format.JSON:
        print_json(after.model_dump(mode="json"))
        return
    rows = (
        ("user", after.user_id),
        ("from", before.reference),
        ("to", after.reference),
        ("generation", f"{before.generation} → {after.generation}"),
        ("changed", "no, this is a dry run" if after.dry_run else "yes"),
    )
    print_table(("field", "value"), rows, empty="")
