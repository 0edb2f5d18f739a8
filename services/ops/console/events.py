"""Server-sent events: lines of a stream → events. Pure."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import NamedTuple


class Event(NamedTuple):
    """One event of a stream."""

    id: str | None
    name: str
    data: str


async def events_in(lines: AsyncIterator[str]) -> AsyncIterator[Event]:
    """Yield the events that *lines* are, without comments; an event that is cut off is left out."""
    fields: dict[str, list[str]] = {}
    async for line in lines:
        if line:
            name, _, value = line.partition(":")
            fields.setdefault(name, []).append(value.removeprefix(" "))
            continue
        if "data" in fields:
            yield Event(
                id=fields["id"][-1] if "id" in fields else None,
                name=fields["event"][-1] if "event" in fields else "message",
                data="\n".join(fields["data"]),
            )
        fields = {}
