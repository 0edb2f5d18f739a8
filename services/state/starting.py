"""How does a training begin? Written down first, then asked of Replicate: whatever is lost, the user's model is not."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Final, Protocol

import structlog
from pydantic import JsonValue

from services.state.records import NOT_STARTED, TrainingRecord
from services.state.swap import Failure
from shared.contract.errors import DependencyDown, PermanentError, TransientError
from shared.contract.identity import ModelName, ModelRef
from shared.contract.text import clean
from shared.replicate.errors import NotThere, Refused, Unknown
from shared.replicate.training import Training

log = structlog.get_logger()

#: What Replicate is to tell us about.
WEBHOOK_EVENTS: Final = ("start", "output", "logs", "completed")


class StartRefused(PermanentError):  # noqa: N818 (it is what was seen, and reads as one)
    """Replicate refuses to run the training."""

    code = "start_refused"


class Replicate(Protocol):
    """What is asked of Replicate."""

    async def create_training(
        self,
        trainer: ModelRef,
        destination: ModelName,
        input: Mapping[str, JsonValue],  # noqa: A002 (Replicate's own word)
        webhook: str,
        events: Sequence[str],
    ) -> Training: ...


class Trainings(Protocol):
    """Where trainings are written down."""

    async def attach(self, record: TrainingRecord, training_id: str) -> TrainingRecord: ...

    async def fail_start(self, record: TrainingRecord, failure: Failure) -> None: ...


async def start(
    record: TrainingRecord,
    trainer: ModelRef,
    training_input: Mapping[str, JsonValue],
    *,
    webhook: str,
    replicate: Replicate,
    trainings: Trainings,
) -> TrainingRecord:
    """
    Ask Replicate to run a training that is written down; return it with Replicate's id, if that is known.

    It is not known when the answer was lost: then the first webhook brings it.

    Raises:
        StartRefused: if Replicate does not want it.
        DependencyDown: if Replicate is away. The same request may be made again, with the same key.

    """
    try:
        created = await replicate.create_training(trainer, record.destination, training_input, webhook, WEBHOOK_EVENTS)
    except Unknown as error:
        log.warning("training.start_unknown", ref=str(record.ref), user_id=record.user_id, detail=str(error))
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
        # It runs. To answer that it does not would make the caller start a second one.
        log.warning("training.not_attached", ref=str(record.ref), training_id=created.id, detail=str(error))
        return replace(record, training_id=created.id)
    log.info("training.started", ref=str(record.ref), user_id=record.user_id, training_id=attached.training_id)
    return attached
