"""
Signing secrets of webhook endpoints: derived from a master secret, never stored. Pure.

A secret must be usable for signing, so storing only its hash is impossible. Instead of storing it encrypted, which
takes a key as well, it is computed from the key: HMAC-SHA256 of the endpoint's random salt with a master secret
(``MODELSWAP_WEBHOOK_MASTER_SECRETS``). To sign, one needs a master secret and the database. An endpoint remembers the
fingerprint of the master secret that it was made with, so that these can be rotated: the first makes new secrets, all
others still sign for endpoints that were made with them.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from shared.contract.errors import TransientError
from shared.replicate.signature import signed_headers

_PREFIX: Final = "whsec_"
_NAME_CHARACTERS: Final = 16


class MasterSecretMissing(TransientError):
    """The master secret that an endpoint's signing secret is derived from is not configured any more."""

    code = "master_secret_missing"
    is_patient = True


@dataclass(frozen=True, slots=True)
class Seed:
    """What is stored of a signing secret."""

    salt: str
    #: Fingerprint of the master secret.
    master: str


@dataclass(frozen=True, slots=True)
class Seeds:
    """The seed of an endpoint's secret, and that of the one before with its end."""

    now: Seed
    old: Seed | None = None
    old_until: datetime | None = None

    def at(self, moment: datetime) -> Sequence[Seed]:
        """Return the seeds of the secrets that sign at *moment*."""
        if self.old is not None and self.old_until is not None and moment < self.old_until:
            return [self.now, self.old]
        return [self.now]


class Signer:
    """Derives secrets from the master secrets, and signs with them."""

    def __init__(self, masters: Sequence[str]) -> None:
        self._masters = {_fingerprint(master): master.encode() for master in masters}
        self._first = _fingerprint(masters[0])

    def new_seed(self, random: bytes) -> Seed:
        """Return a seed of 192 or more *random* bits, for the first master secret."""
        return Seed(random.hex(), self._first)

    def secret_of(self, seed: Seed) -> str:
        """
        Return the signing secret, with 256 bits.

        Raises:
            MasterSecretMissing: if its master secret is not known.

        """
        master = self._masters.get(seed.master)
        if master is None:
            raise MasterSecretMissing(
                "MODELSWAP_WEBHOOK_MASTER_SECRETS lacks the one of this endpoint: add it again, or rotate its secret"
            )
        return _PREFIX + base64.b64encode(hmac.digest(master, b"webhook " + seed.salt.encode(), "sha256")).decode()

    def headers(self, seeds: Sequence[Seed], message_id: str, moment: datetime, body: bytes) -> dict[str, str]:
        """
        Return the headers of Standard Webhooks: one signature for each of *seeds*, but for old ones of a lost master.

        Raises:
            MasterSecretMissing: if the master secret of the first is not known.

        """
        first, *others = seeds
        usable = [first, *(seed for seed in others if seed.master in self._masters)]
        return signed_headers(map(self.secret_of, usable), message_id, int(moment.timestamp()), body)


def _fingerprint(master: str) -> str:
    return hashlib.sha256(b"name of " + master.encode()).hexdigest()[:_NAME_CHARACTERS]
