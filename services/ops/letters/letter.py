"""
What was a dead message? Pure: headers and bytes of any kind in, something that can be stored out; nothing raises.

A letter knows the message as it was published, where it was consumed, and how it failed. Where our own headers do not
say that (a consumer that crashed too often leaves only RabbitMQ's), it is read from RabbitMQ's; where nothing says it,
the letter says so.
"""

from __future__ import annotations

import base64
import hashlib
import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final, Protocol
from uuid import UUID

from shared.contract.dead import ATTEMPT, BROKERS_OWN, DEAD, DEATHS, FAILED_AT
from shared.contract.envelope import REPLAY_HEADER, TYPE_PREFIX, decode, is_structured
from shared.contract.errors import Malformed
from shared.contract.text import clean
from shared.contract.topology import RECEIVER

Headers = Mapping[str, Any]

_NAME_LIMIT: Final = 200
_TEXT_LIMIT: Final = 4096
_TRACEBACK_LIMIT: Final = 16_384
#: Tables in tables in tables: deeper ones are shown as text.
_DEPTH_LIMIT: Final = 16
#: A larger body is kept, but not searched for a training's id.
_SEARCHED_BYTES: Final = 4 * 1024 * 1024
_ATTEMPTS_MOST: Final = 2**31 - 1
_UNKNOWN: Final = "unknown"
_DELIVERY_LIMIT: Final = "delivery_limit"
_MARK: Final = re.compile(r"([0-9a-f-]{36}):([1-9][0-9]{0,18})")

#: In an error's text, what differs from one letter to the next. In order: what is longest first.
_VARIABLE: Final = tuple(
    (re.compile(pattern), put)
    for pattern, put in (
        (r"[a-z][a-z0-9+.-]*://[^\s'\"<>]+", "<url>"),
        (r"'[^']*'|\"[^\"]*\"|`[^`]*`", "<value>"),
        (r"\b[0-9a-fA-F]{8}-(?:[0-9a-fA-F]{4}-){3}[0-9a-fA-F]{12}\b", "<id>"),
        (r"\b[a-z0-9][\w.-]*/[\w.-]+(?::[\w-]+)?", "<model>"),
        (r"\b\d{4}-\d\d-\d\d[T ]\d\d:\d\d\S*", "<time>"),
        # A word of letters and digits mixed: an id of some kind. HTTP2 and utf8 are short.
        (r"\b(?=\w*\d)(?=\w*[a-zA-Z])\w{8,}\b", "<id>"),
        # What somebody answered is no mere number.
        (r"(?<!answered )(?<!status )(?<!said )(?<!HTTP )(?<!code )[-+]?(?<!\d)\d+(?:[.,:]\d+)*", "<n>"),
        (r"\s+", " "),
    )
)
_FINGERPRINT_TEXT: Final = 1000


class Message(Protocol):
    """What was taken from the dead queue."""

    @property
    def exchange(self) -> str: ...
    @property
    def routing_key(self) -> str: ...
    @property
    def headers(self) -> Headers: ...
    @property
    def content_type(self) -> str | None: ...
    @property
    def body(self) -> bytes: ...


@dataclass(frozen=True, slots=True)
class Mark:
    """Which replay of which letter a message is, as messages carry it: ``<replay's id>:<letter's number>``."""

    replay_id: UUID
    letter: int

    @classmethod
    def parse(cls, value: object) -> Mark | None:
        """Read one as it is written, and in no other form; None if it is something else."""
        match = _MARK.fullmatch(value) if isinstance(value, str) else None
        if match is None or int(match[2]) >= 2**63:
            return None
        try:
            return cls(UUID(match[1]), int(match[2]))
        except ValueError:
            return None

    def __str__(self) -> str:
        return f"{self.replay_id}:{self.letter}"


@dataclass(frozen=True, slots=True)
class Failure:
    """Where a message failed, how, and how often."""

    queue: str
    exchange: str
    routing_key: str
    code: str
    #: The error's class.
    kind: str
    text: str
    traceback: str
    attempts: int
    first_at: datetime
    last_at: datetime


@dataclass(frozen=True, slots=True)
class Letter:
    """A dead message, whatever it was."""

    digest: str
    fingerprint: str
    #: Its own headers, as JSON.
    headers: str
    content_type: str | None
    body: bytes
    event_type: str | None
    event_id: str | None
    training_id: str | None
    failure: Failure
    #: Set where an operator's replay brought it here.
    mark: Mark | None


def read(message: Message, *, now: datetime) -> Letter:
    """What *message* was; *now* is when it was taken, for those that do not say when they died."""
    failure = _failure(message, now)
    headers = message.headers
    document = _document(message.body)
    # An event in structured mode says of itself in the body what others say in headers.
    said = document if is_structured(message.content_type) else {}
    event_id = _name(headers.get("ce-id")) or _name(said.get("id")) or _name(headers.get("webhook-id"))
    event_type = _name(headers.get("ce-type")) or _name(said.get("type"))
    return Letter(
        digest=_identity(message, failure.queue, event_id),
        fingerprint=fingerprint(failure.queue, failure.code, failure.kind, failure.text),
        headers=json.dumps({_encodable(name): _plain(value) for name, value in headers.items() if not _is_added(name)}),
        content_type=_name(message.content_type),
        body=message.body,
        event_type=event_type.removeprefix(TYPE_PREFIX) if event_type else None,
        event_id=event_id,
        training_id=_training_id(document, failure.queue),
        failure=failure,
        mark=Mark.parse(headers.get(REPLAY_HEADER)),
    )


def _identity(message: Message, queue: str, event_id: str | None) -> str:
    """
    Equal for letters of one fact at one queue.

    Who handles a delivery once more publishes the same fact in other bytes: when, and how long its checks took. So an
    event whose id follows from what it says is known by its id. Any other message is known by its bytes.
    """
    fact = _fact(message)
    if fact is not None:
        return _digest(queue.encode(), b"fact", fact.encode())
    return _digest(queue.encode(), (event_id or "").encode(), message.body)


def _fact(message: Message) -> str | None:
    """The id of the event in *message*, if it is derived from what that says: another's body may say anything."""
    if len(message.body) > _SEARCHED_BYTES:
        return None
    try:
        envelope = decode(message.headers, message.content_type, message.body)
    except Malformed:
        return None
    return envelope.id if envelope.id == str(envelope.event.id) else None


def fingerprint(queue: str, code: str, kind: str, text: str) -> str:
    """Equal for failures that most likely have one cause."""
    return _digest(*(part.encode() for part in (queue, code, kind, normalised(text))))[:16]


def normalised(text: str) -> str:
    """*text* without what differs from one letter to the next: ids, numbers, whatever is quoted."""
    text = text[:_FINGERPRINT_TEXT]
    for pattern, put in _VARIABLE:
        text = pattern.sub(put, text)
    return text.strip()


def _failure(message: Message, now: datetime) -> Failure:
    headers = message.headers
    if f"{DEAD}queue" in headers:
        return _told_by_us(message, now)
    deaths = headers.get(DEATHS)
    if isinstance(deaths, list) and (tables := [death for death in deaths if isinstance(death, Mapping)]):
        return _told_by_the_broker(message, tables, now)
    return Failure(
        queue=_name(message.routing_key) or _UNKNOWN,
        exchange="",
        routing_key=clean(message.routing_key, _NAME_LIMIT),
        code=_UNKNOWN,
        kind="Unknown",
        text="nothing says how it came to the dead letters",
        traceback="",
        attempts=_count(headers.get(ATTEMPT)),
        first_at=now,
        last_at=now,
    )


def _told_by_us(message: Message, now: datetime) -> Failure:
    def said(name: str, limit: int = _NAME_LIMIT) -> str:
        value = message.headers.get(DEAD + name, "")
        return clean(value if isinstance(value, str) else str(value), limit)

    last = _time(said("last-failure")) or now
    return Failure(
        queue=said("queue") or _UNKNOWN,
        exchange=said("exchange"),
        routing_key=said("routing-key"),
        code=said("error") or _UNKNOWN,
        kind=said("class") or "Unknown",
        text=said("text", _TEXT_LIMIT),
        traceback=said("traceback", _TRACEBACK_LIMIT),
        attempts=_count(message.headers.get(f"{DEAD}attempts")),
        first_at=_time(said("first-failure")) or last,
        last_at=last,
    )


def _told_by_the_broker(message: Message, deaths: list[Mapping[str, Any]], now: datetime) -> Failure:
    # Its way through the delays is told as well: those are no deaths.
    death = next((each for each in deaths if each.get("reason") == _DELIVERY_LIMIT), deaths[0])
    reason = clean(str(death.get("reason", _UNKNOWN)), _NAME_LIMIT)
    at = _time(death.get("time")) or now
    keys = death.get("routing-keys")
    crashed = reason == _DELIVERY_LIMIT
    return Failure(
        queue=_name(death.get("queue")) or _name(message.routing_key) or _UNKNOWN,
        exchange=_name(death.get("exchange")) or "",
        routing_key=(_name(keys[0]) if isinstance(keys, list) and keys else None) or "",
        code="crashed_too_often" if crashed else "dead_lettered",
        kind="CrashedTooOften" if crashed else "DeadLettered",
        text=(
            "RabbitMQ gave it up: whoever consumed it crashed each time, or lost the connection"
            if crashed
            else f"RabbitMQ gave it up: {reason}"
        ),
        traceback="",
        attempts=_count(message.headers.get(ATTEMPT)),
        first_at=_time(message.headers.get(FAILED_AT)) or at,
        last_at=at,
    )


def _is_added(name: str) -> bool:
    """Was this header put there after the message was published?"""
    return name.startswith(BROKERS_OWN) or name in (ATTEMPT, FAILED_AT)


def _plain(value: object, depth: int = 0) -> Any:
    """*value* of a header as JSON can hold it."""
    plain: Any = clean(str(value))
    match value:
        # Postgres can not look into JSON with a NUL.
        case str() if "\x00" in value:
            plain = {"base64": base64.b64encode(value.encode("utf-8", "replace")).decode()}
        case str():
            plain = _encodable(value)
        case None | bool() | int():
            plain = value
        case float() if math.isfinite(value):
            plain = value
        case bytes() | bytearray():
            plain = {"base64": base64.b64encode(value).decode()}
        case datetime():
            plain = value.isoformat()
        case list() | tuple() if depth < _DEPTH_LIMIT:
            plain = [_plain(each, depth + 1) for each in value]
        case Mapping() if depth < _DEPTH_LIMIT:
            plain = {_encodable(str(name)): _plain(each, depth + 1) for name, each in value.items()}
    return plain


def _encodable(text: str) -> str:
    """*text* without NUL, and without halves of surrogate pairs, which no bytes stand for."""
    return text.replace("\x00", "\N{REPLACEMENT CHARACTER}").encode("utf-8", "replace").decode()


def _document(body: bytes) -> Mapping[str, Any]:
    """What *body* says, if it is a JSON object."""
    if len(body) > _SEARCHED_BYTES:
        return {}
    try:
        document = json.loads(body)
    except (ValueError, RecursionError):
        return {}
    return document if isinstance(document, dict) else {}


def _training_id(document: Mapping[str, Any], queue: str) -> str | None:
    match document:
        # A webhook that could not be read as an event.
        case {"id": str(found)} if queue == RECEIVER:
            return _name(found)
        # The second is an event in structured mode.
        case {"training_id": str(found)} | {"data": {"training_id": str(found)}}:
            return _name(found)
    return None


def _name(value: object) -> str | None:
    return clean(value, _NAME_LIMIT) or None if isinstance(value, str) else None


def _count(value: object) -> int:
    return value if isinstance(value, int) and 0 < value <= _ATTEMPTS_MOST else 1


def _time(value: object) -> datetime | None:
    if isinstance(value, str):
        try:
            value = datetime.fromisoformat(value)
        except ValueError:
            return None
    if not isinstance(value, datetime):
        return None
    try:
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)
    except (OverflowError, ValueError):
        return None


def _digest(*parts: bytes) -> str:
    found = hashlib.sha256()
    for part in parts:
        # With its length, so that nothing can move from one part to the next.
        found.update(len(part).to_bytes(8))
        found.update(part)
    return found.hexdigest()
