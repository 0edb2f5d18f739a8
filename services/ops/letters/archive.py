"""The handler of the dead queue: stores every message as a dead letter."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final, Protocol

import structlog

from services.ops.letters.failure import Message
from services.ops.letters.letter import DeadLetter, to_dead_letter
from shared.contract.headers import trace_id_in

log = structlog.get_logger()

#: The most bytes in one statement; a larger dead letter has its own.
_STATEMENT_BYTES: Final = 4 * 1024 * 1024


class Store(Protocol):
    """The store of dead letters."""

    async def keep(self, letters: Sequence[DeadLetter]) -> None: ...


@dataclass(frozen=True, slots=True)
class Archive:
    """Stores messages of the dead queue."""

    store: Store
    now: Callable[[], datetime]

    async def keep(self, messages: Sequence[Message]) -> None:
        """Store *messages*; their digests tell which were stored before."""
        moment = self.now()
        for some in in_parts(messages):
            letters = [to_dead_letter(message, now=moment) for message in some]
            await self.store.keep(letters)
            for message, letter in zip(some, letters, strict=True):
                log.info(
                    "dead_letter.kept",
                    queue=letter.failure.queue,
                    routing_key=letter.failure.routing_key,
                    error=letter.failure.code,
                    attempts=letter.failure.attempts,
                    training_id=letter.training_id,
                    message_id=letter.event_id,
                    trace_id=trace_id_in(message.headers.get("traceparent")),
                )


def in_parts(messages: Iterable[Message]) -> Iterator[list[Message]]:
    """Cut *messages*, in order, so that a large one is alone in its part."""
    part: list[Message] = []
    size = 0
    for message in messages:
        if part and size + len(message.body) > _STATEMENT_BYTES:
            yield part
            part, size = [], 0
        part.append(message)
        size += len(message.body)
    if part:
        yield part
