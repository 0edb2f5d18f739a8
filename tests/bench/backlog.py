"""
Does modelswap stay small and fast when much is waiting, and when much is stored?

    make bench-backlog
    make bench-backlog OPTIONS="--completions 2000 --rows 1000 20000 --rounds 2 --trainings 500"

Backlog: completions lie in the queue before the extractor and state start; how fast are they worked off, in how much
memory? Scale: the cost of a training where few rows are stored and where many are, each number on servers of its own,
in turn.
"""

from __future__ import annotations

import argparse
import asyncio
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack, ExitStack
from pathlib import Path

import asyncpg
from rich.console import Console
from rich.table import Table

from deploy.local import Servers, local_servers
from services.state.migrate import MIGRATIONS
from shared.contract.envelope import wrap
from shared.contract.events import TrainingSucceeded
from shared.contract.topology import topology
from shared.runtime.broker import Publisher, to_message
from shared.runtime.clock import now
from tests.bench.measure import Plan, measure
from tests.bench.pipelines import MODELSWAP
from tests.bench.run import Run, Training
from tests.bench.table import table
from tests.bench.usage import memory_mb

_AT_ONCE = 1000
_SAMPLE_SECONDS = 0.5

#: Users with an active model; consistent, so that neither triggers nor foreign keys need to look.
_FILL = """
    SET LOCAL session_replication_role = replica;
    CREATE TEMPORARY TABLE stored ON COMMIT DROP AS
        SELECT md5(n::text)::uuid AS ref, 'stored-' || n AS user_id, 'stored' || n AS training_id,
               'acme/stored-' || n AS destination,
               'acme/stored-' || n || ':' || encode(sha256(n::text::bytea), 'hex') AS model
        FROM generate_series(1, {rows}) AS n;
    INSERT INTO state.users (user_id, next_generation) SELECT user_id, 2 FROM stored;
    INSERT INTO state.trainings (ref, training_id, user_id, generation, destination, trigger_word, stage, model)
        SELECT ref, training_id, user_id, 1, destination, 'TOK', 'active', model FROM stored;
    INSERT INTO state.model_history (user_id, generation, ref, model, trigger_word, cause, actor, reason)
        SELECT user_id, 1, ref, model, 'TOK', 'training', 'bench', 'stored' FROM stored;
    INSERT INTO state.user_models (user_id, generation, ref, model, trigger_word, activated_at)
        SELECT user_id, 1, ref, model, 'TOK', now() FROM stored;
    INSERT INTO state.inbox (event_id) SELECT gen_random_uuid()::text FROM stored, generate_series(1, 2);
"""


async def drain(servers: Servers, completions: int, folder: Path, say: Console) -> None:
    """Publish *completions*, then start the extractor and state; print the rate and the memory."""
    await MIGRATIONS.apply(servers.database_url)
    database = await asyncpg.connect(servers.database_url)
    run = Run(MODELSWAP, servers, database, folder)
    trainings = await run.register(completions)
    await publish(servers.amqp_url, trainings)
    say.print(f"{completions:,} completions wait")
    first = completions // 100
    with run.processes(["extractor", "state"]):
        await run.until_committed(trainings[:first])
        begin = time.perf_counter()
        sampling = asyncio.create_task(sample_memory(run))
        await run.until_committed(trainings)
        seconds = time.perf_counter() - begin
        sampling.cancel()
        samples = [*await sampling, memory_mb(run.everybody())]
    await database.close()
    say.print(f"all but the first hundredth in {seconds:.0f} s: {(completions - first) / seconds:.0f} trainings/s")
    say.print(memory_table(samples))


async def publish(url: str, trainings: Sequence[Training]) -> None:
    """Publish the completions of *trainings* as the receiver would."""
    plan = topology()
    async with Publisher(url, name="bench", topology=plan, timeout_seconds=60) as publisher:
        for begin in range(0, len(trainings), _AT_ONCE):
            events = [
                TrainingSucceeded(training_id=each.id, output={"version": f"{each.destination}:{each.version}"})
                for each in trainings[begin : begin + _AT_ONCE]
            ]
            messages = [to_message(wrap(event, source="receiver", now=now()), plan) for event in events]
            await asyncio.gather(*map(publisher.publish, messages))


async def sample_memory(run: Run) -> list[Mapping[str, float]]:
    """Look at the memory of everybody until canceled; return what was seen."""
    samples: list[Mapping[str, float]] = []
    try:
        while True:
            samples.append(memory_mb(run.everybody()))
            await asyncio.sleep(_SAMPLE_SECONDS)
    except asyncio.CancelledError:
        return samples


def memory_table(samples: Sequence[Mapping[str, float]]) -> Table:
    """Return each process's memory along the *samples*."""
    made = Table("memory, MB", "after the first hundredth", "peak", "at the end")
    for name in samples[0]:
        sizes = [sample[name] for sample in samples]
        made.add_row(name, *(f"{size:.0f}" for size in (sizes[0], max(sizes), sizes[-1])))
    return made


async def scale(servers: Mapping[int, Servers], plan: Plan, folder: Path, say: Console) -> None:
    """Measure trainings beside so many stored rows on each of the *servers*."""
    async with AsyncExitStack() as stack:
        runs = []
        for rows, pair in servers.items():
            await MIGRATIONS.apply(pair.database_url)
            database = await asyncpg.connect(pair.database_url)
            stack.push_async_callback(database.close)
            await fill(database, rows)
            say.print(f"{rows:,} rows are stored")
            runs.append(Run(MODELSWAP, pair, database, folder, name=f"{rows:,} rows"))
            stack.enter_context(runs[-1].processes())
        say.print(table(await measure(runs, plan, lambda line: say.print(line, soft_wrap=True))))


async def fill(database: asyncpg.Connection, rows: int) -> None:
    """Store *rows* users with a training, a model and its history, and leave nothing to be done about it later."""
    async with database.transaction():
        await database.execute(_FILL.format(rows=rows))
    await database.execute("VACUUM ANALYZE")
    await database.execute("CHECKPOINT")


def main(options: argparse.Namespace) -> None:
    say = Console()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if options.completions:
            with local_servers(rabbitmq=options.rabbitmq, durable=True) as servers:
                asyncio.run(drain(servers, options.completions, folder, say))
        if options.rows:
            with ExitStack() as stack:
                pairs = {
                    rows: stack.enter_context(local_servers(rabbitmq=options.rabbitmq, durable=True))
                    for rows in options.rows
                }
                asyncio.run(scale(pairs, Plan(options.rounds, options.trainings, 0), folder, say))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--completions", type=int, default=100_000, help="0: no backlog")
    parser.add_argument("--rows", type=int, nargs="*", default=[1_000, 1_000_000], help="none: no scale")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--trainings", type=int, default=4000, help="beside each number of rows in each round")
    parser.add_argument("--rabbitmq", default="auto", help="its series, such as 3.10 or 4")
    main(parser.parse_args())
