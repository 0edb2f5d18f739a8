"""Publish until the broker confirms, and say meanwhile what it does not take."""

from __future__ import annotations

import asyncio
from typing import Final

import structlog

from shared.contract.errors import DependencyDown
from shared.runtime.broker.inbox import Inbox
from shared.runtime.broker.message import Outgoing
from shared.runtime.broker.publisher import Publisher
from shared.runtime.waiting import jittered_backoff_seconds

log = structlog.get_logger()

_FIRST_SECONDS: Final = 0.1
_LONGEST_SECONDS: Final = 1.0


class PersistentPublisher:
    """Publishes what follows from deliveries: each message as often as it takes."""

    def __init__(self, publisher: Publisher, queue: str) -> None:
        """*queue* is where the deliveries come from, for the log."""
        self._publisher = publisher
        self._queue = queue
        #: Why a message was not taken, by the publish that still tries.
        self._refused: dict[object, str] = {}

    @property
    def reason(self) -> str | None:
        """Why some message is not taken now, or None."""
        return next(iter(self._refused.values()), None)

    async def publish(self, message: Outgoing, inbox: Inbox) -> None:
        """
        Publish *message* until it is confirmed.

        Raises:
            Stale: if the link of *inbox* is gone, so that the delivery that *message* follows from comes again.
            Unpublishable: if it will never be confirmed.

        """
        this, failures = object(), 0
        try:
            while True:
                try:
                    return await self._publisher.publish(message)
                except DependencyDown as error:
                    failures += 1
                    if failures == 1:
                        log.warning("publish.delayed", queue=self._queue, error=error.code, detail=str(error))
                    self._refused[this] = str(error)
                inbox.check()
                await asyncio.sleep(jittered_backoff_seconds(failures, first=_FIRST_SECONDS, longest=_LONGEST_SECONDS))
        finally:
            self._refused.pop(this, None)
