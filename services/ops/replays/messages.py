"""
The message of a replayed dead letter: its own bytes and headers, and the mark of the replay. Pure.

An operator may edit the body, but neither its ids nor its kind of event; nor a public event on its way to webhook
endpoints, which get it signed. A webhook that the receiver set aside was never an event: it is translated with today's
code. Its signature was checked when it came; now it would be too old.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, Final
from uuid import UUID

from pydantic import JsonValue, ValidationError

from services.ops.letters.letter import ReplayMark, data_in, document_in
from shared.contract.answers import Mistake
from shared.contract.envelope import REPLAY_HEADER, TYPE_PREFIX, Envelope, is_structured, wrap
from shared.contract.errors import ModelswapError, PermanentError
from shared.contract.events import EVENTS, Event
from shared.contract.headers import RETRY_HEADERS, carried
from shared.contract.limits import EVENT_BYTES
from shared.contract.mistakes import mistakes_in
from shared.contract.preview import Message
from shared.contract.topology import DELIVERIES_QUEUE, RECEIVER
from shared.replicate.training import decode_training
from shared.replicate.translate import translate
from shared.replicate.webhook_url import origin_from_headers

#: These identify the event and its user, so they cannot be edited.
_IDS: Final = (
    *("training_id", "ref", "called_ref", "request_id", "user_id", "replay", "settled_by"),
    *("delivery_id", "endpoint_id", "sending"),
)
#: Whose model it is: proven by our signature. If the dead letter has none, state knows it, and it may be edited.
_DESTINATION: Final = "destination"


class EditRefused(PermanentError):
    """The edited body cannot replace the dead letter's own."""

    code = "edit_refused"

    def __init__(self, *mistakes: Mistake) -> None:
        super().__init__("; ".join(f"{mistake.pointer}: {mistake.detail}" for mistake in mistakes))
        self.mistakes = mistakes


@dataclass(frozen=True, slots=True)
class StoredLetter:
    """A dead letter, as far as publishing it again takes."""

    number: int
    queue: str
    headers: Mapping[str, Any]
    content_type: str | None
    body: bytes
    event_type: str | None
    training_id: str | None
    error_code: str
    first_failed_at: datetime


def headers_of(letter: StoredLetter, mark: ReplayMark) -> dict[str, str | int]:
    """Return the dead letter's own headers, as far as they can be published, and the mark."""
    own = {name: value for name, value in carried(letter.headers).items() if name not in RETRY_HEADERS}
    return {**own, REPLAY_HEADER: str(mark)}


def message_of(letter: StoredLetter, mark: ReplayMark) -> Message:
    """Return the dead letter as a request for a preview."""
    return Message.model_construct(
        None, headers=headers_of(letter, mark), content_type=letter.content_type, body=letter.body
    )


def translated(letter: StoredLetter, mark: ReplayMark) -> Envelope:
    """
    Translate the webhook in a *letter* of the receiver.

    Raises:
        NotATraining: if it is none.
        UnknownStatus: if its status is still none that is known.

    """
    event = translate(decode_training(letter.body), origin_from_headers(letter.headers), size_bytes=len(letter.body))
    return replace(wrap(event, source="receiver", now=letter.first_failed_at), replay=str(mark))


def edited(letter: StoredLetter, data: Mapping[str, JsonValue]) -> bytes:
    """
    Return the body of *letter* with *data* in place of its own.

    Raises:
        EditRefused: if an id differs, it would be no event of the same kind, or endpoints get it signed.

    """
    if letter.queue == RECEIVER:
        return _edited_webhook(letter, data)
    if letter.queue == DELIVERIES_QUEUE:
        raise EditRefused(Mistake(pointer="#", detail="cannot be edited: webhook endpoints get what was published"))
    known = _known_ids(letter)
    if "training_id" not in known:
        raise EditRefused(Mistake(pointer="#", detail="the dead letter itself does not say which training it is about"))
    _refuse_other_ids(known, data, _IDS if known.get(_DESTINATION) is None else (*_IDS, _DESTINATION))
    kind = _event_class(letter)
    try:
        kind.model_validate_json(json.dumps(data))
    except ValidationError as error:
        raise EditRefused(*mistakes_in(data, error.errors(), kind.model_json_schema())) from error
    body = _structured(letter, data) if is_structured(letter.content_type) else _encoded(data)
    if len(body) > EVENT_BYTES:
        raise EditRefused(Mistake(pointer="#", detail=f"takes {len(body)} bytes; {EVENT_BYTES} are allowed"))
    return body


def _encoded(data: Mapping[str, JsonValue]) -> bytes:
    return json.dumps(data, ensure_ascii=False).encode()


def _structured(letter: StoredLetter, data: Mapping[str, JsonValue]) -> bytes:
    document = {**json.loads(letter.body), "data": {**data}}
    try:
        # Escaped: the other attributes may hold half of a surrogate pair.
        return json.dumps(document, allow_nan=False).encode()
    except ValueError as error:
        detail = "another attribute of the event is NaN or infinite, which is no JSON"
        raise EditRefused(Mistake(pointer="#", detail=detail)) from error


def _edited_webhook(letter: StoredLetter, data: Mapping[str, JsonValue]) -> bytes:
    _refuse_other_ids({"id": letter.training_id, **document_in(letter.body)}, data, ("id",))
    body = _encoded(data)
    try:
        translated(replace(letter, body=body), ReplayMark(UUID(int=0), letter.number))
    except ModelswapError as error:
        raise EditRefused(Mistake(pointer="#", detail=str(error))) from error
    return body


def _known_ids(letter: StoredLetter) -> dict[str, JsonValue]:
    found = data_in(letter.content_type, letter.body) or {}
    known: dict[str, JsonValue] = {name: found[name] for name in (*_IDS, _DESTINATION) if name in found}
    if letter.training_id is not None:
        known.setdefault("training_id", letter.training_id)
    return known


def _refuse_other_ids(known: Mapping[str, JsonValue], data: Mapping[str, JsonValue], ids: Sequence[str]) -> None:
    others = [name for name in ids if data.get(name) != known.get(name)]
    if others:
        raise EditRefused(
            *(Mistake(pointer=f"#/{name}", detail=f"cannot be edited: it is {known.get(name)!r}") for name in others)
        )


def _event_class(letter: StoredLetter) -> type[Event]:
    in_body = is_structured(letter.content_type)
    attribute = document_in(letter.body).get("type") if in_body else letter.headers.get("ce-type")
    kind = EVENTS.get(str(attribute).removeprefix(TYPE_PREFIX))
    if kind is None:
        raise EditRefused(Mistake(pointer="#", detail=f"events of type {attribute!r} are not known"))
    return kind
