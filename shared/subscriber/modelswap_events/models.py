"""
Models: every user's current model, then every change of it.

Why nothing is missed: the queue (or the log) is attached first, so whatever is published from then on waits there. The
snapshot is read afterwards, so it has whatever was committed before. A change that is in both is handed out once, since
only what is newer than the highest generation of its user is handed out. The same holds after each reconnect, with a
snapshot of what has changed since the one before; so a queue that was deleted, or that dropped events, leaves no gap.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from datetime import datetime, timedelta
from typing import Final

from modelswap_events.change import Change, change_in
from modelswap_events.feed import Feed, Handed, envelope_in
from modelswap_events.network import NETWORK
from modelswap_events.ports import NEXT, Link, Network, Page

_REFRESH: Final = timedelta(minutes=10)


class Models(Feed[Change]):
    """
    The current model of every user: first all of them, then each change as it happens.

    .. code-block:: python

        async for change in Models(amqp_url, api_url, token, subscription="generator"):
            use(change.user_id, change.model)

    - Changes of one user come in order, and none twice: a change is only handed out if its generation is higher than
      all of its user before it. Duplicates, and events that were overtaken, never arrive.
    - A change is acked when the loop asks for the next one. If its body raises, the loop ends, and the change comes
      again in the next loop or process; after 20 times the broker moves it to the subscription's overflow queue. Use
      `run` to have a failing change tried again without ending the loop.
    - A change that was being handled when the process died comes again: write the body so that this does no harm.
    - The body must not block the event loop for more than ten seconds, or hold a change for more than 25 minutes.
    - RabbitMQ and the API may be away at any time: the loop waits and goes on. Only wrong credentials raise `Refused`,
      and only at the start.
    - Events that say nothing of a user's current model, such as ``model.ready``, are acked and not handed out. One that
      this version cannot decode is logged and moved to the overflow queue.

    *refresh*: how often the snapshot is taken again, of what has changed since. It brings what did not arrive as an
    event: what a full queue dropped, and what `run` has given up.
    """

    def __init__(
        self,
        amqp_url: str,
        api_url: str,
        token: str,
        *,
        subscription: str,
        refresh: timedelta = _REFRESH,
        network: Network = NETWORK,
    ) -> None:
        super().__init__(network.broker(amqp_url, subscription))
        self._api = network.api(api_url, token)
        self._refresh_seconds = refresh.total_seconds()
        #: The highest generation of each user that was handled.
        self._handled: dict[str, int] = {}
        #: The same of made-up changes, which hold back no real one.
        self._made_up: dict[str, int] = {}
        #: All changes before this time were handled.
        self._since: datetime | None = None
        self._was_answered = False

    async def _hand_out(self) -> AsyncGenerator[Handed[Change], None]:
        while True:
            async with self._attached(NEXT) as link:
                is_first = True
                # A log is attached again instead: there may be a queue by now.
                while link.is_open and (is_first or not link.is_log):
                    is_first = False
                    for source in (self._snapshot(), self._events(link)):
                        async with aclosing(source) as items:
                            async for item in items:
                                yield item

    async def _snapshot(self) -> AsyncGenerator[Handed[Change], None]:
        """Yield what has changed since the snapshot before; everything, if there was none."""
        page, is_complete = await self._page(None), True
        while True:
            for change in page.changes:
                if self._is_news(change):
                    item = Handed(change)
                    yield item
                    is_complete &= self._settle(item)
            if page.next_cursor is None:
                break
            page = await self._page(page.next_cursor)
        if is_complete:
            self._since = page.next_updated_since

    async def _events(self, link: Link) -> AsyncGenerator[Handed[Change], None]:
        """Yield what arrives until the link is lost or the snapshot is due again."""
        loop = asyncio.get_running_loop()
        refresh_at = loop.time() + self._refresh_seconds
        while message := await link.next(refresh_at - loop.time()):
            envelope = await envelope_in(message)
            if envelope is None:
                continue
            change = change_in(envelope)
            if change is not None and self._is_news(change):
                item = Handed(change)
                yield item
                if not self._settle(item):
                    await message.reject()
                    continue
            await message.ack()

    async def _page(self, cursor: str | None) -> Page:
        page = await self._until_there(lambda: self._api.get_page(self._since, cursor), raises=not self._was_answered)
        self._was_answered = True
        return page

    def _is_news(self, change: Change) -> bool:
        known = self._handled.get(change.user_id, 0)
        if change.is_made_up:
            known = max(known, self._made_up.get(change.user_id, 0))
        return change.generation > known

    def _settle(self, item: Handed[Change]) -> bool:
        """Remember what was handled; return whether it was."""
        if not item.is_given_up:
            change = item.value
            (self._made_up if change.is_made_up else self._handled)[change.user_id] = change.generation
        return not item.is_given_up
