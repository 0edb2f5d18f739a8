"""
Answers of the API. Pure.

A view is also the record of the store: a row whose columns have the names of the view's fields is validated into it.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any, Final, Literal, NamedTuple
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field, JsonValue

from services.state.transitions import Stage
from shared.contract.answers import Page
from shared.contract.identity import ModelName, ModelRef
from shared.contract.values import Cause, ProgressSource


class _Example(NamedTuple):
    user_id: str = "user-42"
    destination: str = "acme/user-42"
    model: str = f"acme/user-42:{'5c' * 32}"
    earlier_model: str = f"acme/user-42:{'0f' * 32}"
    trainer: str = f"ostris/flux-dev-lora-trainer:{'e4' * 32}"
    ref: str = "e20ad9a4-9b23-4faa-a751-c61b367e9b79"
    training_id: str = "zz4ibbonubfz7carwiefibzgga"


#: Values of the examples in the API's description.
EXAMPLE: Final = _Example()


def example(values: Mapping[str, Any], **keywords: Any) -> ConfigDict:
    """Return a model's config with an example in its schema."""
    return ConfigDict(json_schema_extra={"examples": [dict(values)], **keywords})


class View(BaseModel):
    """Base of the answers."""

    # A field's docstring is its description in the API's document.
    model_config = ConfigDict(use_attribute_docstrings=True)


class FailureView(View):
    """Why a training has no usable model."""

    code: str
    reason: str


class TrainingView(View):
    """A training."""

    ref: UUID
    """modelswap's id of the training."""
    training_id: str | None
    """Replicate's id of the training; null until it is known."""
    user_id: str
    generation: int
    """
    Drawn when the training was requested; it never changes. A verified model becomes current if this is higher than the
    generation of the user's current model or of the withdrawal that removed it.
    """
    activated_generation: int | None
    """
    The generation of the swap that last made its model the user's current one, as in `GET /v1/users/{user_id}/model`
    and in `model.activated`; null if there was none. It equals `generation` until an operator rolls back to this model:
    a rollback draws a new generation.
    """
    stage: Stage
    current: bool
    """Whether its model is the user's current one."""
    destination: ModelName
    trainer: ModelRef | None
    trigger_word: str
    progress: int
    """
    0..100; it never falls, unless a later log shows that an earlier one was misread. 100 means that the model can be
    used.
    """
    progress_source: ProgressSource | None
    """Read from the log, or estimated from the time; null if the training has not begun or is over."""
    step: int | None
    total_steps: int | None
    eta_seconds: int | None
    """Estimated time left; null if unknown."""
    eta_low_seconds: int | None
    """The 10th percentile of the time left; with `eta_high_seconds` a range that holds in 8 of 10 cases."""
    eta_high_seconds: int | None
    """The 90th percentile. Null with a low one: the training takes longer than expected."""
    overdue_at: datetime | None
    """When it should have ended at the latest; null if it has, or if too few trainings of its trainer are known."""
    reference: ModelRef | None
    """Its model, once verified."""
    failure: FailureView | None
    requested_at: datetime
    started_at: datetime | None
    completed_at: datetime | None
    updated_at: datetime
    webhook_url: str | None = None
    """The address for Replicate's webhooks; only if you start the training yourself."""


class TrainingRow(TrainingView):
    """A training with its position in the order of pages, which is not in answers."""

    number: int = Field(exclude=True)


_MODEL_EXAMPLE: Final = {
    "user_id": EXAMPLE.user_id,
    "reference": EXAMPLE.model,
    "owner": "acme",
    "name": "user-42",
    "version": "5c" * 32,
    "generation": 7,
    "ref": EXAMPLE.ref,
    "training_id": EXAMPLE.training_id,
    "trigger_word": "TOK",
    "activated_at": "2026-11-24T12:20:00Z",
}


class ModelView(View):
    """A user's current model. No field is ever null."""

    model_config = example(_MODEL_EXAMPLE)

    user_id: str
    reference: ModelRef
    """``owner/name:version``, ready to run."""
    owner: str
    name: str
    version: str
    generation: int
    """
    The generation of the swap that made it current: the training's own, or the one that a rollback drew. It rises with
    every change of the user's model and is the ETag. In the training it is `activated_generation`.
    """
    training_id: str
    ref: UUID
    trigger_word: str
    activated_at: datetime
    dry_run: bool = False
    """True if nothing was changed and this is what would be; else absent."""


class UserModelView(View):
    """A user's current model, in a snapshot of all users' models."""

    model_config = example(
        {
            "user_id": EXAMPLE.user_id,
            "generation": 7,
            "updated_at": "2026-11-24T12:20:00Z",
            "model": _MODEL_EXAMPLE,
        }
    )

    user_id: str
    generation: int
    updated_at: datetime
    """When the model became current."""
    model: ModelView


class WithdrawnView(View):
    """A user whose model was withdrawn, and who has none since."""

    model_config = example(
        {"user_id": EXAMPLE.user_id, "generation": 8, "updated_at": "2026-11-24T15:00:00Z", "withdrawn": True}
    )

    user_id: str
    generation: int
    """Of the withdrawal."""
    updated_at: datetime
    """When the model was withdrawn."""
    withdrawn: Literal[True]


class SnapshotPage(Page[UserModelView | WithdrawnView]):
    """One page of a snapshot, with the cursor of the next page."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    next_updated_since: datetime
    """Give it as `updated_since` when you take the next snapshot. It is the same on every page of this one."""


class OutputView(View):
    """The output of a training, and the model found in it."""

    ref: UUID
    training_id: str
    user_id: str
    stage: Stage
    destination: ModelName
    trainer: ModelRef | None
    trainer_version: str | None
    reference: ModelRef | None
    """Its model, if one was verified."""
    output: JsonValue
    """As Replicate sent it."""


class OutputRow(OutputView):
    """An output with its position in the order of pages."""

    number: int = Field(exclude=True)


class SwapView(View):
    """A change of a user's current model."""

    model_config = example(
        {
            "generation": 8,
            "reference": EXAMPLE.earlier_model,
            "previous_reference": EXAMPLE.model,
            "ref": EXAMPLE.ref,
            "training_id": EXAMPLE.training_id,
            "trigger_word": "TOK",
            "cause": "rollback",
            "actor": "olga",
            "reason": "faces are too dark",
            "at": "2026-11-24T15:00:00Z",
        }
    )

    generation: int
    """Of this change. After a rollback it differs from the `generation` of the training."""
    reference: ModelRef | None
    """Null: a withdrawal. `training_id` and `ref` are then of the withdrawn model."""
    previous_reference: ModelRef | None
    training_id: str
    ref: UUID
    trigger_word: str
    cause: Cause
    actor: str
    reason: str
    at: datetime


class WithdrawalView(SwapView):
    """A withdrawal of a user's model, as in the history."""

    dry_run: bool = False
    """True if nothing was changed and this is what would be; else absent."""
