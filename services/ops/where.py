"""Filters as conditions in SQL. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

from services.ops.requests import Request

#: As the index splits words: at ASCII punctuation only, which is the same in every locale.
_WORD: Final = re.compile(r"[0-9A-Za-z\x80-\U0010ffff]+")

#: A condition that finds words in a text, as the index of that text is written.
WORDS: Final = (
    r"to_tsvector('simple', regexp_replace({}, '[^0-9A-Za-z\u0080-\U0010FFFF]+', ' ', 'g'))"
    " @@ to_tsquery('simple', {})"
)


def conditions(wanted: Request, columns: Mapping[str, str]) -> tuple[str, list[object]]:
    """Return the conditions of *wanted*, by the *columns* of its fields, with parameters from $1, and their values."""
    given = {name: getattr(wanted, name) for name in columns if getattr(wanted, name) is not None}
    if "text" in given:
        # The words, or beginnings of words, in it; without one, nothing is found.
        given["text"] = " & ".join(f"'{word}':*" for word in _WORD.findall(given["text"])) or "-"
    found = [columns[name].format(f"${place}") for place, name in enumerate(given, start=1)]
    return " AND ".join(["true", *found]), list(given.values())


def by_number(text: str | None) -> str:
    """
    Return what rows are ordered by when only some of them are taken; *text* is what they are searched for.

    A search for words must use their own index: in order of the numbers, Postgres would split each text into
    words again, which takes a second for a hundred thousand rows without a match.
    """
    return "number" if text is None else "number + 0"
