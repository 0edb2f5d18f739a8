"""Start and cancel registered trainings at Replicate. Pure but for Replicate and the store."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final, Protocol

import structlog
from pydantic import JsonValue

from services.state.changes import Failure
from services.state.registration import NOT_STARTED
from services.state.transitions import AT_REPLICATE
from services.state.views import TrainingView
from shared.contract.errors import DependencyDown, PermanentError, TransientError
from shared.contract.identity import ModelName, ModelRef
from shared.contract.text import clean
from shared.replicate.errors import NotThere, Refused, Unknown
from shared.replicate.training import Training

log = structlog.get_logger()

#: Events that Replicate posts webhooks for.
WEBHOOK_EVENTS: Final = ("start", "output", "logs", "completed")


class StartRefused(PermanentError):
    """Replicate refuses to run the training."""

    code = "start_refused"


class NotCancelable(PermanentError):
    """The training cannot be canceled."""

    code = "not_cancelable"
    codes = ("already_ended", "id_not_known_yet", "cancel_refused")


class Replicate(Protocol):
    """Replicate's API."""

    async def create_training(
        self,
        trainer: ModelRef,
        destination: ModelName,
        inputs: Mapping[str, JsonValue],
        webhook: str,
        events: Sequence[str],
    ) -> Training: ...

    async def cancel_training(self, training_id: str) -> Training: ...


class Trainings(Protocol):
    """The store."""

    async def attach(self, record: TrainingView, training_id: str) -> TrainingView: ...

    async def fail_start(self, record: TrainingView, failure: Failure) -> None: ...


async def start(
    record: TrainingView,
    trainer: ModelRef,
    training_input: Mapping[str, JsonValue],
    *,
    webhook: str,
    replicate: Replicate,
    trainings: Trainings,
) -> TrainingView:
    """
    Ask Replicate to run a registered training; return it with Replicate's id, if known.

    The id is unknown if the answer was lost: then the first webhook brings it.

    Raises:
        StartRefused: if Replicate refuses.
        DependencyDown: if Replicate is away. The caller may repeat the request with the same key.

    """
    try:
        created = await replicate.create_training(trainer, record.destination, training_input, webhook, WEBHOOK_EVENTS)
    except Unknown as error:
        log.info("training.start_unknown", ref=str(record.ref), user_id=record.user_id, detail=str(error))
        return record
    except (Refused, NotThere) as error:
        await trainings.fail_start(record, Failure(StartRefused.code, clean(str(error))))
        raise StartRefused(str(error)) from error
    except DependencyDown as error:
        await trainings.fail_start(record, Failure(NOT_STARTED, clean(str(error))))
        raise
    try:
        attached = await trainings.attach(record, created.id)
    except TransientError as error:
        # It runs: an error would make the caller start a second one.
        log.info("training.not_attached", ref=str(record.ref), training_id=created.id, detail=str(error))
        return record.model_copy(update={"training_id": created.id})
    log.info("training.started", ref=str(record.ref), user_id=record.user_id, training_id=attached.training_id)
    return attached


async def cancel(record: TrainingView, replicate: Replicate) -> None:
    """
    Ask Replicate to end a training. Its stage changes when Replicate reports the end.

    Raises:
        NotCancelable: if it has ended, or Replicate refuses.
        DependencyDown: if Replicate is away. The caller may try again.

    """
    name = record.training_id or record.ref
    if record.stage not in AT_REPLICATE:
        raise NotCancelable(f"training {name} has ended: it is {record.stage}", code="already_ended")
    if record.training_id is None:
        raise NotCancelable(
            f"Replicate's id of training {name} is not known yet: try again in a moment", code="id_not_known_yet"
        )
    try:
        await replicate.cancel_training(record.training_id)
    except (NotThere, Refused) as error:
        raise NotCancelable(str(error), code="cancel_refused") from error
