"""One pipeline's processes on a pair of servers, and the work they are given. Edge."""

from __future__ import annotations

import asyncio
import hashlib
import os
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Collection, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import Final

import asyncpg
import httpx

from deploy.local import Servers
from tests.bench.load import Webhook, post_all, post_at_rate, webhook
from tests.bench.pipelines import Pipeline
from tests.bench.usage import Processes, family
from tests.stack import API_TOKEN, ROOT, WEBHOOK_SECRET, free_port

_HOST: Final = "127.0.0.1"
#: A training takes milliseconds; a pipeline that is this slow has stopped.
_PATIENCE_SECONDS: Final = 0.1
#: Users whose models are looked up at once.
_LOOK_AT: Final = 500
_LOG_LINES: Final = 20


class Training:
    """A training of a user of its own; *number* makes it unique."""

    def __init__(self, number: int) -> None:
        self.id = f"bench{number:08}"
        self.user = f"user-{number}"
        self.destination = f"acme/u-{number}"
        self.version = hashlib.sha256(self.id.encode()).hexdigest()

    def webhook(self, port: int) -> Webhook:
        return webhook(self.id, self.version, self.destination, host=_HOST, port=port)


class Run:
    """One pipeline on one pair of servers."""

    def __init__(
        self, pipeline: Pipeline, servers: Servers, database: asyncpg.Connection, folder: Path, *, name: str = ""
    ) -> None:
        self.pipeline = pipeline
        self.name = name or pipeline.name
        self._servers = servers
        self._database = database
        self._folder = folder
        self._port = free_port()
        self._pids: dict[str, int] = {}
        self._made = 0

    @contextmanager
    def processes(
        self,
        roles: Collection[str] = ("receiver", "extractor", "state"),
        *,
        more: Mapping[str, str] = MappingProxyType({}),
    ) -> Iterator[None]:
        """Run the processes of these *roles*, with *more* variables; end them afterwards."""
        environment = {
            **os.environ,
            **more,
            "MODELSWAP_AMQP_URL": self._servers.amqp_url,
            "MODELSWAP_DATABASE_URL": self._servers.database_url,
            "MODELSWAP_WEBHOOK_SECRETS": WEBHOOK_SECRET,
            "MODELSWAP_REF_SECRETS": secrets.token_urlsafe(),
            "MODELSWAP_API_TOKENS": API_TOKEN,
            "MODELSWAP_PUBLIC_URL": "http://127.0.0.1",
            "MODELSWAP_RECEIVER_PORT": str(self._port),
            "MODELSWAP_EXTRACTOR_PORT": str(free_port()),
            "MODELSWAP_STATE_PORT": str(free_port()),
        }
        started = []
        try:
            for role in roles:
                command = [sys.executable, "-m", *self.pipeline.processes[role]]
                with self._log(role).open("wb") as log:
                    process = subprocess.Popen(command, env=environment, cwd=ROOT, stdout=log, stderr=log)
                started.append(process)
                self._pids[role] = process.pid
            yield
        finally:
            for process in started:
                process.send_signal(signal.SIGTERM)
            for process in started:
                process.wait(20)

    async def until_ready(self) -> None:
        """Wait until webhooks can be posted."""
        async with self._patience(60), httpx.AsyncClient() as client:
            while True:
                try:
                    if (await client.get(f"http://{_HOST}:{self._port}/readyz")).is_success:
                        return
                except httpx.TransportError:
                    pass
                await asyncio.sleep(0.05)

    async def register(self, number: int) -> list[Training]:
        """Register *number* new trainings."""
        trainings = [Training(each) for each in range(self._made, self._made + number)]
        self._made += number
        ids, users, destinations = zip(*((each.id, each.user, each.destination) for each in trainings), strict=True)
        for statement in self.pipeline.register:
            await self._database.execute(statement, ids, users, destinations)
        return trainings

    async def until_committed(self, trainings: Sequence[Training]) -> None:
        """Wait until each of *trainings* has made its user's model. Looks up few rows, however many are stored."""
        async with self._patience(60 + len(trainings) * _PATIENCE_SECONDS):
            for begin in range(0, len(trainings), _LOOK_AT):
                pending = {each.user for each in trainings[begin : begin + _LOOK_AT]}
                while pending:
                    rows = await self._database.fetch(self.pipeline.committed, list(pending))
                    pending -= {row["user_id"] for row in rows}
                    if pending:
                        await asyncio.sleep(0.02)

    async def throughput(self, trainings: Sequence[Training]) -> float:
        """Trainings per second, from the first post to the last commit."""
        webhooks = [each.webhook(self._port) for each in trainings]
        begin = time.perf_counter()
        await post_all(webhooks, host=_HOST, port=self._port, connections=64)
        await self.until_committed(trainings)
        return len(trainings) / (time.perf_counter() - begin)

    async def latencies_ms(self, trainings: Sequence[Training], per_second: float) -> list[float]:
        """From the webhook's first byte to the commit, for each training."""
        webhooks = [each.webhook(self._port) for each in trainings]
        sent = await post_at_rate(webhooks, host=_HOST, port=self._port, per_second=per_second)
        await self.until_committed(trainings)
        rows = await self._database.fetch(self.pipeline.commits, list(sent))
        return [(row["at"] - sent[row["training_id"]]) * 1000 for row in rows]

    def log_lines(self) -> int:
        """How many lines the processes have logged so far."""
        return sum(self._log(role).read_bytes().count(b"\n") for role in self._pids)

    def own(self) -> Processes:
        """The pipeline's processes."""
        return {role: family(pid) for role, pid in self._pids.items()}

    def everybody(self) -> Processes:
        """The pipeline's processes and its servers'."""
        servers = {"RabbitMQ": self._servers.rabbitmq.pid, "Postgres": self._servers.postgres.pid}
        return {**self.own(), **{name: family(pid) for name, pid in servers.items()}}

    def _log(self, role: str) -> Path:
        return self._folder / f"{self.name}-{role}.log"

    @asynccontextmanager
    async def _patience(self, seconds: float) -> AsyncIterator[None]:
        """End what takes longer than *seconds*, with the last lines that the processes logged."""
        try:
            async with asyncio.timeout(seconds):
                yield
        except TimeoutError as error:
            lines = [line for role in self._pids for line in self._log(role).read_text().splitlines()[-_LOG_LINES:]]
            raise TimeoutError(f"{self.name} was not done after {seconds} s:\n" + "\n".join(lines)) from error
