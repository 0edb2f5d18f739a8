"""
A dead letter: the message as it was published, where it was consumed, and how it failed. Pure.

Headers and bytes of any kind become something that can be stored; nothing raises.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final
from uuid import UUID

from pydantic import BaseModel

from services.ops.letters.failure import Failure, Message, failure_of
from services.ops.letters.fingerprint import digest_of, fingerprint
from services.ops.letters.headers import to_encodable, to_name, to_plain
from shared.contract.envelope import REPLAY_HEADER, TYPE_PREFIX, decode, is_structured
from shared.contract.errors import Malformed
from shared.contract.headers import BROKERS_OWN, RETRY_HEADERS
from shared.contract.topology import EXTRACTOR_QUEUE, RECEIVER, STATE_QUEUE

#: A larger body is kept, but neither searched for a training's id nor edited.
SEARCHED_BYTES: Final = 4 * 1024 * 1024
#: JSON that takes more than this with one field a line is shown in one line. (2026-11: 64 KiB of nested lists took
#: 58 MB, and 3 s of CPU.)
_INDENTED_CHARACTERS: Final = 4 * 1024 * 1024
_INDENTED: Final = json.JSONEncoder(indent=2, ensure_ascii=False)
_MARK: Final = re.compile(r"([0-9a-f-]{36}):([1-9][0-9]{0,18})")
#: The queues of events that move a training to its end. One about anything else is not closed by that end.
CLOSED_QUEUES: Final = (EXTRACTOR_QUEUE, STATE_QUEUE)
#: Stages with a model, as state calls them, and stages without.
_WITH_MODEL: Final = ("active", "replaced", "superseded")
_WITHOUT: Final = ("failed", "canceled")


@dataclass(frozen=True, slots=True)
class ReplayMark:
    """The header ``ce-replay``, ``<replay id>:<dead letter>``: which replay of which dead letter a message is."""

    replay_id: UUID
    letter: int

    @classmethod
    def parse(cls, value: object) -> ReplayMark | None:
        """Parse the one form that is written; None for anything else."""
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
class DeadLetter:
    """A dead letter, of a message of any kind."""

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
    #: Set if it failed in an operator's replay.
    mark: ReplayMark | None


def to_dead_letter(message: Message, *, now: datetime) -> DeadLetter:
    """Parse a message of the dead queue; *now* is the time of its failure if it has none."""
    failure = failure_of(message, now)
    headers = message.headers
    document = document_in(message.body)
    # An event in structured mode has its attributes in the body, not in headers.
    said = document if is_structured(message.content_type) else {}
    event_id = to_name(headers.get("ce-id")) or to_name(said.get("id")) or to_name(headers.get("webhook-id"))
    event_type = to_name(headers.get("ce-type")) or to_name(said.get("type"))
    return DeadLetter(
        digest=_identity(message, failure.queue, event_id),
        fingerprint=fingerprint(failure.queue, failure.code, failure.kind, failure.text),
        headers=json.dumps(
            {to_encodable(name): to_plain(value) for name, value in headers.items() if not _is_added(name)}
        ),
        content_type=to_name(message.content_type),
        body=message.body,
        event_type=event_type.removeprefix(TYPE_PREFIX) if event_type else None,
        event_id=event_id,
        training_id=_training_id(document, failure.queue),
        failure=failure,
        mark=ReplayMark.parse(headers.get(REPLAY_HEADER)),
    )


def _identity(message: Message, queue: str, event_id: str | None) -> str:
    """
    Return a digest that is equal for dead letters of one fact at one queue.

    A repeated delivery publishes the same fact in other bytes: the time, and how long checks took. So an event whose id
    is derived from its content is identified by its id, and any other message by its bytes.
    """
    fact = _fact(message)
    if fact is not None:
        return digest_of(queue.encode(), b"fact", fact.encode())
    return digest_of(queue.encode(), (event_id or "").encode(), message.body)


def _fact(message: Message) -> str | None:
    """Return the id of the event in *message* if it is derived from its content; else it may be forged."""
    if len(message.body) > SEARCHED_BYTES:
        return None
    try:
        envelope = decode(message.headers, message.content_type, message.body)
    except Malformed:
        return None
    return envelope.id if envelope.id == envelope.event.id else None


def _is_added(name: str) -> bool:
    """Return whether this header was added after the message was published."""
    return name.startswith(BROKERS_OWN) or name in RETRY_HEADERS


def document_in(body: bytes) -> Mapping[str, Any]:
    """Return *body* if it is a JSON object, else an empty one."""
    return _find_document(body) or {}


def _find_document(body: bytes) -> Mapping[str, Any] | None:
    if len(body) > SEARCHED_BYTES:
        return None
    try:
        document = json.loads(body)
    except (ValueError, RecursionError):
        return None
    return document if isinstance(document, dict) else None


def data_in(content_type: str | None, body: bytes) -> Mapping[str, Any] | None:
    """Return the data of the event in *body*: a part of it in structured mode. None if that is no JSON object."""
    document = _find_document(body)
    data = document.get("data") if document is not None and is_structured(content_type) else document
    return data if isinstance(data, dict) else None


def editable(queue: str, content_type: str | None, body: bytes) -> str | None:
    """
    Return what an operator may edit in *body*, as `indented` JSON: an event's data, or a webhook as it is.

    None: it holds no JSON object, is nested too deeply or takes more than 4 MiB.
    """
    data = data_in(None if queue == RECEIVER else content_type, body)
    try:
        return indented(data) if data is not None else None
    except RecursionError:
        return None


def indented(value: object) -> str:
    """
    Return *value* as JSON for people, with one field a line; in one line if the indentation takes too much.

    Raises:
        RecursionError: if it is nested too deeply.

    """
    pieces, size = [], 0
    for piece in _INDENTED.iterencode(value):
        size += len(piece)
        if size > _INDENTED_CHARACTERS:
            return json.dumps(value, ensure_ascii=False)
        pieces.append(piece)
    return "".join(pieces)


def _training_id(document: Mapping[str, Any], queue: str) -> str | None:
    match document:
        # A webhook that the receiver could not translate.
        case {"id": str(found)} if queue == RECEIVER:
            return to_name(found)
        # The second is an event in structured mode.
        case {"training_id": str(found)} | {"data": {"training_id": str(found)}}:
            return to_name(found)
    return None


class LetterTraining(BaseModel):
    """The training of a dead letter, as state shows it."""

    #: Replicate's id of it.
    training_id: str | None = None
    user_id: str
    stage: str
    #: Its model, once verified.
    reference: str | None = None


def why_closed(training: LetterTraining) -> str | None:
    """
    Return why open dead letters of *training* need no repair any more; None if they stay open.

    State changes a training that has ended only by a rollback: a replay of the dead letter would do nothing.
    """
    if training.stage in _WITH_MODEL and training.reference is not None:
        return f"by another event the training got its model, {training.reference}, and is {training.stage}"
    return f"by another event the training is {training.stage}" if training.stage in _WITHOUT else None
