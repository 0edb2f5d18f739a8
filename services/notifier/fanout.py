"""The handler of queue `modelswap.notifier`: makes one delivery of each event for each endpoint that wants it. Pure."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final, Protocol

from services.notifier.attempts import settled
from services.notifier.message import StoredEvent, stored
from shared.contract.envelope import Envelope
from shared.contract.errors import Malformed
from shared.contract.events import EVENTS_EXCHANGE, Event
from shared.contract.topology import NOTIFIER_QUEUE
from shared.contract.values import Effect

#: It is sent as a header, and a dot separates it from the timestamp in what is signed.
_ID: Final = re.compile(r"[0-9A-Za-z_-]{1,255}")


class Store(Protocol):
    """The events and deliveries."""

    async def add(self, events: Sequence[StoredEvent]) -> None: ...


class Fanout:
    """Stores deliveries; the relay sends them."""

    def __init__(self, store: Store) -> None:
        self._store = store

    async def handle(self, envelopes: Sequence[Envelope]) -> Sequence[Sequence[Event] | Exception]:
        """Store the deliveries of *envelopes* in one transaction; those of an event that came before are kept."""
        mistakes = {each.id: mistake for each in envelopes if (mistake := _mistake(each))}
        events = {each.id: stored(each) for each in envelopes if each.id not in mistakes}
        if events:
            await self._store.add(list(events.values()))
        return [mistakes.get(each.id) or settled(each, Effect.DELIVERED, NOTIFIER_QUEUE) for each in envelopes]


def _mistake(envelope: Envelope) -> Malformed | None:
    if envelope.event.exchange != EVENTS_EXCHANGE:
        return Malformed(f"{envelope.routing_key} is no public event", code="unexpected_event")
    if not _ID.fullmatch(envelope.id):
        return Malformed("the event's id cannot be the id of a webhook")
    return None
