"""
Who asks, and what may they do? Pure: what stands in a list of tokens.

    TOKEN                 an operator's
    reader:TOKEN          may look, and change nothing
    operator/NAME:TOKEN   with the name that the audit gets; likewise reader/NAME:TOKEN
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Final

_ENTRY: Final = re.compile(r"(?:(operator|reader)(?:/([\w.@+-]{1,100}))?:)?([^\s:]+)")
_READER: Final = "reader"
_OPERATOR: Final = "operator"


@dataclass(frozen=True, slots=True)
class Caller:
    """Whoever has a token."""

    name: str
    may_write: bool = True


@dataclass(frozen=True, slots=True)
class Token:
    """A secret and whose it is."""

    secret: str = field(repr=False)
    caller: Caller


def read_token(entry: str) -> Token:
    """
    Read one entry of a list of tokens.

    Raises:
        ValueError: if it is none; the message does not show it.

    """
    match = _ENTRY.fullmatch(entry)
    if match is None:
        raise ValueError("an entry is TOKEN, SCOPE:TOKEN or SCOPE/NAME:TOKEN, with reader or operator as its scope")
    scope, name, secret = match[1] or _OPERATOR, match[2], match[3]
    return Token(secret, Caller(name or scope, may_write=scope == _OPERATOR))
