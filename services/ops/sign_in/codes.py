"""
One-time sign-in codes. Pure.

A code stands for the token that made it. The database holds a digest of the code and an HMAC of the code with that
token's secret. So it reveals neither, and a code of a token that is no longer configured is not accepted.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Final

from pydantic import BaseModel

from shared.contract.errors import PermanentError

#: The route that makes a code. A reader's token may, too: it changes nothing that others see.
PATH: Final = "/sign-in-codes"
#: Bytes of chance in a code.
CODE_BYTES: Final = 32
LASTS: Final = timedelta(minutes=10)
_PROOF: Final = b"modelswap sign-in code "


class NotAPersons(PermanentError):
    """The token belongs to a service, which needs no session."""

    code = "not_a_persons"


class SignInCode(BaseModel):
    """A code that signs a person in to the console, once."""

    #: The link is ``/sign-in?code=`` and this.
    code: str
    expires_at: datetime


def digest_of(code: str) -> bytes:
    """Return what a code is stored as."""
    return hashlib.sha256(code.encode()).digest()


def proof_of(code: str, secret: str) -> bytes:
    """Return the proof that the token with this *secret* made *code*."""
    return hmac.digest(secret.encode(), _PROOF + code.encode(), "sha256")


def maker_of(code: str, proof: bytes, secrets: Sequence[str]) -> str | None:
    """Return the secret of the token that made *code*; None if it is not among *secrets*."""
    return next((secret for secret in secrets if hmac.compare_digest(proof_of(code, secret), proof)), None)
