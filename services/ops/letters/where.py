"""A filter of dead letters as a condition in SQL. Pure."""

from __future__ import annotations

import re
from typing import Final

from services.ops.letters.views import Filter

#: As the index splits words: at ASCII punctuation only, which is the same in every locale.
_WORD: Final = re.compile(r"[0-9A-Za-z\x80-\U0010ffff]+")

#: A condition that finds words in a text, as the index of that text is written.
WORDS: Final = (
    r"to_tsvector('simple', regexp_replace({}, '[^0-9A-Za-z\u0080-\U0010FFFF]+', ' ', 'g'))"
    " @@ to_tsquery('simple', {})"
)

_CONDITIONS: Final = {
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
    given = wanted.model_dump(exclude_none=True)
    if "text" in given:
        given["text"] = search(given["text"])
    conditions = [_CONDITIONS[name].format(f"${place}") for place, name in enumerate(given, start=1)]
    return " AND ".join(["true", *conditions]), list(given.values())


def search(text: str) -> str:
    """Return the query of `WORDS` for the words, or beginnings of words, in *text*; without one, it finds nothing."""
    return " & ".join(f"'{word}':*" for word in _WORD.findall(text)) or "-"


def by_number(wanted: Filter) -> str:
    """
    Return what rows are ordered by when only some of them are taken.

    A search for words must use their own index: in order of the numbers, Postgres would split each text into
    words again, which takes a second for a hundred thousand dead letters without a match.
    """
    return "number" if wanted.text is None else "number + 0"
