"""
What stage is a training in after a fact? Pure: one table.

    requested ──▶ running ──▶ verifying ──┬──▶ active ◀─▶ replaced   by a newer one or a chosen one, or withdrawn
        │            │           ▲ │      │      ▲
        │            │     asked │ │      │      │ chosen
        │            │     again │ │      │      │
        │            │           │ │      └──▶ superseded          proved good, but a newer one is live already
        │            │           │ ▼      ▲
        │            │         unverified ┘                        no usable model came out; looking again may find it
        └────────────┴──▶ failed, canceled

Facts come in any order, late and twice. The stronger fact wins and nothing moves back: a model that is ready proves
that its training ran and succeeded, whether or not anybody said so. Replicate's first verdict stands: what failed or
was canceled stays so, and what succeeded does not fail afterwards. Only what *we* took for not started is requested
again when Replicate turns out to run it, only somebody who asks has a model looked for again, and only somebody who
rolls back makes a model current that was, or never was.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Final


class Stage(StrEnum):
    """
    How far a training is.

    - `requested`: we wrote it down; Replicate may not know of it yet.
    - `running`: Replicate runs it, or is about to.
    - `verifying`: Replicate finished it; whether its model works is being found out.
    - `active`: its model is the one that the user uses now.
    - `replaced`: its model was used, until a newer one was ready or an operator took it back.
    - `superseded`: its model works, but a newer one was live, or withdrawn, before it was ready.
    - `failed`: Replicate gave it up, or did not start it.
    - `canceled`: it was ended before its end.
    - `unverified`: it succeeded, but no usable model came out; looking again may find one.
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

    APPEARED = "appeared"  #: Replicate's id of it is known from now on.
    STARTED = "started"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELED = "canceled"
    NOT_VERIFIED = "not verified"  #: No usable model was found.
    WON = "won"  #: Its model is ready, and the newest of its user.
    LOST = "lost"  #: Its model is ready, but a newer one is live, or was withdrawn.
    DISPLACED = "displaced"  #: Its model was current until just now; another one is, or none.
    ASKED_AGAIN = "asked again"  #: Its model is to be looked for once more.
    CHOSEN = "chosen"  #: Somebody rolled back to its model.


_READY_COMES_TO: Final = (Stage.REQUESTED, Stage.RUNNING, Stage.VERIFYING, Stage.UNVERIFIED)

_NEXT: Final[Mapping[Fact, Mapping[Stage, Stage]]] = {
    # A training that failed at Replicate had an id before.
    Fact.APPEARED: {Stage.FAILED: Stage.REQUESTED},
    Fact.STARTED: {Stage.REQUESTED: Stage.RUNNING},
    Fact.SUCCEEDED: {Stage.REQUESTED: Stage.VERIFYING, Stage.RUNNING: Stage.VERIFYING},
    Fact.FAILED: {Stage.REQUESTED: Stage.FAILED, Stage.RUNNING: Stage.FAILED},
    Fact.CANCELED: {Stage.REQUESTED: Stage.CANCELED, Stage.RUNNING: Stage.CANCELED},
    # Again unverified, for the newest reason.
    Fact.NOT_VERIFIED: dict.fromkeys(_READY_COMES_TO, Stage.UNVERIFIED),
    Fact.WON: dict.fromkeys(_READY_COMES_TO, Stage.ACTIVE),
    Fact.LOST: dict.fromkeys(_READY_COMES_TO, Stage.SUPERSEDED),
    Fact.DISPLACED: {Stage.ACTIVE: Stage.REPLACED},
    # One that is being verified, too: whoever was to do it may have been lost.
    Fact.ASKED_AGAIN: dict.fromkeys((Stage.VERIFYING, Stage.UNVERIFIED), Stage.VERIFYING),
    Fact.CHOSEN: dict.fromkeys((Stage.REPLACED, Stage.SUPERSEDED), Stage.ACTIVE),
}


def next_stage(stage: Stage, fact: Fact) -> Stage | None:
    """The stage that *fact* leads to from *stage*, or None when it changes nothing there."""
    return _NEXT[fact].get(stage)


def accepts_model(stage: Stage) -> bool:
    """Would a ready model still matter to a training in *stage*?"""
    return stage in _READY_COMES_TO
