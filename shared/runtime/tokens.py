"""
API tokens: parses the entries of a token list into callers and permissions. Pure.

    TOKEN                 an operator's
    reader:TOKEN          read-only
    service:TOKEN         one of our processes; it may act for another caller, named in the header `ON_BEHALF_OF`
    operator/NAME:TOKEN   with a name for the audit; likewise reader/NAME:TOKEN and service/NAME:TOKEN

The audit's actor is the token's name, or the name in `ON_BEHALF_OF` of a service; it never comes from a request's body.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Final
from urllib.parse import quote, unquote

#: Header in which a service names the caller it acts for; percent-encoded.
ON_BEHALF_OF: Final = "Modelswap-On-Behalf-Of"

_NAME: Final = r"[\w.@+-]{1,100}"
_ENTRY: Final = re.compile(rf"(?:(operator|reader|service)(?:/({_NAME}))?:)?([^\s:]+)")


@dataclass(frozen=True, slots=True)
class Caller:
    """The owner of a token."""

    name: str
    may_write: bool = True
    #: Whether it may use `ON_BEHALF_OF`.
    may_speak_for_others: bool = False


@dataclass(frozen=True, slots=True)
class Token:
    """A secret and its owner."""

    secret: str = field(repr=False)
    caller: Caller


def read_token(entry: str, *, plain: str = "operator") -> Token:
    """
    Parse one entry of a token list; *plain* is the name of an entry without scope and name.

    Raises:
        ValueError: if it is invalid; the message does not quote it.

    """
    match = _ENTRY.fullmatch(entry)
    if match is None:
        raise ValueError(
            "an entry is TOKEN, SCOPE:TOKEN or SCOPE/NAME:TOKEN, with reader, operator or service as its scope"
        )
    scope, name, secret = match[1], match[2], match[3]
    caller = Caller(name or scope or plain, may_write=scope != "reader", may_speak_for_others=scope == "service")
    return Token(secret, caller)


def to_header(name: str) -> str:
    """Encode *name* as the value of `ON_BEHALF_OF`."""
    return quote(name, safe="@+")


def from_header(value: str) -> str | None:
    """Decode the name in a value of `ON_BEHALF_OF`; None if it is invalid."""
    name = unquote(value)
    return name if re.fullmatch(_NAME, name) else None
