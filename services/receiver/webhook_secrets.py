"""
Webhook secrets: the configured ones, else the account's secret from Replicate's API.

Replicate does not announce when a secret changes. So a wrong signature fetches the secret again, at most once a minute,
because forged webhooks must not cause a flood of calls.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Protocol

import structlog

from shared.contract.errors import DependencyDown, ModelswapError
from shared.replicate.signature import BadSignature, decode_secret

log = structlog.get_logger()

_FETCH_AGAIN_SECONDS = 60.0
#: A webhook waits for the fetch, and its sender gives up after a few seconds.
_FETCH_SECONDS = 2.0


class Account(Protocol):
    """The calls to Replicate's API."""

    async def webhook_secret(self) -> str: ...


class Secrets:
    """The current secrets."""

    def __init__(self, configured: Sequence[str], account: Account | None, monotonic: Callable[[], float]) -> None:
        self._known = tuple(configured)
        self._account = None if configured else account
        self._monotonic = monotonic
        self._fetched_at: float | None = None
        self._fetching = asyncio.Lock()

    @property
    def are_known(self) -> bool:
        return bool(self._known)

    async def check(self, verify: Callable[[Sequence[str]], None]) -> None:
        """
        Run *verify* with the secrets; after a wrong signature, fetch the secret and run it once more if it changed.

        Raises:
            BadSignature: if *verify* refuses.
            DependencyDown: if no secret is known, because Replicate does not answer.

        """
        if not self._known:
            await self.refresh()
            if not self._known:
                raise DependencyDown("the webhook secret is not known yet: Replicate does not answer")
        used = self._known
        try:
            verify(used)
        except BadSignature as error:
            # Only a wrong signature can mean a rotated secret; a stale or missing one cannot.
            if error.code != BadSignature.code or not await self.refresh() or self._known == used:
                raise
            verify(self._known)

    async def refresh(self) -> bool:
        """Fetch the secret, at most once a minute; return False if there is no account or the fetch failed."""
        if self._account is None:
            return False
        async with self._fetching:
            now = self._monotonic()
            if self._fetched_at is not None and now - self._fetched_at < _FETCH_AGAIN_SECONDS and self._known:
                return True
            if self._fetched_at is not None and now - self._fetched_at < 1.0:
                return False
            try:
                async with asyncio.timeout(_FETCH_SECONDS):
                    secret = await self._account.webhook_secret()
                decode_secret(secret)
            except (ModelswapError, ValueError, TimeoutError) as error:
                log.warning("webhook_secret.unavailable", detail=str(error))
                return False
            finally:
                # After the attempt: what waited for it does not try again, each for two seconds.
                self._fetched_at = self._monotonic()
            self._known = (secret,)
            log.info("webhook_secret.fetched")
            return True
