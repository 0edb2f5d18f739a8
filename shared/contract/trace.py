"""W3C trace context from outside: copied if well formed and short, dropped otherwise. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Final, TypeVar

Value = TypeVar("Value")

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
