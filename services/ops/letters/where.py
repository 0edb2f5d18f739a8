"""Filters of dead letters and of the audit as conditions in SQL. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

from services.ops.letters.audit import AuditFilter
from services.ops.letters.views import Filter

#: As the index splits words: at ASCII punctuation only, which is the same in every locale.
_WORD: Final = re.compile(r"[0-9A-Za-z\x80-\U0010ffff]+")

#: A condition that finds words in a text, as the index of that text is written.
_WORDS: Final = (
    r"to_tsvector('simple', regexp_replace({}, '[^0-9A-Za-z\u0080-\U0010FFFF]+', ' ', 'g'))"
    " @@ to_tsquery('simple', {})"
)

_LETTERS: Final = {
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
    "text": _WORDS.format("error_class || ' ' || error_text", "{}"),
}

# The times bound the numbers, by which pages are sorted: otherwise a page of long ago reads every newer entry. Entries
# that are written at the same time may be numbered in another order than their times, by far fewer than 1000.
_AUDIT: Final = {
    "actor": "actor = {}",
    "action": "action = {}",
    "target": "target = {}",
    "since": "at >= {0} AND number >= coalesce("
    "(SELECT number - 1000 FROM ops.audit WHERE at >= {0} ORDER BY at LIMIT 1), 9223372036854775807)",
    "until": "at < {0} AND number <= coalesce("
    "(SELECT number + 1000 FROM ops.audit WHERE at < {0} ORDER BY at DESC LIMIT 1), 0)",
    "text": _WORDS.format("target || ' ' || reason || ' ' || outcome", "{}"),
}


def where(wanted: Filter) -> tuple[str, list[object]]:
    """Return the conditions of *wanted*, with parameters from $1, and their values."""
    return _conditions(wanted, _LETTERS)


def where_audit(wanted: AuditFilter) -> tuple[str, list[object]]:
    """Return the same for the audit."""
    return _conditions(wanted, _AUDIT)


def _conditions(wanted: Filter | AuditFilter, columns: Mapping[str, str]) -> tuple[str, list[object]]:
    given = {name: getattr(wanted, name) for name in columns if getattr(wanted, name) is not None}
    if "text" in given:
        # The words, or beginnings of words, in it; without one, nothing is found.
        given["text"] = " & ".join(f"'{word}':*" for word in _WORD.findall(given["text"])) or "-"
    found = [columns[name].format(f"${place}") for place, name in enumerate(given, start=1)]
    return " AND ".join(["true", *found]), list(given.values())


def by_number(wanted: Filter | AuditFilter) -> str:
    """
    Return what rows are ordered by when only some of them are taken.

    A search for words must use their own index: in order of the numbers, Postgres would split each text into
    words again, which takes a second for a hundred thousand rows without a match.
    """
    return "number" if wanted.text is None else "number + 0"
