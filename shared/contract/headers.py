"""
Headers of messages: the record of failed attempts, the trace context, and what a copy of a message keeps. Pure.

``x-attempt``      1-based number of this attempt. Our own, because RabbitMQ's counters differ between versions.
``x-published-at`` when the message was published first: a retry is published anew.
``x-failed-at``    when the first attempt failed.
``x-failed-by``    error code of the attempt before this one.
``x-dead-*``       on a dead letter: its queue, its error, the number of attempts, and its original exchange and key.
``traceparent``, ``tracestate``  W3C trace context: copied if well formed and short, dropped otherwise.

The attributes of an event (``ce-*``) are in `envelope`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Final, TypeVar

from shared.contract.limits import clip

Value = TypeVar("Value")

ATTEMPT: Final = "x-attempt"
PUBLISHED_AT: Final = "x-published-at"
FAILED_AT: Final = "x-failed-at"
FAILED_BY: Final = "x-failed-by"
#: On a retry.
RETRY_HEADERS: Final = (ATTEMPT, PUBLISHED_AT, FAILED_AT, FAILED_BY)
DEAD: Final = "x-dead-"
#: Added by RabbitMQ when it dead-letters a message itself; the newest death first.
DEATHS: Final = "x-death"
#: Added by RabbitMQ to each delivery from a stream: the place of the message in it.
OFFSET: Final = "x-stream-offset"
_ATTEMPTS_MOST: Final = 2**31 - 1
#: Not copied to another message: headers that the broker adds in a delay queue or a stream, or that describe a death.
BROKERS_OWN: Final = (DEATHS, "x-first-death", "x-last-death", "x-delivery-count", "x-acquired-count", OFFSET, DEAD)

#: Plain headers, as OpenTelemetry expects.
TRACE_HEADERS: Final = ("traceparent", "tracestate")

#: W3C requires that at least this much of a tracestate is propagated.
_STATE_CHARACTERS: Final = 512
_STATE_MEMBERS: Final = 32
_PARENT_CHARACTERS: Final = 256
#: Bit of the flags.
_SAMPLED: Final = 1
# A later version may append fields to the four of version 00.
_PARENT: Final = re.compile(
    r"(?P<version>(?!ff)[0-9a-f]{2})-(?P<known>(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2})"
    r"(?P<more>-[\x21-\x7e]*)?"
)
_MEMBER: Final = re.compile(
    r"(?P<key>[a-z0-9][a-z0-9_*/@-]{0,255})=[\x20-\x2b\x2d-\x3c\x3e-\x7e]{0,255}[\x21-\x2b\x2d-\x3c\x3e-\x7e]"
)

_NAME_BYTES: Final = 128
_VALUE_BYTES: Final = 4096
_OUR_VALUE_BYTES: Final = 1024
#: Bound for all copied headers together. The rest of the frame is for the `x-dead-*` headers and the broker's own.
_CARRIED_BYTES: Final = 32 * 1024
#: Per header field: its type, its length, and the length of its name.
_FIELD_OVERHEAD_BYTES: Final = 6
_INTEGER_BYTES: Final = 8
#: RabbitMQ routes by these, and refuses a message in which they are not lists.
ROUTING_HEADERS: Final = ("CC", "BCC")
#: Copied before all other headers.
_OURS: Final = frozenset(
    {
        *(f"ce-{name}" for name in ("specversion", "id", "type", "source", "time", "subject", "causationid")),
        *(f"ce-{name}" for name in ("replay", "trigger")),
        *TRACE_HEADERS,
        *RETRY_HEADERS,
    }
)


def attempt_in(headers: Mapping[str, object]) -> int:
    """Return the 1-based number of this attempt."""
    attempt = headers.get(ATTEMPT)
    return min(attempt, _ATTEMPTS_MOST) if isinstance(attempt, int) and attempt > 0 else 1


def carried(headers: Mapping[str, object]) -> dict[str, str | int]:
    """Return the headers for a copy of a message: bounded in size, without those that affect routing or retries."""
    kept: dict[str, str | int] = {}
    left = _CARRIED_BYTES
    for name in sorted(headers, key=lambda name: name not in _OURS):
        if name in ROUTING_HEADERS or name.startswith(BROKERS_OWN):
            continue
        value = _plain(headers[name], _OUR_VALUE_BYTES if name in _OURS else _VALUE_BYTES)
        name_bytes = len(name.encode("utf-8", "replace"))
        size = name_bytes + _FIELD_OVERHEAD_BYTES + (_INTEGER_BYTES if isinstance(value, int) else len(value.encode()))
        if name_bytes <= _NAME_BYTES and size <= left:
            kept[name] = value
            left -= size
    return kept


def _plain(value: object, size_bytes: int) -> str | int:
    # Floats become text: the client would write them rounded, or not at all.
    if isinstance(value, int) and -(2**63) <= value < 2**63:
        return value
    return clip(str(value), size_bytes)


def trace_context(parents: Sequence[object], states: Sequence[object]) -> dict[str, str]:
    """
    Return the trace context in the values of the ``traceparent`` and ``tracestate`` headers; empty if invalid.

    Exactly one valid traceparent is required; a tracestate is copied only with it.
    """
    parent = _read_parent(parents)
    if parent is None:
        return {}
    state = _read_state(states)
    return {"traceparent": parent, **({"tracestate": state} if state else {})}


def trace_in(headers: Mapping[str, object]) -> dict[str, str]:
    """Return the trace context in a message's *headers*; empty if there is none, or no valid one."""
    if TRACE_HEADERS[0] not in headers:
        return {}
    return trace_context(*([headers[name]] if name in headers else [] for name in TRACE_HEADERS))


def in_trace(headers: Mapping[str, Value], trace: Mapping[str, str]) -> dict[str, Value | str]:
    """Return *headers* with *trace* in place of their own trace context."""
    return {**{name: value for name, value in headers.items() if name not in TRACE_HEADERS}, **trace}


def trace_id_in(parent: object) -> str | None:
    """Return the trace id of a valid traceparent, else None."""
    valid = _read_parent([parent])
    return valid.split("-")[1] if valid else None


def sampled_trace_id_in(parent: object) -> str | None:
    """Return the trace id of a valid traceparent whose trace is kept, else None."""
    valid = _read_parent([parent])
    return valid.split("-")[1] if valid and int(valid[-2:], 16) & _SAMPLED else None


def _read_parent(values: Sequence[object]) -> str | None:
    match values:
        case [str(text)] if len(text) <= _PARENT_CHARACTERS and (found := _PARENT.fullmatch(text)):
            if found["version"] == "00":
                return text if found["more"] is None else None
            # W3C: treat a later version as version 00, with the fields known here.
            return f"00-{found['known']}"
    return None


def _read_state(values: Sequence[object]) -> str | None:
    match values:
        case [str(text)] if len(text) <= _STATE_CHARACTERS:
            members = [member for part in text.split(",") if (member := part.strip(" \t"))]
            found = [_MEMBER.fullmatch(member) for member in members]
            keys = {each["key"] for each in found if each is not None}
            if len(keys) == len(members) <= _STATE_MEMBERS:
                return ",".join(members) or None
    return None
