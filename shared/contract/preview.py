"""
Previews: request and response of a dry run of a message's handler, used by operators' tools. Pure.

The service runs its real handler without effect: nothing is published, every transaction is rolled back, and Replicate
gets only calls that cost nothing. ``POST /preview`` at the extractor, ``POST /v1/preview`` at state; both need a token.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Final, Self

from pydantic import Base64Bytes, BaseModel, BeforeValidator, ConfigDict, WithJsonSchema

from shared.contract.envelope import CONTENT_TYPE, Envelope, decode
from shared.contract.errors import ModelswapError, TransientError, code_of

_BASE64: Final = r"^(?:[A-Za-z0-9+/]{4})*(?:[A-Za-z0-9+/]{2}==|[A-Za-z0-9+/]{3}=)?$"


def _base64(value: object) -> object:
    # Python's decoder silently skips characters outside the alphabet.
    if isinstance(value, str) and not re.fullmatch(_BASE64, value):
        raise ValueError("must be text in base64")
    return value


Bytes = Annotated[
    Base64Bytes,
    BeforeValidator(_base64),
    WithJsonSchema({"type": "string", "format": "base64", "pattern": _BASE64}),
]


class Message(BaseModel):
    """An event's message as published: headers and body."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    headers: Mapping[str, str | int | float | bool | None]
    content_type: str | None = CONTENT_TYPE
    #: Base64 in JSON, because a message need not be text.
    body: Bytes

    @classmethod
    def of(cls, envelope: Envelope) -> Message:
        # Not validated: the validator would decode the raw body as base64.
        return cls.model_construct(None, headers=envelope.headers(), content_type=CONTENT_TYPE, body=envelope.body())

    def decode(self) -> Envelope:
        """
        Decode the event.

        Raises:
            Malformed: if a consumer could not decode it either.

        """
        return decode(self.headers, self.content_type, self.body)


class Refusal(BaseModel):
    """How a delivery would fail."""

    model_config = ConfigDict(frozen=True)

    #: Stable error code; ``unexpected`` for an error that is not a `ModelswapError`.
    code: str
    #: The class of the error.
    kind: str
    text: str
    #: True if the delivery would be retried, false if it would be dead-lettered at once.
    is_transient: bool

    @classmethod
    def of(cls, error: Exception) -> Self:
        named = isinstance(error, ModelswapError)
        return cls(
            code=code_of(error),
            kind=type(error).__name__,
            text=str(error),
            is_transient=isinstance(error, TransientError) or not named,
        )


class Answer(BaseModel):
    """The result of a preview."""

    model_config = ConfigDict(frozen=True)

    #: The events that would be published, in order.
    messages: tuple[Message, ...] = ()
    #: Why there are none.
    refusal: Refusal | None = None
