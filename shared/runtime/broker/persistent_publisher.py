"""Publishes the follow-up messages of a delivery, each until it is confirmed."""

from __future__ import annotations

import asyncio
from typing import Final

import structlog

from shared.contract.errors import DependencyDown
from shared.runtime.broker.message import Outgoing
from shared.runtime.broker.publisher import Publisher
from shared.runtime.broker.unacked import Unacked
from shared.runtime.waiting import jittered_backoff_seconds

log = structlog.get_logger()

_FIRST_SECONDS: Final = 0.1
_LONGEST_SECONDS: Final = 1.0


class PersistentPublisher:
    """Publishes the follow-up messages of deliveries, each until it is confirmed."""

    def __init__(self, publisher: Publisher, queue: str) -> None:
        """*queue* is the deliveries' queue, for the log."""
        self._publisher = publisher
        self._queue = queue
        #: The last error of each publish that is still trying.
        self._refused: dict[object, str] = {}

    @property
    def reason(self) -> str | None:
        """Why a message is not confirmed now, or None."""
        return next(iter(self._refused.values()), None)

    async def publish(self, message: Outgoing, unacked: Unacked) -> None:
        """
        Publish *message* until it is confirmed.

        Raises:
            Stale: if the link of *unacked* is lost, so that the delivery is redelivered anyway.
            Unpublishable: if the message can never be published.

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
                unacked.check()
                await asyncio.sleep(jittered_backoff_seconds(failures, first=_FIRST_SECONDS, longest=_LONGEST_SECONDS))
        finally:
            self._refused.pop(this, None)
