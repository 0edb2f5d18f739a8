"""A stream of server-sent events hides no bug."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import nullcontext
from typing import Any

import pytest

from shared.runtime.sse import EventStream


class Broken:
    async def chunks(self) -> AsyncGenerator[bytes, None]:
        yield b"data: 1\n\n"
        raise KeyError("a bug")


async def test_a_bug_in_a_stream_is_raised_after_what_was_sent():
    sent: list[Any] = []

    async def stay() -> Any:
        await asyncio.Event().wait()

    async def send(message: Any) -> None:
        sent.append(message.get("body"))

    with pytest.raises(KeyError):
        await EventStream(lambda: nullcontext(Broken()))({"type": "http"}, stay, send)

    assert sent == [None, b"data: 1\n\n"]
