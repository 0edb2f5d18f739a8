"""A client that follows a training by server-sent events, as a browser's does."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import httpx


@dataclass(frozen=True)
class Sent:
    """One event."""

    id: str
    event: str
    training: dict[str, Any]


@contextlib.asynccontextmanager
async def following(
    client: httpx.AsyncClient, training_id: str, last_event_id: str | None = None
) -> AsyncIterator[AsyncIterator[Sent]]:
    """The events of a training; they end when the stream does."""
    headers = {"Last-Event-ID": last_event_id} if last_event_id is not None else {}
    async with client.stream("GET", f"/v1/trainings/{training_id}/events", headers=headers) as answer:
        if answer.status_code != 204:
            assert (answer.status_code, answer.headers["content-type"].split(";")[0]) == (200, "text/event-stream")
        yield events(answer)


async def events(answer: httpx.Response) -> AsyncIterator[Sent]:
    fields: dict[str, str] = {}
    async for line in answer.aiter_lines():
        if line:
            name, _, value = line.partition(": ")
            fields[name] = value
        elif "data" in fields:
            yield Sent(fields["id"], fields["event"], json.loads(fields["data"]))
            fields = {}


async def follow_to_the_end(client: httpx.AsyncClient, training_id: str, seen: list[Sent]) -> None:
    """Add what a client sees who comes back whenever the stream ends or breaks, until there is nothing more."""
    while True:
        try:
            async with following(client, training_id, seen[-1].id if seen else None) as stream:
                is_over = True
                async for sent in stream:
                    is_over = False
                    seen.append(sent)
                if is_over and seen and seen[-1].training["stage"] not in ("requested", "running", "verifying"):
                    return
        except (httpx.TransportError, AssertionError):
            pass
        await asyncio.sleep(0.1)
