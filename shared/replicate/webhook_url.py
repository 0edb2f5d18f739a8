"""
Which of our trainings is a webhook about? Pure: our claim, signed into the webhook's address and read back.

A webhook names neither the user nor the destination, and Replicate does not sign the address it posts to. So the
address carries a token that we sign. It does not expire: a training may take as long as it likes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Final
from uuid import UUID

from itsdangerous import BadData, URLSafeSerializer

from shared.contract.identity import ModelName

_MAX_TOKEN: Final = 1024
_CLAIM: Final = "claim-"


@dataclass(frozen=True, slots=True)
class Claim:
    """What we knew of a training when we asked Replicate for it."""

    ref: UUID
    destination: ModelName
    #: How many steps it was asked to train, when its input said so.
    total_steps: int | None


def webhook_url(public_url: str, claim: Claim, secrets: Sequence[str]) -> str:
    """The address that Replicate is to post to, signed with the first of *secrets*."""
    token = _serializer(tuple(secrets)).dumps([claim.ref.hex, str(claim.destination), claim.total_steps])
    return f"{public_url.rstrip('/')}/webhooks/replicate?ref={token!s}"


def read_claim(token: str | None, secrets: Sequence[str]) -> Claim | None:
    """The claim in *token* if one of *secrets* signed it. A foreign or broken token is no error: None."""
    if not token or len(token) > _MAX_TOKEN or not token.isascii() or not secrets:
        return None
    try:
        match _serializer(tuple(secrets)).loads(token):
            case [str(ref), str(destination), int() | None as total_steps]:
                name = ModelName.parse(destination)
                return Claim(UUID(ref), name, total_steps) if name else None
    except (BadData, ValueError):
        pass
    return None


def claim_headers(claim: Claim) -> dict[str, str | int]:
    """*claim*, which was proved, for a message that waits among our own."""
    steps = {} if claim.total_steps is None else {f"{_CLAIM}total-steps": claim.total_steps}
    return {f"{_CLAIM}ref": str(claim.ref), f"{_CLAIM}destination": str(claim.destination), **steps}


def claim_from_headers(headers: Mapping[str, object]) -> Claim | None:
    """What `claim_headers` wrote down; None if it did not."""
    destination = ModelName.parse(str(headers.get(f"{_CLAIM}destination", "")))
    steps = headers.get(f"{_CLAIM}total-steps")
    try:
        ref = UUID(str(headers.get(f"{_CLAIM}ref", "")))
    except ValueError:
        return None
    return Claim(ref, destination, steps if isinstance(steps, int) else None) if destination else None


@lru_cache(maxsize=16)
def _serializer(secrets: tuple[str, ...]) -> URLSafeSerializer:
    # itsdangerous signs with the last key of its list.
    return URLSafeSerializer(
        list(reversed(secrets)), salt="modelswap.webhook-url", signer_kwargs={"digest_method": hashlib.sha256}
    )
