"""`subscribe`: the events of one subscription as they are, duplicates and overtaken ones included."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from datetime import UTC, datetime, timedelta
from typing import Final

from modelswap_events.feed import Feed, Handed, envelope_in
from modelswap_events.network import NETWORK
from modelswap_events.ports import NEXT, Broker, Message, Network, Position
from shared.contract.envelope import Envelope
from shared.contract.events import Event

#: How long a message waits for more, where nothing is due meanwhile.
_WAIT_SECONDS: Final = 3600.0
#: Longer than an event waits to be published.
_MARGIN: Final = timedelta(minutes=10)


class Subscription(Feed[Envelope]):
    """Made by `subscribe`."""

    def __init__(self, broker: Broker, events: Sequence[type[Event]], since: datetime | None) -> None:
        super().__init__(broker)
        self._keys = frozenset(event.key for event in events)
        #: Where to go on, if there is only the log.
        self._position: Position = since or NEXT

    async def _hand_out(self) -> AsyncGenerator[Handed[Envelope], None]:
        while True:
            async with self._attached(self._position) as link:
                if self._position is NEXT:
                    # If the link is lost before the first event, what is published meanwhile is read, too.
                    self._position = datetime.now(UTC) - _MARGIN  # noqa: TID251 (this is an edge)
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

    def _remember(self, message: Message, envelope: Envelope) -> None:
        self._position = envelope.time - _MARGIN if message.offset is None else message.offset + 1


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
    - If the subscription's queue does not exist, the log is read: from the last handled event, else from *since*, else
      from now on; after a lost connection, from up to ten minutes before the first attempt, so that none is missed.
      There an event that is given up is only logged.
    """
    return Subscription(network.broker(amqp_url, subscription), events, since)
