"""Which words does the command line know? Pure, and quick to import."""

from __future__ import annotations

from enum import StrEnum


class Format(StrEnum):
    """How a read command prints."""

    TABLE = "table"
    WIDE = "wide"  #: A table with every column, however narrow the terminal is.
    JSON = "json"


class Process(StrEnum):
    """What can be served."""

    RECEIVER = "receiver"
    EXTRACTOR = "extractor"
    STATE = "state"
    OPS = "ops"
    SIMULATOR = "simulator"


class Trigger(StrEnum):
    """What can be made to happen: a webhook about a training, or a public event."""

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
        """Does Replicate say it? All others are public events."""
        return self.startswith("training.")
