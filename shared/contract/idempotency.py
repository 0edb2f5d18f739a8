"""Idempotency keys: a request that is repeated with its key is executed once. Pure."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass

from shared.contract.errors import PermanentError


class KeyReused(PermanentError):
    """The `Idempotency-Key` was used for another request."""

    code = "idempotency_key_reused"


@dataclass(frozen=True, slots=True)
class IdempotencyKey:
    """A client's key, and the digest of the request it came with."""

    key: str
    digest: str

    @classmethod
    def of(cls, key: str | None, request: Mapping[str, object]) -> IdempotencyKey | None:
        """Return *key* with the digest of *request* (all values that distinguish it), or None without a key."""
        if key is None:
            return None
        return cls(key, hashlib.sha256(json.dumps(request, sort_keys=True).encode()).hexdigest())

    def check(self, digest: str) -> None:
        """
        Compare with the *digest* of the request that the key was used for before.

        Raises:
            KeyReused: if it was another request.

        """
        if digest != self.digest:
            raise KeyReused(f"the Idempotency-Key {self.key} was used for another request")
