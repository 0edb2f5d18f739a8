"""Which rows of `ops.letters` are meant? Pure: a filter as a condition in SQL, for whichever store asks it."""

from __future__ import annotations

import re
from typing import Any, Final

from services.ops.letters.views import Filter

#: As the index parts them: by nothing but ASCII's own punctuation, which is the same in every locale.
_WORD: Final = re.compile(r"[0-9A-Za-z\x80-\U0010ffff]+")

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
    "text": "to_tsvector('simple', "
    r"regexp_replace(error_class || ' ' || error_text, '[^0-9A-Za-z\u0080-\U0010FFFF]+', ' ', 'g'))"
    " @@ to_tsquery('simple', {})",
}


def where(wanted: Filter) -> tuple[str, list[Any]]:
    """The conditions that *wanted* sets, with places from $1, and the values for those."""
    given = wanted.model_dump(exclude_none=True)
    if "text" in given:
        given["text"] = " & ".join(f"'{word}':*" for word in _WORD.findall(given["text"])) or "-"
    conditions = [_CONDITIONS[name].format(f"${place}") for place, name in enumerate(given, start=1)]
    return " AND ".join(["true", *conditions]), list(given.values())


def by_number(wanted: Filter) -> str:
    """
    What the rows are put in order by, where only some of them are taken.

    Words have an index of their own. On the way through the letters by number each one's words would be made anew
    first: for a hundred thousand without the one that is looked for that takes a second.
    """
    return "number" if wanted.text is None else "number + 0"
