"""A receiver of webhooks that keeps what it was sent, headers and bytes."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Any

from standardwebhooks import Webhook


@dataclass
class Hook:
    """One webhook as it came."""

    headers: dict[str, str]
    body: bytes

    @property
    def id(self) -> str:
        return self.headers["webhook-id"]

    @property
    def training(self) -> dict[str, Any]:
        body: dict[str, Any] = json.loads(self.body)
        return body

    def verify(self, secret: str) -> None:
        Webhook(secret).verify(self.body, self.headers)


@dataclass
class Receiver:
    """Answers with each of these statuses in turn, with the last one over and over."""

    statuses: list[int] = field(default_factory=lambda: [202])
    hooks: list[Hook] = field(default_factory=list)
    targets: list[str] = field(default_factory=list)
    url: str = ""
    came: asyncio.Condition = field(default_factory=asyncio.Condition)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        start, *lines = head.strip().split("\r\n")
        headers = {name.lower(): value for name, value in (line.split(": ", 1) for line in lines)}
        self.targets.append(start.split(" ")[1])
        self.hooks.append(Hook(headers, await reader.readexactly(int(headers["content-length"]))))
        status = self.statuses.pop(0) if len(self.statuses) > 1 else self.statuses[0]
        location = "Location: /elsewhere\r\n" if 300 <= status < 400 else ""
        writer.write(f"HTTP/1.1 {status} X\r\n{location}Content-Length: 0\r\nConnection: close\r\n\r\n".encode())
        async with self.came:
            self.came.notify_all()
        writer.close()

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(60), self.came:
            await self.came.wait_for(condition)

    @property
    def statuses_told(self) -> list[str]:
        return [hook.training["status"] for hook in self.hooks]


@contextlib.asynccontextmanager
async def receiving() -> AsyncIterator[Receiver]:
    """A receiver that listens at its `url`."""
    receiver = Receiver()
    server = await asyncio.start_server(receiver.serve, "127.0.0.1", 0)
    receiver.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/hook?ref=1"
    async with server:
        yield receiver
