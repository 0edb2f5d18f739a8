"""How values are written on a page: times, durations, numbers, sizes, JSON; the colour of each status. Pure."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from itertools import pairwise
from typing import Any, Final

from markupsafe import Markup

from shared.contract.text import plural

#: The colour of each status, by what has it: good, info, warn, bad or quiet; one that is not named is quiet. *none* is
#: the colour of what has not begun.
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
#: Where there is no value.
NOTHING: Final = "\N{EN DASH}"
_MINUTE: Final = 60
_UNITS: Final = ((86_400, "d"), (3600, "h"), (_MINUTE, "min"), (1, "s"))
#: Up to this many seconds are written with a decimal.
_PRECISE: Final = 10
_KILO: Final = 1024
_LEAST_PERCENT: Final = 0.1
_HIDDEN: Final = re.compile(
    r"[\x00-\x08\x0b-\x1f\x7f-\x9f\xad\u061c\u200b-\u200f\u2028-\u202e\u2060-\u206f\ud800-\udfff\ufeff\ufff9-\ufffb]"
)
#: The version of a model ref, wherever it stands in a text: the beginning is enough to compare.
_VERSION: Final = re.compile(r":([0-9a-f]{8})[0-9a-f]{56}\b", re.ASCII)


def iso(moment: datetime) -> str:
    """Return *moment* for the attribute ``datetime`` of an element ``time``."""
    return moment.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def utc(moment: datetime) -> str:
    """Return *moment* for people, in UTC."""
    return f"{moment.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC"


def duration(seconds: float) -> str:
    """Return a duration in its two largest units, such as ``1 h 5 min``."""
    if seconds < 0:
        return f"-{duration(-seconds)}"
    whole = round(seconds)
    for (size, name), (smaller, smaller_name) in pairwise(_UNITS):
        if whole >= size:
            rest = whole % size // smaller
            return f"{whole // size} {name}" + (f" {rest} {smaller_name}" if rest else "")
    if seconds < 1:
        return f"{round(seconds * 1000)} ms"
    return f"{seconds:.1f} s" if seconds < _PRECISE else f"{whole} s"


def roughly(seconds: float) -> str:
    """Return a duration as an estimate: to the minute, or to the second below one."""
    return duration(seconds if seconds < _MINUTE else round(seconds / _MINUTE) * _MINUTE)


def ago(seconds: float) -> str:
    """Return how long ago something was, or how soon it will be, in its largest unit."""
    distance = abs(seconds)
    for size, name in _UNITS:
        if distance >= size:
            said = f"{int(distance // size)} {name}"
            return f"in {said}" if seconds < 0 else f"{said} ago"
    return "now"


def number(value: float) -> str:
    """Return a number with its thousands apart."""
    return f"{value:,}" if isinstance(value, int) else f"{value:,.1f}"


def percent(share: float) -> str:
    """Return a share, 0 to 1, in percent: what is not zero is not shown as zero."""
    value = share * 100
    return "under 0.1 %" if 0 < value < _LEAST_PERCENT else f"{value:.1f}".removesuffix(".0") + " %"


def size(count: int) -> str:
    if count < _KILO:
        return f"{count} B"
    amount = count / _KILO
    for unit in ("KiB", "MiB"):
        if amount < _KILO:
            return f"{amount:.1f} {unit}"
        amount /= _KILO
    return f"{amount:.1f} GiB"


def visible(value: object) -> object:
    """
    Return *value* with its control characters, halves of surrogate pairs, and what turns the direction, as escapes.

    Else a text could hide a part of itself, or show ``exe.png`` for a name that ends in ``.exe``; and with half a pair
    (an emoji that was cut) no page could be sent.
    """
    if not isinstance(value, str) or not _HIDDEN.search(value):
        return value
    shown = _HIDDEN.sub(lambda found: f"\\u{ord(found[0]):04x}", value)
    return Markup(shown) if isinstance(value, Markup) else shown  # noqa: S704 (as safe as it was)


def shape(value: object) -> str:
    """Return what kind of JSON *value* is, for a template that walks through it."""
    match value:
        case Mapping():
            return "object"
        case str():
            return "text"
        case Sequence():
            return "list"
        case None | bool() | int() | float():
            return "literal"
    return "text"


def literal(value: object) -> str:
    """Return null, a boolean or a number as JSON writes it."""
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def short_models(text: str) -> str:
    """Return *text* with each model ref as ``owner/name:01234567…``."""
    return _VERSION.sub(r":\1…", text)


def kind(status: str, of: str) -> str:
    """Return the colour of the *status* of a stage, letter, replay, outcome, change, endpoint, delivery or action."""
    return _KINDS[of].get(status, "quiet")


FILTERS: Final[Mapping[str, Callable[..., Any]]] = {
    "iso": iso,
    "utc": utc,
    "duration": duration,
    "number": number,
    "plural": plural,
    "size": size,
    "shape": shape,
    "literal": literal,
    "short_models": short_models,
    "kind": kind,
}
