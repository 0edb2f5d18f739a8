"""
What do traces cost? The same trainings without them, with all kept, and with one in ten kept; in turn, on one machine.

    .venv/bin/python -m tests.bench.traces --rounds 3
"""

from __future__ import annotations

import argparse
import asyncio
import multiprocessing
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Final

import asyncpg
from rich.console import Console
from rich.table import Table

from deploy.local import Servers, local_servers
from services.state.migrate import MIGRATIONS
from tests.bench.measure import Measured, Plan, measure_round
from tests.bench.pipelines import MODELSWAP
from tests.bench.run import Run
from tests.bench.table import mean_by_process

_ONE_IN_TEN: Final = {"OTEL_TRACES_SAMPLER": "parentbased_traceidratio", "OTEL_TRACES_SAMPLER_ARG": "0.1"}
_OURS: Final = ("receiver", "extractor", "state")


class _Sink(BaseHTTPRequestHandler):
    """Takes what is posted, and forgets it."""

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["content-length"]))
        self.send_response(200)
        self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


def _serve(port: Connection) -> None:
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Sink)
    port.send(server.server_port)
    server.serve_forever()


@contextmanager
def sink() -> Iterator[str]:
    """Run a collector in a process of its own; its URL."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_serve, args=(theirs,), daemon=True)
    process.start()
    try:
        yield f"http://127.0.0.1:{ours.recv()}"
    finally:
        process.kill()


async def main(servers: Servers, plan: Plan, say: Console, folder: Path) -> None:
    await MIGRATIONS.apply(servers.database_url)
    database = await asyncpg.connect(servers.database_url)
    run = Run(MODELSWAP, servers, database, folder)
    with sink() as url:
        endpoint = {"OTEL_EXPORTER_OTLP_ENDPOINT": url}
        variants: Mapping[str, Mapping[str, str]] = {"off": {}, "all": endpoint, "one in ten": endpoint | _ONE_IN_TEN}
        names = list(variants)
        results = {name: Measured(name) for name in names}
        for number in range(plan.rounds):
            for name in names if number % 2 == 0 else reversed(names):
                with run.processes(more=variants[name]):
                    await run.until_ready()
                    await run.throughput(await run.register(plan.warm_up))
                    await measure_round(run, plan, results[name])
                say.print(
                    f"round {number + 1} of {plan.rounds}, {name}: {results[name].per_second[-1]:.0f} trainings/s"
                )
    await database.close()
    say.print(_table(list(results.values())))


def _table(results: Sequence[Measured]) -> Table:
    made = Table("CPU µs per training", title="the same work on the same machine, in turn")
    cpu = [mean_by_process(each.cpu_us) for each in results]
    for result in results:
        made.add_column(result.name, justify="right")
    for name in _OURS:
        made.add_row(name, *(f"{each[name]:.0f}" for each in cpu))
    made.add_row("the three", *(f"{sum(each[name] for name in _OURS):.0f}" for each in cpu))
    return made


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--trainings", type=int, default=2000, help="of each round")
    options = parser.parse_args()
    wanted = Plan(options.rounds, options.trainings, timed_trainings=0)
    with tempfile.TemporaryDirectory() as name, local_servers(durable=True) as pair:
        asyncio.run(main(pair, wanted, Console(width=120), Path(name)))
