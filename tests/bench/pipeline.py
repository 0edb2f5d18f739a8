"""
How fast is modelswap, beside its peers? Same servers, same webhooks, rounds in turn; only the ratios count.

    make bench                                                                     all of them
    make bench OPTIONS="--only modelswap FastStream --rounds 2 --trainings 2000"

Throughput: completions posted as fast as they are answered, until every model is committed. Latency: completions at 50
a second, from the first byte of the webhook to the commit as Postgres itself stamped it. A peer whose library is not
installed is left out.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

import asyncpg
from rich.console import Console

from deploy.local import Servers, local_servers
from services.state.migrate import MIGRATIONS
from tests.bench.logcost import line_us
from tests.bench.measure import Plan, measure
from tests.bench.pipelines import MODELSWAP, PIPELINES, Pipeline
from tests.bench.run import Run
from tests.bench.table import summary, table


def installed(pipelines: Sequence[Pipeline], say: Console) -> list[Pipeline]:
    """Return those of *pipelines* whose libraries are installed; say which are left out, and why."""
    for pipeline in pipelines:
        if missing := pipeline.missing():
            say.print(f"{pipeline.name} is left out: {' and '.join(missing)} cannot be imported here (see make bench)")
    return [pipeline for pipeline in pipelines if not pipeline.missing()]


async def main(pipelines: Sequence[Pipeline], servers: Servers, plan: Plan, say: Console) -> None:
    await MIGRATIONS.apply(servers.database_url)
    database = await asyncpg.connect(servers.database_url)
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        runs = []
        for pipeline in pipelines:
            if pipeline.schema:
                await database.execute(pipeline.schema)
            runs.append(Run(pipeline, servers, database, Path(folder)))
            stack.enter_context(runs[-1].processes())
        results = await measure(runs, plan, lambda line: say.print(line, soft_wrap=True))
    await database.close()
    say.print(table(results))
    first, *others = results
    if first.name == MODELSWAP.name:
        lines, cost = first.log_lines_per_training, line_us()
        say.print(f"of its CPU, logs take {lines * cost:.0f} µs per training: {lines:.1f} lines of {cost:.0f} µs")
    if others:
        say.print(summary(results), soft_wrap=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--trainings", type=int, default=4000, help="of each pipeline in each round")
    parser.add_argument("--timed-trainings", type=int, default=200, help="likewise, at 50 a second")
    parser.add_argument("--rabbitmq", default="auto", help="its series, such as 3.10 or 4")
    parser.add_argument("--only", nargs="+", choices=[each.name for each in PIPELINES])
    options = parser.parse_args()
    wanted = [each for each in PIPELINES if options.only is None or each.name in options.only]
    console = Console(width=None if sys.stdout.isatty() else 120)
    console.print("'plain' is aio-pika and asyncpg, one message at a time; no peer gives modelswap's guarantees")
    present = installed(wanted, console)
    plan = Plan(options.rounds, options.trainings, options.timed_trainings)
    stamped = {"track_commit_timestamp": "on"}
    with local_servers(rabbitmq=options.rabbitmq, durable=True, postgres_options=stamped) as servers:
        asyncio.run(main(present, servers, plan, console))
