"""`subscribe`: the events of one subscription as they are, duplicates and overtaken ones included."""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator, Sequence
from datetime import UTC, datetime, timedelta
from typing import Final

from modelswap_events.feed import Feed, Handed, envelope_in
from modelswap_events.network import NETWORK
from modelswap_events.ports import NEXT, Broker, Link, Message, Network, Position
from shared.contract.envelope import Envelope
from shared.contract.events import Event

log = logging.getLogger("modelswap_events")

#: How long a message waits for more, where nothing is due meanwhile.
_WAIT_SECONDS: Final = 3600.0
#: Longer than an event waits to be published.
_MARGIN: Final = timedelta(minutes=10)
#: The last event that was handled is in the log, or an older one was deleted, so RabbitMQ sends one at once.
_SILENT_SECONDS: Final = 10.0


class Subscription(Feed[Envelope]):
    """Made by `subscribe`."""

    def __init__(self, broker: Broker, events: Sequence[type[Event]], since: datetime | None) -> None:
        super().__init__(broker)
        self._keys = frozenset(event.key for event in events)
        #: Where to go on, if there is only the log; an offset is that of the last event that was handled.
        self._position: Position = since or NEXT
        #: The id of that event, and where to go on if it is not there.
        self._last: tuple[str, datetime] | None = None

    async def _hand_out(self) -> AsyncGenerator[Handed[Envelope], None]:
        while True:
            async with self._attached(self._position) as link:
                if self._position is NEXT:
                    # If the link is lost before the first event, what is published meanwhile is read, too.
                    self._position = datetime.now(UTC) - _MARGIN  # noqa: TID251 (this is an edge)
                if not await self._goes_on(link):
                    continue
                while link.is_open:
                    message = await link.next(_WAIT_SECONDS)
                    if message is None:
                        continue
                    envelope = await envelope_in(message)
                    if envelope is None:
                        continue
                    if self._is_wanted(envelope):
                        item = Handed(envelope)
                        yield item
                        if item.is_given_up:
                            await message.reject()
                            continue
                    self._remember(message, envelope)
                    await message.ack()

    def _is_wanted(self, envelope: Envelope) -> bool:
        return not self._keys or envelope.routing_key in self._keys

    async def _goes_on(self, link: Link) -> bool:
        """
        Pass over the last event that was handled, with which the log begins; without it, have the log read by time.

        A log that was made anew counts offsets from 0, and RabbitMQ sends nothing of it before the requested one.
        """
        if self._last is None or not link.is_log:
            return True
        last, since = self._last
        message = await link.next(_SILENT_SECONDS)
        if message is not None and (message.offset, message.headers.get("ce-id")) == (self._position, last):
            await message.ack()
            return True
        if link.is_open:
            log.warning("the log lacks the last event that was handled: it is read from %s on", since)
            self._position, self._last = since, None
        return False

    def _remember(self, message: Message, envelope: Envelope) -> None:
        since, offset = envelope.time - _MARGIN, message.offset
        self._position, self._last = (since, None) if offset is None else (offset, (envelope.id, since))


def subscribe(
    amqp_url: str,
    *,
    subscription: str,
    events: Sequence[type[Event]] = (),
    since: datetime | None = None,
    network: Network = NETWORK,
) -> Subscription:
    """
    Return the events of a subscription; only those of the types in *events*, if any are given.

    .. code-block:: python

        async for envelope in subscribe(amqp_url, subscription="mailer", events=[ModelActivated, ExtractionFailed]):
            match envelope.event:
                case ModelActivated() as event: ...
                case ExtractionFailed() as event: ...

    - Every event comes at least once, in any order: `envelope.id` is the same for the same fact. `Models` is simpler
      if all you want is each user's current model.
    - An event is acked when the loop asks for the next one. If the body raises, the loop ends, and the event comes
      again in the next loop or process; after 20 times the broker moves it to the subscription's overflow queue. Use
      `run` to have it tried again without ending the loop.
    - Events of other types are acked unseen. So two services that want different events need two subscriptions.
    - An event that this version cannot decode is logged and moved to the overflow queue.
    - While the subscription has no queue, the log is read: from the last handled event, else from *since*, else from
      now on; after a lost connection, from up to ten minutes before the first attempt, so that none is missed; and if
      the log was made anew, from ten minutes before the last handled event. There an event that is given up is only
      logged.
    """
    return Subscription(network.broker(amqp_url, subscription), events, since)
