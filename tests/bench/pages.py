"""
Are the console's pages fast when years are stored? ``python -m tests.bench.pages``

A million trainings, 100,000 dead letters of 1,000 causes, as many lines of the audit, on private servers. Each page is
asked for again and again, and so is what it shows, by the API. Statements that took long come with their plans.

    python -m tests.bench.pages --trainings 30000 --letters 3000 --groups 100
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import math
import re
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import quantiles
from typing import Final

import httpx
from rich.console import Console
from rich.table import Table

from deploy.local import local_servers
from shared.contract.topology import topology
from tests.broker import Broker
from tests.crowd import fill
from tests.databases import new_database
from tests.forged import session
from tests.stack import OPS_TOKEN, Stack, plain_client
from tests.state import connected

_SERVICES: Final = ("state", "notifier", "ops")
#: Rounds that connect and plan.
_WARM_UP: Final = 3
#: Each page, and what of the API it shows: of ops, or of state.
_PAGES: Final[dict[str, tuple[str, ...]]] = {
    "/": (
        "state /training-counts",
        "state /swap-statistics",
        "state /webhook-statistics",
        "state /trainings?stage=running",
        "/processes",
        "/queues",
        "/dead-letter-groups?status=open",
    ),
    "/trainings": ("state /trainings",),
    "/trainings?stage=failed": ("state /trainings?stage=failed",),
    "/trainings/{training}": ("state /trainings/{training}", "state /trainings/{training}/timeline"),
    "/users/{user}": (
        "state /users/{user}/model",
        "state /users/{user}/model/history",
        "state /users/{user}/trainings",
    ),
    "/search?q=acme/crowd-7": ("state /search?q=acme/crowd-7",),
    "/dead-letters": ("/dead-letter-groups?status=open", "/dead-letter-counts"),
    "/dead-letters?fingerprint={group}": (
        "/dead-letters?fingerprint={group}",
        "/dead-letter-groups?fingerprint={group}",
        "/dead-letter-suggestions?fingerprint={group}",
    ),
    "/dead-letters?show=list&status=open": ("/dead-letters?status=open", "/dead-letter-suggestions?status=open"),
    "/dead-letters/{letter}": ("/dead-letters/{letter}",),
    "/replays": ("/replays?limit=30",),
    "/replays/{replay}": ("/replays/{replay}", "/replays/{replay}/users"),
    "/replays/{replay}?show=letters": ("/replays/{replay}", "/replays/{replay}/letters"),
    "/queues": ("/queues", "/processes", "/reconciliation", "/subscriptions"),
    "/audit": ("/audit",),
    "/audit?actor=olga": ("/audit?actor=olga",),
}


async def main(options: argparse.Namespace, say: Console) -> None:
    plans = {
        "shared_preload_libraries": "auto_explain",
        "auto_explain.log_min_duration": str(options.slow_ms),
        "auto_explain.log_analyze": "on",
        "auto_explain.log_timing": "off",
        "shared_buffers": "512MB",
    }
    with local_servers(say=say.print, postgres_options=plans) as servers, tempfile.TemporaryDirectory() as folder:
        async with new_database(servers.database_url) as database, Broker(servers.amqp_url, topology()):
            begun = time.monotonic()
            await fill(database, trainings=options.trainings, letters=options.letters, groups=options.groups)
            say.print(f"{options.trainings:,} trainings, {options.letters:,} dead letters of {options.groups:,} causes")
            say.print(f"stored in {time.monotonic() - begun:.0f} s")
            stack = Stack(
                Path(folder),
                amqp_url=servers.amqp_url,
                database_url=database,
                replicate_url="http://127.0.0.1:9",
                settings={"MODELSWAP_MANAGEMENT_URL": servers.management_url},
            )
            async with stack.clients():
                await _measured(stack, options.rounds, say)
        if options.plans:
            log = (servers.postgres._folder / "log").read_text(errors="replace")
            for milliseconds, plan in re.findall(r"duration: ([\d.]+) ms  plan:\n((?:\t.*\n)+)", log):
                say.print(f"{milliseconds} ms", plan, markup=False, highlight=False)


async def _measured(stack: Stack, rounds: int, say: Console) -> None:
    running = [stack.processes[name] for name in _SERVICES]
    for process in running:
        process.start()
    try:
        await stack.until_ready("state", "notifier")
        # Ops never is: no Replicate answers it.
        async with asyncio.timeout(120):
            while not await _answers(f"{stack.url('ops')}/livez"):
                await asyncio.sleep(0.1)
        values = await _examples(stack)
        async with session(stack, OPS_TOKEN) as (client, _):
            made = Table("page", "p50 ms", "p95 ms", "KB", "API calls", "p50 ms", "p95 ms")
            for page, calls in _PAGES.items():
                asked = [(client, page.format(**values)), *(_of(stack, call.format(**values)) for call in calls)]
                times, size = await _times(asked, rounds)
                by_api = [sum(each[1:]) for each in times]
                made.add_row(
                    *(page, *_shown([each[0] for each in times]), f"{size / 1000:.0f}", "\n".join(calls)),
                    *_shown(by_api),
                )
            say.print(made)
    finally:
        for process in running:
            process.stop()


async def _answers(url: str) -> bool:
    async with plain_client() as client:
        with contextlib.suppress(httpx.TransportError):
            return (await client.get(url)).is_success
    return False


async def _examples(stack: Stack) -> dict[str, str]:
    """A training, a user and so on, from the middle of the past."""
    async with connected(stack.database_url) as connection:
        return {
            "user": await connection.fetchval("SELECT user_id FROM state.user_models OFFSET 1000 LIMIT 1"),
            "training": await connection.fetchval(
                "SELECT training_id FROM state.trainings WHERE stage = 'replaced' ORDER BY number LIMIT 1 OFFSET 1000"
            ),
            "group": await connection.fetchval("SELECT fingerprint FROM ops.letters ORDER BY number DESC LIMIT 1"),
            "letter": str(await connection.fetchval("SELECT max(number) / 2 FROM ops.letters")),
            "replay": str(await connection.fetchval("SELECT id FROM ops.replays ORDER BY number DESC LIMIT 1")),
        }


def _of(stack: Stack, call: str) -> tuple[httpx.AsyncClient, str]:
    service, _, path = call.rpartition(" ")
    return (stack.api if service == "state" else stack.ops), f"/v1{path}"


async def _times(asked: Sequence[tuple[httpx.AsyncClient, str]], rounds: int) -> tuple[list[list[float]], int]:
    """
    Ask for each in turn, so that a busy machine slows all alike.

    Returns the milliseconds of each in each round (not a number: it was refused), and the size of the first's answer.
    """
    times, size = [], 0
    for _ in range(rounds + _WARM_UP):
        took = []
        for number, (client, path) in enumerate(asked):
            begun = time.perf_counter()
            answer = await client.get(path)
            took.append((time.perf_counter() - begun) * 1000 if answer.is_success else math.nan)
            size = len(answer.content) if number == 0 else size
        times.append(took)
    return times[_WARM_UP:], size


def _shown(times: Sequence[float]) -> tuple[str, str]:
    cuts = quantiles(times, n=20)
    return f"{cuts[9]:.1f}", f"{cuts[18]:.1f}"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trainings", type=int, default=1_000_000)
    parser.add_argument("--letters", type=int, default=100_000)
    parser.add_argument("--groups", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--slow-ms", type=int, default=30, help="statements that take longer are shown with --plans")
    parser.add_argument("--plans", action="store_true")
    asyncio.run(main(parser.parse_args(), Console(width=180)))
