"""The colour of each status, the same on every screen: good, info, warn, bad or quiet. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

#: By what has the status; one that is not named is quiet. *none* is the colour of what has not begun.
_KINDS: Final[Mapping[str, Mapping[str, str]]] = {
    "stage": {"running": "info", "verifying": "info", "active": "good", "unverified": "warn", "failed": "bad"},
    "letter": {"open": "bad", "replaying": "info", "resolved": "good"},
    "replay": {
        "previewing": "info",
        "previewed": "warn",
        "running": "info",
        "paused": "warn",
        "stopped": "bad",
        "done": "good",
    },
    "outcome": {
        "swapped": "good",
        "delivered": "good",
        "moved": "good",
        "failed": "bad",
        "sent": "info",
        "waiting": "none",
        "planned": "none",
    },
    "change": {"training": "good", "replay": "good", "rollback": "info", "withdrawal": "warn"},
    "endpoint": {"enabled": "good", "errors": "warn", "gone": "bad", "failing": "bad"},
    "delivery": {"failed": "bad", "retrying": "warn", "queued": "info", "delivered": "good"},
    # Of the audit, by its last word.
    "action": {
        "started": "info",
        "resumed": "info",
        "enabled": "info",
        "resent": "info",
        "restored": "info",
        "rolled_back": "info",
        "done": "good",
        "resolved": "good",
        "paused": "warn",
        "undone": "warn",
        "undo_started": "warn",
        "withdrawn": "warn",
        "stopped": "bad",
    },
}


def kind(status: str, of: str) -> str:
    """Return the colour of the *status* of a stage, letter, replay, outcome, change, endpoint, delivery or action."""
    return _KINDS[of].get(status, "quiet")
