"""``modelswap extract``: runs the output parser on one line of JSON. Pure."""

from __future__ import annotations

import json
from collections.abc import Mapping

from pydantic import JsonValue

from services.extractor.errors import NoModel
from services.extractor.outputs import Found, find_model
from shared.contract.identity import ModelName
from shared.replicate.filter import BadLine, answer
from shared.replicate.training import Training, TrainingStatus, decode_training


def extract_line(line: str) -> str:
    """``{"id", "training", "destination"}`` to ``{"id", "model", "version"}`` or its error; never raises."""
    return answer(line, _respond)


def extract(training: Training, destination: ModelName | None) -> Found:
    """
    Return the model ref that the output of *training* names.

    Raises:
        NoModel: if the training did not succeed, or its output names no acceptable model ref.

    """
    if training.status not in TrainingStatus.__members__.values():
        raise NoModel(f"status {training.status!r} is not known: neither success nor failure", code="unknown_status")
    if training.status != TrainingStatus.SUCCEEDED:
        raise NoModel(f"the training is {training.status}, not succeeded", code="not_succeeded")
    return find_model(
        training.output,
        destination=destination,
        trainer=training.trainer,
        trainer_version=training.trainer_version,
    )


def _respond(document: Mapping[str, JsonValue]) -> Mapping[str, JsonValue]:
    training = document.get("training")
    if not isinstance(training, dict):
        raise BadLine("training must be an object")
    # A line is identified by its own id; Replicate's id in the training is optional here.
    whole = decode_training(json.dumps({**training, "id": training.get("id") or "unnamed"}).encode())
    found = extract(whole, _destination(document.get("destination")))
    return {"model": str(found.model.model), "version": found.model.version}


def _destination(name: JsonValue) -> ModelName | None:
    destination = ModelName.parse(name.strip().lower()) if isinstance(name, str) and name.isascii() else None
    if name is not None and destination is None:
        raise BadLine("destination must be owner/name or null")
    return destination
