"""
Forward events over HTTP: signed, in order for each training, and retried with a growing delay. Edge.

    2xx                            delivered
    no answer, 408, 425, 429, 5xx  retried, `DELAYS_SECONDS` apart; then given up
    any other                      reported, and not retried; a redirect is not followed
"""

from __future__ import annotations

import asyncio
import hashlib
from collections import deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from http import HTTPStatus
from typing import Final, Self

from services.cli.events.heard import Heard
from shared.replicate.signature import signed_headers
from shared.runtime.clock import now

#: Posts a body with headers. Returns the status with the reason of a refusal; or None and why there is no response.
Post = Callable[[bytes, Mapping[str, str]], Awaitable[tuple[int | None, str]]]

#: Between the attempts at one event.
DELAYS_SECONDS: Final = (0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0)
#: At most this many events wait while the target is down.
WAITING_MOST: Final = 1000
_POSTS_AT_ONCE: Final = 16
_RETRIED: Final = frozenset({408, 425, 429})


class Forwarder:
    """Forwards events with *post*, signed with *secret*; calls *tell* with one line for each attempt."""

    def __init__(
        self,
        post: Post,
        secret: str,
        tell: Callable[[str], object],
        *,
        delays_seconds: Sequence[float] = DELAYS_SECONDS,
        waiting_most: int = WAITING_MOST,
    ) -> None:
        self._post = post
        self._secret = secret
        self._tell = tell
        self._delays = delays_seconds
        self._waiting_most = waiting_most
        #: Events that are not delivered yet, by training; the first of each is being posted.
        self._waiting: dict[str, deque[Heard]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._turns = asyncio.Semaphore(_POSTS_AT_ONCE)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if left := self._count():
            self._tell(f"not forwarded: {left} waiting events")

    def add(self, heard: Heard) -> None:
        """Forward *heard* after the earlier events of the same training."""
        if self._count() >= self._waiting_most:
            self._tell(f"{_name(heard)}: not forwarded, because {self._waiting_most} events wait already")
            return
        training = heard.event.training_id if heard.event else heard.attributes.get("subject", "")
        if training in self._waiting:
            self._waiting[training].append(heard)
            return
        self._waiting[training] = deque([heard])
        task = asyncio.create_task(self._forward(training))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _count(self) -> int:
        return sum(map(len, self._waiting.values()))

    async def _forward(self, training: str) -> None:
        waiting = self._waiting[training]
        while waiting:
            await self._try_all(waiting[0])
            waiting.popleft()
        del self._waiting[training]

    async def _try_all(self, heard: Heard) -> None:
        attempts = len(self._delays) + 1
        for number, delay in enumerate((*self._delays, None), start=1):
            async with self._turns:
                status, reason = await self._post(heard.delivery.body, self._headers(heard))
            said = f"{_name(heard)}, attempt {number} of {attempts}: {_say(status, reason)}"
            if not _is_retried(status):
                self._tell(said)
                return
            self._tell(f"{said}; {'given up' if delay is None else f'again in {delay:g} s'}")
            if delay is not None:
                await asyncio.sleep(delay)

    def _headers(self, heard: Heard) -> dict[str, str]:
        headers = heard.http_headers()
        message_id = headers.get("ce-id") or hashlib.sha256(heard.delivery.body).hexdigest()
        return {**headers, **signed_headers([self._secret], message_id, int(now().timestamp()), heard.delivery.body)}


def _is_retried(status: int | None) -> bool:
    return status is None or status in _RETRIED or status >= HTTPStatus.INTERNAL_SERVER_ERROR


def _say(status: int | None, reason: str) -> str:
    if status is None:
        return f"no answer ({reason})"
    said = f"{status} {reason}".rstrip()
    if status < HTTPStatus.MULTIPLE_CHOICES:
        return f"{said}, delivered"
    if status < HTTPStatus.BAD_REQUEST:
        return f"{said}, a redirect, which is not followed; not retried"
    return said if _is_retried(status) else f"{said}; not retried"


def _name(heard: Heard) -> str:
    return f"{heard.delivery.routing_key} {heard.attributes.get('id', '')}".rstrip()
