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
    """What a webhook can be made to say of a training."""

    STARTED = "training.started"
    PROGRESSED = "training.progressed"
    SUCCEEDED = "training.succeeded"
    FAILED = "training.failed"
    CANCELED = "training.canceled"
