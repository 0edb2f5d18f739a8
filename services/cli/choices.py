"""Enumerations that options take. Pure, and quick to import."""

from __future__ import annotations

from enum import StrEnum


class Format(StrEnum):
    """Output format of a command."""

    TABLE = "table"
    WIDE = "wide"  #: A table with every column, even on a narrow terminal.
    JSON = "json"


class Process(StrEnum):
    """A process that can be run."""

    RECEIVER = "receiver"
    EXTRACTOR = "extractor"
    STATE = "state"
    OPS = "ops"
    NOTIFIER = "notifier"
    SIMULATOR = "simulator"


class Trigger(StrEnum):
    """A webhook about a training, or a public event, to trigger."""

    STARTED = "training.started"
    PROGRESSED = "training.progressed"
    SUCCEEDED = "training.succeeded"
    FAILED = "training.failed"
    CANCELED = "training.canceled"

    MODEL_READY = "model.ready"
    MODEL_ACTIVATED = "model.activated"
    MODEL_WITHDRAWN = "model.withdrawn"
    MODEL_SUPERSEDED = "model.superseded"
    EXTRACTION_FAILED = "extraction.failed"

    @property
    def is_webhook(self) -> bool:
        """Whether it is a webhook of Replicate; all others are public events."""
        return self.startswith("training.")
