"""
Identifiers of users, trainings and models. Pure.

*user*       the product's own opaque id: 1 to 200 printable characters
*training*   Replicate's id of one training
*ref*        our own id of a training (UUID), drawn before Replicate knows of it; no training id looks like one
*model*      ``owner/name`` on Replicate
*model ref*  ``owner/name:version``, where version is 64 lower-case hexadecimal digits
*event*      a UUID derived from what the event states, so that equal facts have equal ids

Replicate documents no grammar for owner and name. The one here covers every public model observed (2026-01): lower
case, digits and ``-_`` (``.`` too, in names), a letter or digit at both ends. It is checked with `fullmatch` on ASCII.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from hashlib import sha1
from typing import Annotated, Final, NamedTuple, Self
from uuid import UUID

from pydantic import GetCoreSchemaHandler, StringConstraints
from pydantic_core import CoreSchema, core_schema

from shared.contract.checked import PRINTABLE, Checked

_OWNER = r"[a-z0-9](?:[a-z0-9_-]{0,62}[a-z0-9])?"
_NAME = r"[a-z0-9](?:[a-z0-9._-]{0,126}[a-z0-9])?"
#: The pattern of a version.
VERSION = r"[0-9a-f]{64}"
_MODEL_NAME = re.compile(rf"({_OWNER})/({_NAME})", re.ASCII)
_MODEL_REF = re.compile(rf"({_OWNER})/({_NAME}):({VERSION})", re.ASCII)
_REF = re.compile(r"[0-9a-f]{32}", re.ASCII | re.IGNORECASE)
#: Namespace of the ids of events.
_FACTS: Final = UUID("5b0f6d52-3c1e-5f0e-9a55-6d6f64737770").bytes


def parse_ref(text: str) -> UUID | None:
    """Return the ref in *text* (upper or lower case, with or without hyphens), or None if it is not a UUID."""
    digits = text.replace("-", "")
    return UUID(digits) if _REF.fullmatch(digits) else None


def event_id(fact: str) -> str:
    """Return the id of the event that states *fact*: that of `uuid.uuid5`, which takes three times as long."""
    digest = bytearray(sha1(_FACTS + fact.encode(), usedforsecurity=False).digest()[:16])
    digest[6] = digest[6] & 0x0F | 0x50  # version 5
    digest[8] = digest[8] & 0x3F | 0x80  # the variant of RFC 9562
    text = digest.hex()
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"


def _no_ref(text: str) -> str:
    if parse_ref(text) is not None:
        raise ValueError("looks like a ref, which is an id of modelswap's own, and not like one of Replicate's")
    return text


#: The product's own opaque id of a user.
UserId = Annotated[str, StringConstraints(min_length=1, max_length=200), PRINTABLE]

#: A training in a URL path, by Replicate's id or by our ref: `parse_ref` tells which.
TrainingName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]{0,127}$")]
#: Replicate's id of a training: 26 characters of lower-case base 32 as observed; anything that is safe in a path here.
TrainingId = Annotated[TrainingName, Checked(_no_ref)]


def _text_schema(kind: str, pattern: str, of: type[object], parse: Callable[[str], object]) -> CoreSchema:
    """Build a schema that is a string in JSON and an instance of *of* in Python."""

    def from_text(text: str) -> object:
        parsed = parse(text)
        if parsed is None:
            raise ValueError(f"{text[:200]!r} is not {kind}")
        return parsed

    text_schema = core_schema.no_info_after_validator_function(
        from_text,
        core_schema.str_schema(max_length=400),
        metadata={"pydantic_js_updates": {"pattern": f"^{pattern}$"}},
    )
    return core_schema.json_or_python_schema(
        json_schema=text_schema,
        python_schema=core_schema.union_schema(
            [core_schema.is_instance_schema(of), text_schema],
            # One error for the union, not one per member.
            custom_error_type="identity",
            custom_error_message=f"must be {kind}",
        ),
        serialization=core_schema.to_string_ser_schema(),
    )


class ModelName(NamedTuple):
    """``owner/name``"""

    owner: str
    name: str

    @classmethod
    def parse(cls, text: str) -> Self | None:
        match = _MODEL_NAME.fullmatch(text)
        return cls(*match.groups()) if match else None

    def __str__(self) -> str:
        return f"{self.owner}/{self.name}"

    @classmethod
    def __get_pydantic_core_schema__(cls, source: object, handler: GetCoreSchemaHandler) -> CoreSchema:
        return _text_schema("a model name of the form owner/name", _MODEL_NAME.pattern, cls, cls.parse)

    def at(self, version: str) -> ModelRef | None:
        """Return the model ref of this model's *version*; None if that is not 64 lower-case hex digits."""
        return ModelRef.parse(f"{self}:{version}")


class ModelRef(NamedTuple):
    """``owner/name:version``"""

    owner: str
    name: str
    version: str

    @classmethod
    def parse(cls, text: str) -> Self | None:
        match = _MODEL_REF.fullmatch(text)
        return cls(*match.groups()) if match else None

    def __str__(self) -> str:
        return f"{self.owner}/{self.name}:{self.version}"

    @classmethod
    def __get_pydantic_core_schema__(cls, source: object, handler: GetCoreSchemaHandler) -> CoreSchema:
        return _text_schema(
            "a model ref of the form owner/name:version (64 lower-case hex digits)", _MODEL_REF.pattern, cls, cls.parse
        )

    @property
    def model(self) -> ModelName:
        """The model that this is a version of."""
        return ModelName(self.owner, self.name)
