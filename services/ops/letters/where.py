"""Filters of dead letters as conditions in SQL. Pure."""

from __future__ import annotations

from typing import Final

from services.ops.letters.views import Filter
from services.ops.where import WORDS, conditions

_COLUMNS: Final = {
    "status": "status = {}",
    "queue": "queue = {}",
    "error_code": "error_code = {}",
    "error_class": "error_class = {}",
    "training_id": "training_id = {}",
    "user_id": "user_id = {}",
    "event_type": "event_type = {}",
    "fingerprint": "fingerprint = {}",
    "since": "last_failed_at >= {}",
    "until": "last_failed_at < {}",
    "text": WORDS.format("error_class || ' ' || error_text", "{}"),
}


def where(wanted: Filter) -> tuple[str, list[object]]:
    """Return the conditions of *wanted*, with parameters from $1, and their values."""
    return conditions(wanted, _COLUMNS)
