"""Filters that live in a page's address: read from it, written into it, and taken out one by one. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final, NamedTuple
from urllib.parse import urlencode

from shared.contract.typed_time import typed_time

#: The fields of a filter of dead letters, in the order of their form.
LETTER_FIELDS: Final[Mapping[str, str]] = {
    "text": "Words in the error",
    "queue": "Queue",
    "error_code": "Error",
    "error_class": "Error class",
    "event_type": "Event",
    "user_id": "User",
    "training_id": "Training",
    "fingerprint": "Group",
    "since": "Failed since",
    "until": "Failed before",
    "status": "Status",
}
AUDIT_FIELDS: Final[Mapping[str, str]] = {
    "text": "Words",
    "actor": "Who",
    "action": "What",
    "target": "Of what",
    "since": "Since",
    "until": "Before",
}
_TIMES: Final = ("since", "until")


@dataclass(frozen=True, slots=True)
class Chip:
    """A part of a filter, and the address of the page without it."""

    label: str
    value: str
    without: str


def given(query: Mapping[str, str], fields: Iterable[str]) -> dict[str, str]:
    """Return the *fields* that *query* has, in their order, as they were typed."""
    return {name: query[name].strip() for name in fields if query.get(name, "").strip()}


def asked(chosen: Mapping[str, str], now: datetime) -> dict[str, str]:
    """Return *chosen* as the API takes it: ages such as 2h, and times without an offset, become times in UTC."""
    return {name: moment(text, now) if name in _TIMES else text for name, text in chosen.items()}


def moment(text: str, now: datetime) -> str:
    """Return the time that *text* means; *text* itself if it is none: the API says what is wrong with it."""
    found = typed_time(text, now.replace(microsecond=0))
    return text if found is None else found.isoformat().replace("+00:00", "Z")


def address(path: str, *queries: Mapping[str, str | Sequence[str] | None]) -> str:
    """Return *path* with a query; later *queries* win, and what is empty is left out."""
    together: dict[str, str | Sequence[str] | None] = {}
    for query in queries:
        together |= query
    kept = {name: value for name, value in together.items() if value}
    return f"{path}?{urlencode(kept, doseq=True)}" if kept else path


class Pager(NamedTuple):
    """Addresses of a list's next page and of its first one; None: there is none, or it is this one."""

    next: str | None
    first: str | None


def pager(path: str, chosen: Mapping[str, str | None], *, cursor: str | None, following: str | None) -> Pager:
    """Return the pager of the page at *cursor* of the list at *path*, filtered as *chosen*."""
    return Pager(
        address(path, chosen, {"cursor": following}) if following else None, address(path, chosen) if cursor else None
    )


def chips(path: str, chosen: Mapping[str, str], fields: Mapping[str, str]) -> list[Chip]:
    """Return each part of the filter *chosen*, with the address without it."""
    return [Chip(fields[name], value, address(path, chosen, {name: None})) for name, value in chosen.items()]
