"""
Sessions of the console: a signed cookie, its CSRF token, and the sentence that the next page shows. Pure.

Each signature's key is derived from the secret of the token that signed in. So every replica of ops accepts a session
without a setting of its own, and to rotate a token ends its sessions.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final, Literal, TypeVar

from itsdangerous import BadData, URLSafeSerializer
from pydantic import BaseModel, ConfigDict, ValidationError

from shared.runtime.tokens import Token

M = TypeVar("M", bound=BaseModel)

LASTS: Final = timedelta(hours=8)
_SESSION: Final = "modelswap console session"
_CSRF: Final = b"modelswap console csrf "
_FLASH: Final = "modelswap console flash"
#: Longer ones are not ours.
_LONGEST: Final = 4096


@dataclass(frozen=True, slots=True)
class Session:
    """A person who signed in with *token*."""

    token: Token
    #: The person's name in the audit.
    name: str
    nonce: str
    expires_at: datetime

    @property
    def may_write(self) -> bool:
        return self.token.caller.may_write

    @property
    def role(self) -> Literal["operator", "reader"]:
        return "operator" if self.may_write else "reader"


#: How a sentence about what was done is shown.
Tone = Literal["good", "info", "warn", "bad"]


class Flash(BaseModel):
    """What came of a form, to be shown once, on the next page."""

    model_config = ConfigDict(frozen=True)

    text: str
    kind: Tone = "good"


class _Cookie(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    nonce: str
    expires_at: int


def find_token(secret: str, tokens: Sequence[Token]) -> Token | None:
    """Return the token with this secret. All are compared, so that the time does not tell which one matches."""
    given = secret.encode()
    found = [token for token in tokens if hmac.compare_digest(given, token.secret.encode())]
    return found[0] if found else None


def begin(token: Token, *, nonce: str, now: datetime) -> Session:
    """Begin a session; *nonce* must be random."""
    expires_at = (now + LASTS).replace(microsecond=0)
    return Session(token, token.caller.name, nonce, expires_at)


def to_cookie(session: Session) -> str:
    """Return the value of the session's cookie. It does not contain the token."""
    cookie = _Cookie(name=session.name, nonce=session.nonce, expires_at=int(session.expires_at.timestamp()))
    return str(_serializer(session.token, _SESSION).dumps(cookie.model_dump()))


def from_cookie(text: str, tokens: Sequence[Token], now: datetime) -> Session | None:
    """Return the session of a cookie's value; None if it has expired, or none of *tokens* signed it."""
    for token in tokens:
        cookie = _unsealed(text, token, _SESSION, _Cookie)
        if cookie is not None:
            expires_at = datetime.fromtimestamp(cookie.expires_at, now.tzinfo)
            return Session(token, cookie.name, cookie.nonce, expires_at) if now < expires_at else None
    return None


def csrf_token(session: Session) -> str:
    """Return what each form of the session must send along: other sites cannot know it."""
    return hmac.new(session.token.secret.encode(), _CSRF + session.nonce.encode(), hashlib.sha256).hexdigest()


def is_csrf_token(text: str, session: Session) -> bool:
    return hmac.compare_digest(text.encode(), csrf_token(session).encode())


def seal_flash(flash: Flash, session: Session) -> str:
    """Return the value of a cookie that holds *flash*, so that only we can put words on a page."""
    return str(_serializer(session.token, _FLASH + session.nonce).dumps(flash.model_dump()))


def open_flash(text: str, session: Session) -> Flash | None:
    return _unsealed(text, session.token, _FLASH + session.nonce, Flash)


def _unsealed(text: str, token: Token, purpose: str, kind: type[M]) -> M | None:
    if len(text) > _LONGEST:
        return None
    try:
        return kind.model_validate(_serializer(token, purpose).loads(text))
    except (BadData, ValidationError):
        return None


def _serializer(token: Token, purpose: str) -> URLSafeSerializer:
    signer = {"key_derivation": "hmac", "digest_method": hashlib.sha256}
    return URLSafeSerializer(token.secret, salt=purpose, signer_kwargs=signer)
