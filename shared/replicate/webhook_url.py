"""
Webhook URLs: a signed claim (ref, destination, steps, user) that identifies our training. Pure.

A webhook names neither the user nor the destination, so the webhook URL that we give to Replicate contains a token
signed by us. It does not expire, because a training may take any time. Replicate, and every proxy on the way, can read
it; the user in it is encrypted, and for subscribers only: state takes the user from the stored training.

Replicate does not sign the URL that it posts to: a genuine body can be posted to another training's URL. So a claim is
confirmed only if Replicate itself repeats the URL, in the ``webhook`` field of a signed body or of an API response. The
claim in the called URL gives only a *called ref*: a reason to look the training up at Replicate.
"""

from __future__ import annotations

import hashlib
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Final
from urllib.parse import parse_qs, urlsplit
from uuid import UUID

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESSIV
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from itsdangerous import BadData, URLSafeSerializer
from pydantic import TypeAdapter, ValidationError

from shared.contract.errors import PermanentError
from shared.contract.identity import ModelName, UserId
from shared.replicate.training import Training

_MAX_TOKEN: Final = 1024
_USER: Final = TypeAdapter[str](UserId)
_CLAIM: Final = "claim-"
_CALLED_REF: Final = "called-ref"


class ForeignRef(PermanentError):
    """A genuine webhook of one of our trainings was posted to the URL of another one."""

    code = "foreign_ref"


@dataclass(frozen=True, slots=True)
class Claim:
    """What we knew of a training when we requested it from Replicate."""

    ref: UUID
    destination: ModelName
    #: The requested number of steps, if the input states it.
    total_steps: int | None
    #: None in a token of an earlier version, or if the token would have become too long.
    user_id: str | None = None


@dataclass(frozen=True, slots=True)
class Origin:
    """The training of ours that a webhook is about, as far as it is known."""

    #: The confirmed claim: Replicate repeats the URL that we signed.
    claim: Claim | None = None
    #: Our id of a training, from the called URL only. Unconfirmed: nothing may be decided by it.
    called_ref: UUID | None = None


def webhook_url(public_url: str, claim: Claim, secrets: Sequence[str]) -> str:
    """Return the webhook URL for Replicate, signed with the first of *secrets*; without the user if that is long."""
    parts = [claim.ref.hex, str(claim.destination), claim.total_steps]
    sign = _serializer(tuple(secrets)).dumps
    token = sign(parts if claim.user_id is None else [*parts, _encrypt(claim.user_id, claim.ref, secrets[0])])
    if len(token) > _MAX_TOKEN:
        token = sign(parts)
    return f"{public_url.rstrip('/')}/webhooks/replicate?ref={token!s}"


def read_claim(token: str | None, secrets: Sequence[str]) -> Claim | None:
    """Return the claim in *token* if one of *secrets* signed it, else None: a foreign token is not an error."""
    if not token or len(token) > _MAX_TOKEN or not token.isascii() or not secrets:
        return None
    return _read_claim(token, tuple(secrets))


@lru_cache(maxsize=1024)
def _read_claim(token: str, secrets: tuple[str, ...]) -> Claim | None:
    # Cached, because a training's webhooks arrive twice a second, each with its token in URL and body.
    try:
        match _serializer(secrets).loads(token):
            case [str(ref), str(destination), int() | None as total_steps, *user] if len(user) <= 1:
                name = ModelName.parse(destination)
                return Claim(UUID(ref), name, total_steps, _decrypt(user, UUID(ref), secrets)) if name else None
    except (BadData, ValueError):
        pass
    return None


def claim_in(address: str | None, secrets: Sequence[str]) -> Claim | None:
    """Return the claim in a webhook URL, or None if none of *secrets* signed it."""
    return _only_claim(_tokens_in(address or ""), secrets)


@lru_cache(maxsize=1024)
def _tokens_in(address: str) -> Sequence[str]:
    # Cached for the same reason as `_read_claim`: to take an address apart costs ten times a look into a cache.
    try:
        return parse_qs(urlsplit(address).query, max_num_fields=20).get("ref", [])
    except ValueError:
        return []


def find_origin(training: Training, called: Sequence[str], secrets: Sequence[str]) -> Origin:
    """
    Return the origin of *training*, as reported in a webhook.

    *called* are the ``ref`` tokens of the URL that it was posted to.

    Raises:
        ForeignRef: if the training's own webhook URL and the called URL name different trainings.

    """
    claim = claim_in(training.webhook, secrets)
    called_claim = _only_claim(called, secrets)
    if claim is None:
        return Origin(called_ref=called_claim.ref if called_claim else None)
    if called_claim is not None and called_claim.ref != claim.ref:
        raise ForeignRef(
            f"training {training.id} was posted to the address of another training than Replicate has for it"
        )
    return Origin(claim)


def origin_headers(origin: Origin) -> dict[str, str | int]:
    """Encode *origin* as message headers, for a webhook that becomes a dead letter."""
    if origin.claim is None:
        return {} if origin.called_ref is None else {_CALLED_REF: str(origin.called_ref)}
    claim = origin.claim
    steps = {} if claim.total_steps is None else {f"{_CLAIM}total-steps": claim.total_steps}
    user = {} if claim.user_id is None else {f"{_CLAIM}user": claim.user_id}
    return {f"{_CLAIM}ref": str(claim.ref), f"{_CLAIM}destination": str(claim.destination), **steps, **user}


def origin_from_headers(headers: Mapping[str, object]) -> Origin:
    """Decode the origin that `origin_headers` encoded."""
    claim = _claim_from_headers(headers)
    return Origin(claim, None if claim else _uuid(headers.get(_CALLED_REF)))


def _only_claim(tokens: Sequence[str], secrets: Sequence[str]) -> Claim | None:
    return read_claim(tokens[0], secrets) if len(tokens) == 1 else None


def _claim_from_headers(headers: Mapping[str, object]) -> Claim | None:
    destination = ModelName.parse(str(headers.get(f"{_CLAIM}destination", "")))
    steps = headers.get(f"{_CLAIM}total-steps")
    ref = _uuid(headers.get(f"{_CLAIM}ref"))
    if ref is None or destination is None:
        return None
    return Claim(ref, destination, steps if isinstance(steps, int) else None, _user(headers.get(f"{_CLAIM}user")))


def _user(value: object) -> str | None:
    try:
        return _USER.validate_python(value)
    except ValidationError:
        return None


def _encrypt(user_id: str, ref: UUID, secret: str) -> str:
    return urlsafe_b64encode(_cipher(secret).encrypt(user_id.encode(), [ref.bytes])).decode()


def _decrypt(encrypted: Sequence[object], ref: UUID, secrets: Sequence[str]) -> str | None:
    for secret in secrets if encrypted else ():
        try:
            return _user(_cipher(secret).decrypt(urlsafe_b64decode(str(encrypted[0])), [ref.bytes]).decode())
        except (InvalidTag, ValueError):
            continue
    return None


def _uuid(value: object) -> UUID | None:
    try:
        return UUID(str(value))
    except ValueError:
        return None


@lru_cache(maxsize=16)
def _serializer(secrets: tuple[str, ...]) -> URLSafeSerializer:
    # itsdangerous signs with the last key of its list.
    return URLSafeSerializer(
        list(reversed(secrets)), salt="modelswap.webhook-url", signer_kwargs={"digest_method": hashlib.sha256}
    )


@lru_cache(maxsize=16)
def _cipher(secret: str) -> AESSIV:
    # Deterministic: the same request is answered with the same URL. With a key of its own, since a secret serves one
    # purpose only.
    key = HKDF(SHA256(), length=64, salt=None, info=b"modelswap.webhook-url.user").derive(secret.encode())
    return AESSIV(key)
