"""What becomes of a message in the dead queue? It is read, whatever it is, and stored: the handler of `Keeper`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final, Protocol

import structlog

from services.ops.letters.failure import Message
from services.ops.letters.letter import Letter, read
from shared.contract.trace import trace_id_in

log = structlog.get_logger()

#: What one statement carries; a larger letter goes alone.
_STATEMENT_BYTES: Final = 4 * 1024 * 1024


class Store(Protocol):
    """Where letters are kept."""

    async def keep(self, letters: Sequence[Letter]) -> None: ...


@dataclass(frozen=True, slots=True)
class Archive:
    """Stores what is taken from the dead queue."""

    store: Store
    now: Callable[[], datetime]

    async def keep(self, messages: Sequence[Message]) -> None:
        """Store *messages*; those that were stored before are known by their digest."""
        moment = self.now()
        for some in in_parts(messages):
            letters = [read(message, now=moment) for message in some]
            await self.store.keep(letters)
            for message, letter in zip(some, letters, strict=True):
                log.info(
                    "dead_letter.kept",
                    queue=letter.failure.queue,
                    error=letter.failure.code,
                    attempts=letter.failure.attempts,
                    training_id=letter.training_id,
                    message_id=letter.event_id,
                    trace_id=trace_id_in(message.headers.get("traceparent")),
                )


def in_parts(messages: Iterable[Message]) -> Iterator[list[Message]]:
    """*messages* in order, cut so that no part with company is large."""
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
