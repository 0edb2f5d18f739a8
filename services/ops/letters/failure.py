"""
Where a message failed, how, and how often. Pure; nothing raises.

Read from our own headers, or, if a consumer crashed too often, from RabbitMQ's; else it is unknown.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, Protocol

from services.ops.letters.headers import NAME_LIMIT, Headers, to_count, to_name, to_time
from shared.contract.headers import ATTEMPT, DEAD, DEATHS, FAILED_AT
from shared.contract.text import clean

_TEXT_LIMIT: Final = 4096
_TRACEBACK_LIMIT: Final = 16_384
_UNKNOWN: Final = "unknown"
_DELIVERY_LIMIT: Final = "delivery_limit"


class Message(Protocol):
    """A message of the dead queue."""

    @property
    def routing_key(self) -> str: ...
    @property
    def headers(self) -> Headers: ...
    @property
    def content_type(self) -> str | None: ...
    @property
    def body(self) -> bytes: ...


@dataclass(frozen=True, slots=True)
class Failure:
    """Where a message failed, how, and how often."""

    queue: str
    routing_key: str
    text: str
    attempts: int
    first_at: datetime
    last_at: datetime
    exchange: str = ""
    code: str = _UNKNOWN
    #: The error's class.
    kind: str = "Unknown"
    traceback: str = ""


def failure_of(message: Message, now: datetime) -> Failure:
    headers = message.headers
    if f"{DEAD}queue" in headers:
        return _from_our_headers(message, now)
    deaths = headers.get(DEATHS)
    if isinstance(deaths, list) and (tables := [death for death in deaths if isinstance(death, Mapping)]):
        return _from_rabbitmqs_headers(message, tables, now)
    return Failure(
        queue=to_name(message.routing_key) or _UNKNOWN,
        routing_key=clean(message.routing_key, NAME_LIMIT),
        text="its headers do not say why it was dead-lettered",
        attempts=to_count(headers.get(ATTEMPT)),
        first_at=now,
        last_at=now,
    )


def _from_our_headers(message: Message, now: datetime) -> Failure:
    def said(name: str, limit: int = NAME_LIMIT) -> str:
        value = message.headers.get(DEAD + name, "")
        return clean(value if isinstance(value, str) else str(value), limit)

    last = to_time(said("last-failure")) or now
    return Failure(
        queue=said("queue") or _UNKNOWN,
        exchange=said("exchange"),
        routing_key=said("routing-key"),
        code=said("error") or _UNKNOWN,
        kind=said("class") or "Unknown",
        text=said("text", _TEXT_LIMIT),
        traceback=said("traceback", _TRACEBACK_LIMIT),
        attempts=to_count(message.headers.get(f"{DEAD}attempts")),
        first_at=to_time(said("first-failure")) or last,
        last_at=last,
    )


def _from_rabbitmqs_headers(message: Message, deaths: list[Mapping[str, Any]], now: datetime) -> Failure:
    # Expiry in a delay queue is listed as well, and is no failure.
    death = next((each for each in deaths if each.get("reason") == _DELIVERY_LIMIT), deaths[0])
    reason = clean(str(death.get("reason", _UNKNOWN)), NAME_LIMIT)
    at = to_time(death.get("time")) or now
    keys = death.get("routing-keys")
    crashed = reason == _DELIVERY_LIMIT
    return Failure(
        queue=to_name(death.get("queue")) or to_name(message.routing_key) or _UNKNOWN,
        exchange=to_name(death.get("exchange")) or "",
        routing_key=(to_name(keys[0]) if isinstance(keys, list) and keys else None) or "",
        code="crashed_too_often" if crashed else "dead_lettered",
        kind="CrashedTooOften" if crashed else "DeadLettered",
        text=(
            "it reached its delivery limit: its consumer crashed each time, or lost the connection"
            if crashed
            else f"RabbitMQ dead-lettered it: {reason}"
        ),
        attempts=to_count(message.headers.get(ATTEMPT)),
        first_at=to_time(message.headers.get(FAILED_AT)) or at,
        last_at=at,
    )
