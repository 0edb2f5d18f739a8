"""What is asked of a training or of a user's model, and what came of it? Requests to the product's API."""

from __future__ import annotations

from typing import Final

from services.cli.choices import Format
from services.cli.confirm import confirm
from services.cli.output import print_json
from services.cli.product.trainings import print_training, product
from services.cli.table import print_facts
from services.state.views import ModelView, WithdrawalView

_NONE: Final = "no model"
_LOOK: Final = "modelswap models history, to see which models there are"


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
        # After a withdrawal there is none.
        current = await api.find_model(user_id)
        generation = current.generation if current else None
        planned = await api.roll_back(user_id, to=to, reason=reason, generation=generation, dry_run=True)
        if not dry_run:
            before = current.reference if current else _NONE
            if not yes:
                confirm(f"{user_id}: {before} → {planned.reference}", "Roll back?", then=_LOOK)
            to = str(planned.reference)
            planned = await api.roll_back(user_id, to=to, reason=reason, generation=generation, dry_run=False)
    _print_change(current, planned, planned.reference, user_id, output)


async def withdraw(user_id: str, *, reason: str, dry_run: bool, yes: bool, output: Format) -> None:
    """Likewise, until the user has no model."""
    async with product() as api:
        current = await api.get_model(user_id)
        planned = await api.withdraw(user_id, reason=reason, generation=current.generation, dry_run=True)
        if not dry_run:
            if not yes:
                confirm(f"{user_id}: {current.reference} → {_NONE}", "Withdraw?", then=_LOOK)
            planned = await api.withdraw(user_id, reason=reason, generation=current.generation, dry_run=False)
    _print_change(current, planned, _NONE, user_id, output)


def _print_change(
    before: ModelView | None, after: ModelView | WithdrawalView, to: object, user_id: str, output: Format
) -> None:
    if output is Format.JSON:
        print_json(after)
        return
    rows = (
        ("user", user_id),
        ("from", before.reference if before else _NONE),
        ("to", to),
        ("generation", f"{before.generation} → {after.generation}" if before else after.generation),
        ("changed", "no, this is a dry run" if after.dry_run else "yes"),
    )
    print_facts(rows)
