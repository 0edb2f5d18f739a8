"""Signed webhooks as Replicate would post them. Pure."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final

from pydantic import JsonValue

from services.cli.choices import Trigger
from shared.contract.identity import ModelName
from shared.replicate.signature import signed_headers

#: The trainer does not matter.
_TRAINER: Final = "ostris/flux-dev-lora-trainer"
_TRAINER_VERSION: Final = hashlib.sha256(_TRAINER.encode()).hexdigest()
_STEPS: Final = 1000
_STATUS: Final = {
    Trigger.STARTED: "processing",
    Trigger.PROGRESSED: "processing",
    Trigger.SUCCEEDED: "succeeded",
    Trigger.FAILED: "failed",
    Trigger.CANCELED: "canceled",
}
_ENDS: Final = (Trigger.SUCCEEDED, Trigger.FAILED, Trigger.CANCELED)


@dataclass(frozen=True, slots=True)
class Webhook:
    """One signed request."""

    headers: Mapping[str, str]
    body: bytes


def named_output(destination: ModelName, version: str) -> JsonValue:
    """Return the output of a training that made *version* of *destination*, in the most common shape."""
    return {"version": f"{destination}:{version}", "weights": "https://replicate.delivery/trigger/trained_model.tar"}


def some_version(training_id: str) -> str:
    """Return the made-up version of a training: always the same one."""
    return hashlib.sha256(training_id.encode()).hexdigest()


def training(
    trigger: Trigger,
    training_id: str,
    *,
    now: datetime,
    output: JsonValue,
    percent: int,
    error: str,
    webhook: str | None = None,
) -> dict[str, JsonValue]:
    """Return Replicate's object for the training at the time of *trigger*; its webhooks go to *webhook*."""
    step = _STEPS * percent // 100
    body: dict[str, JsonValue] = {
        "id": training_id,
        "model": _TRAINER,
        "version": _TRAINER_VERSION,
        "input": {"steps": _STEPS, "trigger_word": "TOK"},
        "logs": "",
        "output": None,
        "error": None,
        "status": _STATUS[trigger],
        "source": "api",
        "webhook": webhook,
        "created_at": _text(now - timedelta(minutes=10)),
        "started_at": _text(now - timedelta(minutes=9)),
    }
    match trigger:
        case Trigger.PROGRESSED:
            body["logs"] = (
                f"flux_train_replicate: {percent:3}%|{'█' * (percent // 10):10}| {step}/{_STEPS} [00:10<00:10]\n"
            )
        case Trigger.SUCCEEDED:
            body["output"] = output
        case Trigger.FAILED:
            body["error"] = error
    return body | ({"completed_at": _text(now)} if trigger in _ENDS else {})


def signed(body: Mapping[str, JsonValue], secret: str, *, message_id: str, now: datetime) -> Webhook:
    content = json.dumps(body).encode()
    headers = signed_headers([secret], message_id, int(now.timestamp()), content)
    return Webhook({"content-type": "application/json", **headers}, content)


def _text(moment: datetime) -> str:
    return moment.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
