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
}


def kind(status: str, of: str) -> str:
    """Return the colour of the *status* of a stage, letter, replay, outcome, change, endpoint or delivery."""
    return _KINDS[of].get(status, "quiet")
