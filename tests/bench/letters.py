"""
How long do 100,000 dead letters take to be archived, and how much memory? ``python -m tests.bench.letters``

On private servers, with the real process, which is killed once on the way. Then every question is asked once.
"""

from __future__ import annotations

import asyncio
import sys
import tempfile
import time
from pathlib import Path
from typing import Final

import httpx

from deploy.local import local_servers
from shared.contract.topology import DEAD_QUEUE, topology
from shared.runtime.broker import Publisher
from tests.broker import Broker
from tests.databases import new_database
from tests.ops import dead
from tests.stack import Stack

LETTERS: Final = 100_000
CAUSES: Final = ("no version in the output", "out of memory", "no prompt in the input", "the model does not answer")
QUESTIONS: Final = (
    "/v1/dead-letters?limit=200",
    "/v1/dead-letters?status=open",
    "/v1/dead-letters?queue=modelswap.extractor",
    "/v1/dead-letters?status=dropped",
    "/v1/dead-letters?error_code=none",
    "/v1/dead-letters?training_id=t777",
    "/v1/dead-letters?text=prompt",
    "/v1/dead-letters?text=t777",
    "/v1/dead-letters?since=2030-01-01T00:00:00Z",
    "/v1/dead-letters?until=2020-01-01T00:00:00Z",
    "/v1/dead-letter-groups",
    "/v1/dead-letter-groups?status=dropped",
    "/v1/dead-letter-counts",
)


async def main(count: int) -> None:
    plan = topology()
    with local_servers(say=print) as servers, tempfile.TemporaryDirectory() as folder:
        async with new_database(servers.database_url) as database, Broker(servers.amqp_url, plan) as broker:
            await fill(servers.amqp_url, count)
            await broker.until(DEAD_QUEUE, count)
            stack = Stack(
                Path(folder), amqp_url=servers.amqp_url, database_url=database, replicate_url="http://127.0.0.1:9"
            )
            ops = stack.processes["ops"]
            began = time.monotonic()
            ops.start()
            await archived(stack, count // 2)
            killed = peak(ops.pid)
            ops.kill()
            ops.start()
            await archived(stack, count)
            seconds = time.monotonic() - began
            print(f"{count} letters in {seconds:.1f} s, killed once on the way: {count / seconds:.0f} a second")
            print(f"peak memory {killed} and {peak(ops.pid)} MB; {await broker.depth(DEAD_QUEUE)} left in RabbitMQ")
            for question in QUESTIONS:
                begun = time.monotonic()
                answer = await stack.ops.get(question)
                print(f"{(time.monotonic() - begun) * 1000:7.1f} ms  {answer.status_code}  {question}")
            ops.stop()


async def fill(url: str, count: int) -> None:
    plan = topology()
    async with Publisher(url, name="bench", topology=plan, timeout_seconds=60) as publisher:
        for begin in range(0, count, 1000):
            messages = [dead(f"t{n}", plan, text=CAUSES[n % 4]) for n in range(begin, min(begin + 1000, count))]
            await asyncio.gather(*map(publisher.publish, messages))


async def archived(stack: Stack, count: int) -> None:
    while True:
        try:
            found = (await stack.ops.get("/v1/dead-letter-counts")).json()["open"]
        except (httpx.TransportError, KeyError):
            found = 0
        if found >= count:
            return
        await asyncio.sleep(0.1)


def peak(pid: int) -> int:
    """The most memory that a process had, in MB."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) // 1024 for line in lines if line.startswith("VmHWM"))


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]) if len(sys.argv) > 1 else LETTERS))
