"""
Standard Webhooks signatures (HMAC-SHA256): sign and verify raw bytes. Pure.

The signed content is ``{webhook-id}.{webhook-timestamp}.{body}``, so a body must be verified before it is parsed.
Signatures are compared as text, not decoded: base64 has several spellings of the same bytes, and only ours is valid.
"""

from __future__ import annotations

import base64
import hmac
import re
from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import Final

from shared.contract.errors import PermanentError

_VERSION: Final = "v1,"
_SECRET_PREFIX: Final = "whsec_"  # noqa: S105 (no secret itself)
#: 128 bits. Standard Webhooks requires 24 to 64 bytes; Replicate's secrets have 24, as observed.
_SECRET_MIN_BYTES: Final = 16
_MAX_SIGNATURES: Final = 10
_MESSAGE_ID: Final = re.compile(r"[!-~]{1,255}")
#: Not `int()`, which also takes ``1_700``, a trailing newline and the digits of every script.
_TIMESTAMP: Final = re.compile(r"[0-9]{1,12}")


class BadSignature(PermanentError):
    """The signature is missing, malformed, stale, or made with none of our secrets."""

    code = "wrong_signature"


@lru_cache(maxsize=16)
def decode_secret(secret: str) -> bytes:
    """
    Decode the key in *secret* (``whsec_`` and base64).

    Raises:
        ValueError: if it is not a valid secret; the message does not quote it.

    """
    try:
        key = base64.b64decode(secret.removeprefix(_SECRET_PREFIX), validate=True)
    except ValueError:
        raise ValueError("a webhook secret is whsec_ and base64, as Replicate shows it") from None
    if len(key) < _SECRET_MIN_BYTES:
        raise ValueError(f"a webhook secret holds at least {_SECRET_MIN_BYTES} bytes; this one has {len(key)}")
    return key


def sign(secret: str, message_id: str, timestamp: int, body: bytes) -> str:
    """Return the ``webhook-signature`` of *body*."""
    return _sign(decode_secret(secret), f"{message_id}.{timestamp}.".encode() + body).decode()


def signed_headers(secrets: Iterable[str], message_id: str, timestamp: int, body: bytes) -> dict[str, str]:
    """Return the headers of a webhook with *body*, signed with each of *secrets*."""
    return {
        "webhook-id": message_id,
        "webhook-timestamp": str(timestamp),
        "webhook-signature": " ".join(sign(secret, message_id, timestamp, body) for secret in secrets),
    }


def verify(
    secrets: Sequence[str],
    *,
    message_id: str,
    timestamp: str,
    signatures: str,
    body: bytes,
    now: float,
    tolerance_seconds: float = 300,
) -> None:
    """
    Check that one of *signatures* was made with one of *secrets*, at most *tolerance_seconds* from *now*.

    Several of both are allowed, so that a secret can be rotated; signatures of another version are ignored.

    Raises:
        BadSignature: if none matches, a header is missing or malformed, or the timestamp is out of tolerance.

    """
    if not (message_id or timestamp or signatures or body):
        # A look whether this endpoint asks for a signature, as `modelswap doctor` takes: nothing that could pass.
        raise BadSignature("neither a signature nor a body", code="empty")
    if not (message_id and timestamp and signatures):
        raise BadSignature("webhook-id, webhook-timestamp or webhook-signature is missing", code="missing_headers")
    if not (_MESSAGE_ID.fullmatch(message_id) and _TIMESTAMP.fullmatch(timestamp)):
        raise BadSignature("webhook-id or webhook-timestamp is malformed", code="malformed_headers")
    age_seconds = now - int(timestamp)
    if abs(age_seconds) > tolerance_seconds:
        raise BadSignature(f"signed {age_seconds:.0f} s ago, by our clock", code="stale_timestamp")
    content = f"{message_id}.{timestamp}.".encode() + body
    given = [signature.encode("utf-8", "replace") for signature in signatures.split(" ", _MAX_SIGNATURES)]
    for secret in secrets:
        expected = _sign(decode_secret(secret), content)
        if any(hmac.compare_digest(expected, signature) for signature in given[:_MAX_SIGNATURES]):
            return
    raise BadSignature("no signature matches: another secret, or the body was changed")


def _sign(key: bytes, content: bytes) -> bytes:
    return _VERSION.encode() + base64.b64encode(hmac.digest(key, content, "sha256"))
