"""Users' models: shown, rolled back and withdrawn through the product's API."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from typing import Final, TypeVar

from services.cli.choices import Format
from services.cli.client import segment
from services.cli.output import confirm
from services.cli.product.client import Product, models_of, product
from services.cli.table import Column, print_list, print_one
from services.state.views import ModelView, SwapView, WithdrawalView

M = TypeVar("M", ModelView, WithdrawalView)

HISTORY: Final[Sequence[Column[SwapView]]] = (
    Column("generation", lambda each: each.generation),
    Column("since", lambda each: each.at, 1),
    Column("cause", lambda each: each.cause, 2),
    Column("model", lambda each: each.reference or "no model"),
    Column("training", lambda each: each.training_id, 4),
    Column("by", lambda each: each.actor, 5),
    Column("reason", lambda each: each.reason, 3, is_prose=True),
)
_NONE: Final = "no model"


async def show_model(user_id: str, output: Format) -> None:
    async with product() as api:
        print_model(await api.get_model(user_id), output)


def print_model(found: ModelView, output: Format) -> None:
    # The reference has the parts.
    left_out = {"owner", "name", "version", "dry_run"}
    print_one(((name, value) for name, value in found if name not in left_out), output, data=found)


async def show_history(user_id: str, *, limit: int, output: Format) -> None:
    async with product() as api:
        found = await api.list_history(user_id, limit=limit)
    print_list(found, HISTORY, output, empty=f"user {user_id} has no model yet", limit=limit)


async def roll_back(user_id: str, *, to: str | None, reason: str, dry_run: bool, yes: bool, output: Format) -> None:
    """Show what would change, ask, and roll back only if the model is still the one that was shown."""
    async with product() as api:
        # After a withdrawal there is none.
        current = await api.find_model(user_id)
        generation = current.generation if current else None
        planned = await _post(api, ModelView, user_id, generation, to=to, reason=reason, dry_run=True)
        if not dry_run:
            to = str(planned.reference)
            _confirm(user_id, current, to, "Roll back?", yes=yes)
            planned = await _post(api, ModelView, user_id, generation, to=to, reason=reason, dry_run=False)
    _print_change(current, planned, planned.reference, user_id, output)


async def withdraw(user_id: str, *, reason: str, dry_run: bool, yes: bool, output: Format) -> None:
    """Likewise, until the user has no model."""
    async with product() as api:
        current = await api.get_model(user_id)
        planned = await _post(api, WithdrawalView, user_id, current.generation, reason=reason, dry_run=True)
        if not dry_run:
            _confirm(user_id, current, _NONE, "Withdraw?", yes=yes)
            planned = await _post(api, WithdrawalView, user_id, current.generation, reason=reason, dry_run=False)
    _print_change(current, planned, _NONE, user_id, output)


async def _post(api: Product, kind: type[M], user_id: str, generation: int | None, **body: str | bool | None) -> M:
    verb = "rollback" if kind is ModelView else "withdraw"
    path = f"/v1/users/{segment(user_id)}/model/{verb}"
    return await api.post(kind, path, body, generation=generation, then=_history(user_id), absent=models_of(user_id))


def _history(user_id: str) -> str:
    return f"modelswap models history {shlex.quote(user_id)}"


def _confirm(user_id: str, current: ModelView | None, to: str, question: str, *, yes: bool) -> None:
    if not yes:
        before = current.reference if current else _NONE
        confirm(f"{user_id}: {before} → {to}", question, then=f"{_history(user_id)}, to see which models there are")


def _print_change(
    before: ModelView | None, after: ModelView | WithdrawalView, to: object, user_id: str, output: Format
) -> None:
    rows = (
        ("user", user_id),
        ("from", before.reference if before else _NONE),
        ("to", to),
        ("generation", f"{before.generation} → {after.generation}" if before else after.generation),
        ("changed", "no, this is a dry run" if after.dry_run else "yes"),
    )
    print_one(rows, output, data=after)
