"""A subscriber that catches up as the API's description says: the log from now, then a snapshot, then the events."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, Final

import httpx
from aiormq import spec

from shared.runtime.broker import Delivery, offset_of, read_log
from shared.runtime.broker.link import Link
from shared.runtime.broker.link_errors import LINK_ERRORS
from shared.runtime.clock import now

_CHANGES: Final = ("model.activated.v1", "model.withdrawn.v1")
_PREFETCH: Final = 50
_PAGE: Final = 7


@dataclass
class Subscriber:
    """Keeps the highest generation of each user, with the model, or None after a withdrawal."""

    amqp_url: str
    #: The product's API.
    api: httpx.AsyncClient
    models: dict[str, tuple[int, str | None]] = field(default_factory=dict)
    #: How many changes were news, by where they were heard of.
    news: Counter[str] = field(default_factory=Counter)
    _changed: asyncio.Event = field(default_factory=asyncio.Event)

    @contextlib.asynccontextmanager
    async def subscribed(self) -> AsyncIterator[None]:
        """Catch up, and go on in the background."""
        events: asyncio.Queue[Delivery] = asyncio.Queue()
        attached = asyncio.Event()
        reading = asyncio.create_task(self._read(events, attached))
        try:
            await attached.wait()
            await self._take_snapshot()
            applying = asyncio.create_task(self._apply(events))
            try:
                yield
            finally:
                applying.cancel()
        finally:
            reading.cancel()

    async def until(self, user_id: str) -> None:
        """Wait until a change of this user was heard of."""
        while user_id not in self.models:
            self._changed.clear()
            await self._changed.wait()

    async def _read(self, events: asyncio.Queue[Delivery], attached: asyncio.Event) -> None:
        """Read the log from a moment ago on; after a lost connection go on behind the last event."""
        # AMQP's times are whole seconds, and clocks differ.
        offset: Any = now() - timedelta(seconds=2)
        while True:
            with contextlib.suppress(*LINK_ERRORS):
                link = await Link.open(self.amqp_url, name="subscriber")
                try:
                    taken: asyncio.Queue[Delivery] = asyncio.Queue()
                    await read_log(link, taken.put_nowait, offset=offset, prefetch=_PREFETCH)
                    attached.set()
                    lost = asyncio.create_task(link.lost.wait())
                    while not lost.done():
                        taking = asyncio.create_task(taken.get())
                        await asyncio.wait((taking, lost), return_when=asyncio.FIRST_COMPLETED)
                        if not taking.done():
                            taking.cancel()
                            break
                        delivery = taking.result()
                        events.put_nowait(delivery)
                        offset = offset_of(delivery) + 1
                        link.send(spec.Basic.Ack(delivery_tag=delivery.tag))
                finally:
                    await link.close()
            await asyncio.sleep(0.05)

    async def _take_snapshot(self) -> None:
        query: dict[str, Any] = {"limit": _PAGE}
        while True:
            with contextlib.suppress(httpx.TransportError, httpx.HTTPStatusError):
                page = (await self.api.get("/v1/models", params=query)).raise_for_status().json()
                for item in page["items"]:
                    model = item["model"]["reference"] if "model" in item else None
                    self._keep("snapshot", item["user_id"], item["generation"], model)
                if page["next_cursor"] is None:
                    return
                query["cursor"] = page["next_cursor"]
                continue
            await asyncio.sleep(0.05)

    async def _apply(self, events: asyncio.Queue[Delivery]) -> None:
        while True:
            delivery = await events.get()
            if delivery.routing_key in _CHANGES:
                body = json.loads(delivery.body)
                model = body.get("model") if delivery.routing_key == "model.activated.v1" else None
                self._keep("log", body["user_id"], body["generation"], model)
            self._changed.set()

    def _keep(self, source: str, user_id: str, generation: int, model: str | None) -> None:
        if generation > self.models.get(user_id, (0, None))[0]:
            self.models[user_id] = generation, model
            self.news[source] += 1
