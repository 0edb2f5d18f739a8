"""
How fast is modelswap, beside what most would write? Same servers, same webhooks, same run; only the ratios count.

    make bench                                       throughput, latency, CPU and memory of both
    python -m tests.bench.pipeline --trainings 20000 --only modelswap

Throughput: completions posted as fast as they are answered, until every model is committed. Latency: completions at 50
a second, from the first byte of the webhook to the commit as Postgres itself stamped it.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import os
import secrets
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import asyncpg
import httpx
import structlog
from rich.console import Console
from rich.table import Table

from deploy.local import Servers, local_servers
from services.state.migrate import MIGRATIONS
from shared.runtime import logs
from tests.bench.load import Webhook, post_all, post_at_rate, webhook
from tests.bench.plain import SCHEMA
from tests.stack import API_TOKEN, ROOT, WEBHOOK_SECRET, free_port

TRAINER: Final = f"ostris/flux-dev-lora-trainer:{'e' * 64}"
ROLES: Final = ("receiver", "extractor", "state")
_TICKS: Final = os.sysconf("SC_CLK_TCK")
_PAGE: Final = os.sysconf("SC_PAGE_SIZE")


@dataclass(frozen=True, slots=True)
class Pipeline:
    """One of the two, and where its committed models are found."""

    name: str
    modules: Mapping[str, Sequence[str]]
    #: Counts the models that are committed.
    count: str
    #: When each training's model was committed, as Postgres stamped it.
    commits: str
    #: Registers trainings: arrays of ids, users and destinations.
    register: tuple[str, ...]


MODELSWAP: Final = Pipeline(
    name="modelswap",
    modules={
        "receiver": ("services.receiver",),
        "extractor": ("tests.bench.instant",),
        "state": ("services.state",),
    },
    count="SELECT count(*) FROM state.user_models",
    commits=(
        "SELECT training_id, extract(epoch FROM pg_xact_commit_timestamp(m.xmin))::float8 AS at"
        " FROM state.user_models m JOIN state.trainings USING (ref) WHERE training_id = ANY($1)"
    ),
    register=(
        """INSERT INTO state.users (user_id, next_generation)
        SELECT u, 2 FROM unnest($1::text[], $2::text[], $3::text[]) AS x (t, u, d)""",
        """INSERT INTO state.trainings (ref, training_id, user_id, generation, destination, trigger_word)
        SELECT gen_random_uuid(), t, u, 1, d, 'TOK' FROM unnest($1::text[], $2::text[], $3::text[]) AS x (t, u, d)""",
    ),
)
PLAIN: Final = Pipeline(
    name="one by one",
    modules={role: ("tests.bench.plain", role) for role in ROLES},
    count="SELECT count(*) FROM plain_models",
    commits=(
        "SELECT training_id, extract(epoch FROM pg_xact_commit_timestamp(xmin))::float8 AS at"
        " FROM plain_models WHERE training_id = ANY($1)"
    ),
    register=(
        """INSERT INTO plain_trainings (training_id, user_id)
        SELECT t, u FROM unnest($1::text[], $2::text[], $3::text[]) AS x (t, u, d)""",
    ),
)


@dataclass(frozen=True, slots=True)
class Result:
    """What one pipeline did."""

    name: str
    per_second: float
    cpu_us: Mapping[str, float]
    memory_mb: Mapping[str, tuple[float, float]]
    p50_ms: float
    p99_ms: float
    #: Log lines per training, of all processes.
    log_lines: float


class Run:
    """One pipeline's processes on one pair of servers."""

    def __init__(self, pipeline: Pipeline, servers: Servers, database: asyncpg.Connection, folder: Path) -> None:
        self.pipeline = pipeline
        self._servers = servers
        self._database = database
        self._folder = folder
        self.port = free_port()
        self._pids: dict[str, int] = {}
        self._made = 0

    @contextmanager
    def processes(self) -> Iterator[None]:
        """Start all three; end them afterwards."""
        environment = {
            **os.environ,
            "MODELSWAP_AMQP_URL": self._servers.amqp_url,
            "MODELSWAP_DATABASE_URL": self._servers.database_url,
            "MODELSWAP_WEBHOOK_SECRETS": WEBHOOK_SECRET,
            "MODELSWAP_REF_SECRETS": secrets.token_urlsafe(),
            "MODELSWAP_API_TOKENS": API_TOKEN,
            "MODELSWAP_PUBLIC_URL": "http://127.0.0.1",
            "MODELSWAP_RECEIVER_PORT": str(self.port),
            "MODELSWAP_EXTRACTOR_PORT": str(free_port()),
            "MODELSWAP_STATE_PORT": str(free_port()),
        }
        started = []
        try:
            for role, (module, *arguments) in self.pipeline.modules.items():
                log = (self._folder / f"{self.pipeline.name}-{role}.log").open("wb")
                command = [sys.executable, "-m", module, *arguments]
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
        async with asyncio.timeout(30), httpx.AsyncClient() as client:
            while True:
                try:
                    if (await client.get(f"http://127.0.0.1:{self.port}/readyz")).is_success:
                        return
                except httpx.TransportError:
                    pass
                await asyncio.sleep(0.05)

    async def prepare(self, number: int) -> list[Webhook]:
        """Register *number* trainings, and make the webhooks that complete them."""
        numbers = range(self._made, self._made + number)
        self._made += number
        ids = [f"bench{each:08}" for each in numbers]
        destinations = [f"acme/u-{each}" for each in numbers]
        users = [f"user-{each}" for each in numbers]
        for statement in self.pipeline.register:
            await self._database.execute(statement, ids, users, destinations)
        return [
            webhook(name, hashlib.sha256(name.encode()).hexdigest(), destination, host="127.0.0.1", port=self.port)
            for name, destination in zip(ids, destinations, strict=True)
        ]

    async def until_committed(self) -> None:
        async with asyncio.timeout(300):
            while await self._database.fetchval(self.pipeline.count) < self._made:
                await asyncio.sleep(0.02)

    async def throughput(self, number: int) -> float:
        """Trainings per second, from the first post to the last commit."""
        webhooks = await self.prepare(number)
        begin = time.perf_counter()
        await post_all(webhooks, host="127.0.0.1", port=self.port, connections=64)
        await self.until_committed()
        return number / (time.perf_counter() - begin)

    async def latencies_ms(self, number: int, per_second: float) -> list[float]:
        """From the webhook's first byte to the commit, for each training."""
        webhooks = await self.prepare(number)
        sent = await post_at_rate(webhooks, host="127.0.0.1", port=self.port, per_second=per_second)
        await self.until_committed()
        rows = await self._database.fetch(self.pipeline.commits, list(sent))
        return sorted((row["at"] - sent[row["training_id"]]) * 1000 for row in rows)

    def log_lines(self) -> float:
        """How many lines the processes have logged for each training so far."""
        logs = self._folder.glob(f"{self.pipeline.name}-*.log")
        return sum(log.read_bytes().count(b"\n") for log in logs) / self._made

    def everybody(self) -> dict[str, list[int]]:
        """Whose work it is: our processes, and the servers'."""
        return {
            **{role: [pid] for role, pid in self._pids.items()},
            "RabbitMQ": [self._servers.rabbitmq_pid],
            "Postgres": _family(self._servers.postgres_pid),
        }


async def measure(pipeline: Pipeline, servers: Servers, options: argparse.Namespace, say: Console) -> Result:
    """Everything about one pipeline."""
    with tempfile.TemporaryDirectory() as folder:
        database = await asyncpg.connect(servers.database_url)
        run = Run(pipeline, servers, database, Path(folder))
        with run.processes():
            await run.until_ready()
            say.print(f"{pipeline.name}: warming up")
            await run.throughput(500)
            latencies = await run.latencies_ms(options.latency_trainings, 50.0)
            say.print(f"{pipeline.name}: {options.latency_trainings} trainings at 50/s done")
            speeds, memory = [], [{name: _rss_mb(pids) for name, pids in run.everybody().items()}]
            before = {name: _cpu_seconds(pids) for name, pids in run.everybody().items()}
            for _ in range(options.rounds):
                speeds.append(await run.throughput(options.trainings // options.rounds))
                memory.append({name: _rss_mb(pids) for name, pids in run.everybody().items()})
                said = f"{pipeline.name}: {speeds[-1]:.0f} trainings/s, MB {_short(memory[-1])}"
                say.print(said, soft_wrap=True)
            after = {name: _cpu_seconds(pids) for name, pids in run.everybody().items()}
            lines = run.log_lines()
        await database.close()
    return Result(
        name=pipeline.name,
        per_second=statistics.median(speeds),
        cpu_us={name: (after[name] - before[name]) / options.trainings * 1e6 for name in after},
        memory_mb={name: (memory[1][name], memory[-1][name]) for name in memory[1]},
        p50_ms=latencies[len(latencies) // 2],
        p99_ms=latencies[int(len(latencies) * 0.99)],
        log_lines=lines,
    )


def _log_line_us(number: int = 20_000) -> float:
    """What one line about a training costs, in µs of CPU."""
    with Path(os.devnull).open("w") as nowhere, redirect_stdout(nowhere):
        logs.configure("bench")
        log = structlog.get_logger()
        facts = {"routing_key": "model.ready.v1", "training_id": "t" * 26, "message_id": "m" * 36, "trace_id": "a" * 32}
        begin = time.process_time()
        for attempt in range(number):
            log.info("delivery.handled", queue="modelswap.state", attempt=attempt, follow=[], **facts)
        return (time.process_time() - begin) / number * 1e6


def _short(memory: Mapping[str, float]) -> str:
    return " ".join(f"{name}={size:.0f}" for name, size in memory.items())


def _family(pid: int) -> list[int]:
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [pid, *map(int, children)]


def _cpu_seconds(pids: Sequence[int]) -> float:
    total = 0
    for pid in pids:
        try:
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()
        except OSError:
            continue
        total += sum(map(int, fields[11:15]))
    return total / _TICKS


def _rss_mb(pids: Sequence[int]) -> float:
    # Postgres' workers share their buffers: the largest stands for them.
    sizes = []
    for pid in pids:
        try:
            sizes.append(int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * _PAGE / 2**20)
        except OSError:
            continue
    return max(sizes, default=0.0)


def show(results: Sequence[Result], say: Console) -> None:
    table = Table(title="the same webhooks on the same servers; only ratios count")
    table.add_column("")
    for result in results:
        table.add_column(result.name, justify="right")
    table.add_row("trainings/s, median", *(f"{result.per_second:.0f}" for result in results))
    table.add_row("webhook → commit at 50/s, p50 ms", *(f"{result.p50_ms:.1f}" for result in results))
    table.add_row("webhook → commit at 50/s, p99 ms", *(f"{result.p99_ms:.1f}" for result in results))
    for name in results[0].cpu_us:
        table.add_row(f"CPU µs per training, {name}", *(f"{result.cpu_us[name]:.0f}" for result in results))
    table.add_row("CPU µs per training, all", *(f"{sum(result.cpu_us.values()):.0f}" for result in results))
    for name in results[0].memory_mb:
        cells = (f"{first:.0f} → {last:.0f}" for first, last in (result.memory_mb[name] for result in results))
        table.add_row(f"memory MB, {name}", *cells)
    lines = results[0].log_lines
    say.print(table)
    if lines >= 1:
        cost = _log_line_us()
        said = f"of modelswap's CPU, logs take {lines * cost:.0f} µs per training: {lines:.1f} lines of {cost:.0f} µs"
        say.print(said)
    if len(results) == 2:
        ours, theirs = results
        say.print(f"modelswap is {ours.per_second / theirs.per_second:.2f} times as fast as one by one")


async def main(servers: Servers, options: argparse.Namespace) -> None:
    say = Console()
    say.print("beside modelswap, 'one by one': aio-pika and asyncpg, one message at a time, without our guarantees")
    await MIGRATIONS.apply(servers.database_url)
    setup = await asyncpg.connect(servers.database_url)
    await setup.execute(SCHEMA)
    await setup.close()
    pipelines = [each for each in (MODELSWAP, PLAIN) if options.only in (None, each.name)]
    show([await measure(pipeline, servers, options, say) for pipeline in pipelines], say)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trainings", type=int, default=20_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--latency-trainings", type=int, default=1000)
    parser.add_argument("--rabbitmq", default="auto", help="its series, such as 3.10 or 4")
    parser.add_argument("--only", choices=[MODELSWAP.name, PLAIN.name])
    options = parser.parse_args()
    stamped = {"track_commit_timestamp": "on"}
    with local_servers(rabbitmq=options.rabbitmq, durable=True, postgres_options=stamped) as servers:
        asyncio.run(main(servers, options))
