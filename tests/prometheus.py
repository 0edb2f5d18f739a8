"""
Prometheus and promtool for the tests of alerts and dashboards.

    installed   by the machine's packages
    unpacked    Debian's package in the cache, without root

Where none can be had, the tests that need one are skipped, and say why.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import platform
import re
import shutil
import signal
from collections.abc import AsyncIterator, Iterable, Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any, Final

import httpx
import promql_parser
import pytest
import yaml

from deploy.local import apt
from deploy.local.cache import cache_folder, made_once
from deploy.local.errors import LocalServersError
from deploy.local.process import Process
from deploy.local.rabbitmq import RabbitMQ
from tests.dashboards import MONITORING
from tests.erlang import evaluate
from tests.stack import free_port, plain_client

_PACKAGE: Final = "prometheus"
#: An Erlang expression: what RabbitMQ's image does at its start, on a port of our own.
_SERVE_METRICS: Final = """begin
    Listens = [{{ip, "127.0.0.1"}}, {{port, {port}}}],
    application:set_env(rabbitmq_prometheus, tcp_config, Listens, [{{persistent, true}}]),
    {{ok, File}} = application:get_env(rabbit, enabled_plugins_file),
    ok = file:write_file(File, "[rabbitmq_management, rabbitmq_prometheus]."),
    rabbit_plugins:ensure(File)
end"""
#: Prometheus asks the processes, and evaluates the rules.
_EVERY: Final = "1s"
#: A rate needs several scrapes.
_SHORTEST: Final = timedelta(seconds=3)
#: On a busy machine, some scrapes in a row may come too late: then no process is gone.
_SHORTEST_WAIT: Final = timedelta(seconds=10)
#: Of an expression: an age in seconds, and the largest that it may have.
_AGE: Final = re.compile(r"(_seconds(?:\{[^}]*\})?\) > )(\d+)")
_START_SECONDS: Final = 60
_POLL_SECONDS: Final = 0.1


def program(name: str) -> str:
    """Find *name*, which is `prometheus` or `promtool`; skips where it cannot be had."""
    if found := shutil.which(name):
        return found
    release = apt.os_release()
    # Of its own release alone: it runs with the machine's C library.
    if not (codename := release.get("VERSION_CODENAME")):
        pytest.skip(f"{name} is not installed, and this is neither Debian nor Ubuntu")
    wanted = apt.Wanted("Prometheus", codename, [_PACKAGE], {_PACKAGE}.__contains__, megabytes=45)
    try:
        root = made_once(
            cache_folder() / _PACKAGE / f"{codename}-{platform.machine()}",
            lambda draft: apt.unpack(wanted, draft, print),
            print,
        )
    except LocalServersError as error:
        pytest.skip(f"{name} is not installed, and {error}")
    return str(Path(root) / "usr/bin" / name)


def serve_metrics(rabbitmq: RabbitMQ, port: int) -> None:
    """Have it serve its own metrics until it is restarted."""
    evaluate(rabbitmq, _SERVE_METRICS.format(port=port))


class Prometheus:
    """A Prometheus that runs, asked over HTTP."""

    def __init__(self, client: httpx.AsyncClient) -> None:
        self._client = client

    async def query(self, expression: str) -> list[dict[str, Any]]:
        """Return the series that *expression* has now."""
        answer = await self._client.get("/api/v1/query", params={"query": expression})
        answer.raise_for_status()
        found: list[dict[str, Any]] = answer.json()["data"]["result"]
        return found

    async def firing(self) -> set[str]:
        """Return the alerts that fire now."""
        return await self._alerts('ALERTS{alertstate="firing"}')

    async def fired(self) -> set[str]:
        """Return the alerts that have fired since it was started, also those that fire no more."""
        return await self._alerts('max_over_time(ALERTS{alertstate="firing"}[1h])')

    async def without_values(self, expressions: Iterable[str]) -> list[str]:
        """Return those of *expressions* that have no series now, or none with a number."""
        answers = {each: await self.query(each) for each in expressions}
        return [each for each, found in answers.items() if {series["value"][1] for series in found} <= {"NaN"}]

    async def _alerts(self, expression: str) -> set[str]:
        return {series["metric"]["alertname"] for series in await self.query(expression)}


@contextlib.asynccontextmanager
async def running_prometheus(folder: Path, ports: Mapping[str, int], *, times_faster: int) -> AsyncIterator[Prometheus]:
    """Run one with the shipped rules, *times_faster*, over the processes, and `rabbitmq`, at these *ports*."""
    _configure(folder, ports, times_faster)
    port = free_port()
    options = {
        "config.file": folder / "prometheus.yml",
        "storage.tsdb.path": folder / "data",
        "web.listen-address": f"127.0.0.1:{port}",
    }
    process = Process(
        "Prometheus",
        [program("prometheus"), *(f"--{name}={value}" for name, value in options.items())],
        os.environ,
        log=folder / "log",
        end_signal=signal.SIGKILL,
    )
    process.start()
    try:
        async with plain_client(base_url=f"http://127.0.0.1:{port}") as client:
            async with asyncio.timeout(_START_SECONDS):
                while not await _is_ready(client, len(ports)):
                    assert process.running, f"see {folder / 'log'}"
                    await asyncio.sleep(_POLL_SECONDS)
            yield Prometheus(client)
    finally:
        process.end()


def _configure(folder: Path, ports: Mapping[str, int], times_faster: int) -> None:
    """Write the shipped configuration, with these targets, and the rules into *folder*, which is made."""
    configuration = yaml.safe_load((MONITORING / "prometheus.yml").read_text())
    configuration["global"] = {"scrape_interval": _EVERY, "evaluation_interval": _EVERY}
    configuration["rule_files"] = ["rules-*.yml"]
    for job in configuration["scrape_configs"]:
        del job["file_sd_configs"]
        job["static_configs"] = [
            {"targets": [f"127.0.0.1:{port}"], "labels": {"instance": name}}
            for name, port in ports.items()
            if (name == "rabbitmq") == job["job_name"].startswith("rabbitmq")
        ]
        if "params" in job:
            job["params"]["vhost"] = ["/"]
    folder.mkdir()
    (folder / "prometheus.yml").write_text(yaml.safe_dump(configuration))
    for file in MONITORING.glob("*.yml"):
        if "groups" in (content := yaml.safe_load(file.read_text())):
            (folder / f"rules-{file.name}").write_text(yaml.safe_dump(faster(content, times_faster)))


async def _is_ready(client: httpx.AsyncClient, targets: int) -> bool:
    """Tell whether each target was scraped often enough to see what rises from now on."""
    with contextlib.suppress(httpx.TransportError):
        if (await client.get("/-/ready")).is_success:
            scraped = await Prometheus(client).query("count by (instance) (count_over_time(up[1m]) >= 2)")
            return len(scraped) == targets
    return False


def faster(rules: Mapping[str, Any], times: int) -> dict[str, Any]:
    """Return *rules* with every time divided: how long they wait, how far they look back, and which age is too old."""

    def changed(rule: Mapping[str, Any]) -> dict[str, Any]:
        waits = {key: _divided(rule[key], times, _SHORTEST_WAIT) for key in ("for", "keep_firing_for") if key in rule}
        looks_back = re.sub(r"(?<=\[)\w+(?=\])", lambda found: _divided(found[0], times, _SHORTEST), str(rule["expr"]))
        expr = _AGE.sub(lambda age: f"{age[1]}{int(age[2]) / times}", looks_back)
        return {**rule, **waits, "expr": expr}

    return {
        "groups": [
            {"name": group["name"], "rules": [changed(rule) for rule in group["rules"]]} for group in rules["groups"]
        ]
    }


def _divided(duration: str, times: int, shortest: timedelta) -> str:
    shorter = max(promql_parser.parse_duration(duration) / times, shortest)
    return f"{int(shorter.total_seconds() * 1000)}ms"
