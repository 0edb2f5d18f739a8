"""
Who asks, and what may they do? Pure: what stands in a list of tokens.

    TOKEN                 an operator's
    reader:TOKEN          may look, and change nothing
    service:TOKEN         one of our processes, which may also say for whom it asks, in the header `ON_BEHALF_OF`
    operator/NAME:TOKEN   with the name that the audit gets; likewise reader/NAME:TOKEN and service/NAME:TOKEN

The audit's actor is the name of the token, or the name that a service's token asks for; a request's body never says it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Final
from urllib.parse import quote, unquote

#: The header in which a service says for whom it asks: a name, as tokens have one, percent-encoded.
ON_BEHALF_OF: Final = "Modelswap-On-Behalf-Of"

_NAME: Final = r"[\w.@+-]{1,100}"
_ENTRY: Final = re.compile(rf"(?:(operator|reader|service)(?:/({_NAME}))?:)?([^\s:]+)")
_READER: Final = "reader"
_OPERATOR: Final = "operator"
_SERVICE: Final = "service"


@dataclass(frozen=True, slots=True)
class Caller:
    """Whoever has a token."""

    name: str
    may_write: bool = True
    #: May it ask in the name of another?
    may_speak_for_others: bool = False


@dataclass(frozen=True, slots=True)
class Token:
    """A secret and whose it is."""

    secret: str = field(repr=False)
    caller: Caller


def read_token(entry: str, *, plain: str = _OPERATOR) -> Token:
    """
    Read one entry of a list of tokens; *plain* is the name of a token that stands alone.

    Raises:
        ValueError: if it is none; the message does not show it.

    """
    match = _ENTRY.fullmatch(entry)
    if match is None:
        raise ValueError(
            "an entry is TOKEN, SCOPE:TOKEN or SCOPE/NAME:TOKEN, with reader, operator or service as its scope"
        )
    scope, name, secret = match[1], match[2], match[3]
    caller = Caller(name or scope or plain, may_write=scope != _READER, may_speak_for_others=scope == _SERVICE)
    return Token(secret, caller)


def to_header(name: str) -> str:
    """The value of `ON_BEHALF_OF` that says *name*."""
    return quote(name, safe="@+")


def from_header(value: str) -> str | None:
    """The name in a value of `ON_BEHALF_OF`; None: it is none."""
    name = unquote(value)
    return name if re.fullmatch(_NAME, name) else None
