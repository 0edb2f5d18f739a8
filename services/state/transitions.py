"""
Stage of a training after a fact. Pure: one table.

    requested ──▶ running ──▶ verifying ──┬──▶ active ◀─▶ replaced   by a newer model, a rollback or a withdrawal
        │            │           ▲ │      │      ▲
        │            │extraction │ │      │      │ chosen by a rollback
        │            │   retried │ │      │      │
        │            │           │ │      └──▶ superseded          verified, but a newer model was current already
        │            │           │ ▼      ▲
        │            │         unverified ┘                        no usable model was found; a retry may find one
        └────────────┴──▶ failed, canceled

Facts arrive in any order, late and twice. The stronger fact wins and nothing moves back: a ready model proves that its
training ran and succeeded, even if no event said so. Replicate's first result stands: a failed or canceled training
stays so, and a succeeded one does not fail later. Exceptions: a training that *we* took for not started is requested
again if Replicate runs it, a retry repeats an extraction, and a rollback makes any verified model current.

The one change of a stage that does not ask this table is in SQL: `store.progress` does for a report of progress what
`Fact.STARTED` does.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Final


class Stage(StrEnum):
    """
    Stage of a training.

    - `requested`: it is registered; Replicate may not know of it yet.
    - `running`: Replicate runs it, or is about to.
    - `verifying`: it succeeded; its model is being verified.
    - `active`: its model is the user's current one.
    - `replaced`: its model was current, until a newer one was ready or an operator took it back.
    - `superseded`: its model works, but a newer one was current, or withdrawn, before it was ready.
    - `failed`: it failed at Replicate, or was not started.
    - `canceled`: it was canceled before its end.
    - `unverified`: it succeeded, but no usable model was found; another extraction may find one.
    """

    REQUESTED = "requested"
    RUNNING = "running"
    VERIFYING = "verifying"
    ACTIVE = "active"
    REPLACED = "replaced"
    SUPERSEDED = "superseded"
    FAILED = "failed"
    CANCELED = "canceled"
    UNVERIFIED = "unverified"


class Fact(StrEnum):
    """What moves a training."""

    APPEARED = "appeared"  #: Replicate's id of it became known.
    STARTED = "started"
    SUCCEEDED = "succeeded"
    FAILED = "failed"  #: At Replicate, or Replicate did not start it.
    CANCELED = "canceled"
    NOT_VERIFIED = "not verified"  #: No usable model was found.
    WON = "won"  #: Its model is ready and becomes current.
    LOST = "lost"  #: Its model is ready, but a newer one is current or was withdrawn.
    DISPLACED = "displaced"  #: Its model is no longer current.
    EXTRACTION_RETRIED = "extraction retried"  #: Its model is extracted again.
    CHOSEN = "chosen"  #: An operator rolled back to its model.


#: Replicate has not ended it.
AT_REPLICATE: Final = (Stage.REQUESTED, Stage.RUNNING)
_AWAITS_MODEL: Final = (*AT_REPLICATE, Stage.VERIFYING, Stage.UNVERIFIED)

_NEXT: Final[Mapping[Fact, Mapping[Stage, Stage]]] = {
    # A training that failed at Replicate had an id, so this one was taken for not started.
    Fact.APPEARED: {Stage.FAILED: Stage.REQUESTED},
    Fact.STARTED: {Stage.REQUESTED: Stage.RUNNING},
    Fact.SUCCEEDED: dict.fromkeys(AT_REPLICATE, Stage.VERIFYING),
    Fact.FAILED: dict.fromkeys(AT_REPLICATE, Stage.FAILED),
    Fact.CANCELED: dict.fromkeys(AT_REPLICATE, Stage.CANCELED),
    # Unverified again, with the newest reason.
    Fact.NOT_VERIFIED: dict.fromkeys(_AWAITS_MODEL, Stage.UNVERIFIED),
    Fact.WON: dict.fromkeys(_AWAITS_MODEL, Stage.ACTIVE),
    Fact.LOST: dict.fromkeys(_AWAITS_MODEL, Stage.SUPERSEDED),
    Fact.DISPLACED: {Stage.ACTIVE: Stage.REPLACED},
    # Also while verifying: the running extraction may have been lost.
    Fact.EXTRACTION_RETRIED: dict.fromkeys((Stage.VERIFYING, Stage.UNVERIFIED), Stage.VERIFYING),
    Fact.CHOSEN: dict.fromkeys((Stage.REPLACED, Stage.SUPERSEDED), Stage.ACTIVE),
}


def next_stage(stage: Stage, fact: Fact) -> Stage | None:
    """Return the stage after *fact*, or None if it does not change."""
    return _NEXT[fact].get(stage)


def accepts_model(stage: Stage) -> bool:
    """Return whether a ready model changes a training in *stage*."""
    return stage in _AWAITS_MODEL
