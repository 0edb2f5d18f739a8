"""Prometheus accepts what is shipped for it, and RabbitMQ serves what the dashboards show of it."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from typing import Any

import yaml
from prometheus_client.parser import text_string_to_metric_families

from deploy.local import Servers
from tests.dashboards import MONITORING, boards, expressions, rules, selectors
from tests.prometheus import program, serve_metrics
from tests.stack import free_port, plain_client

CONFIGURATION: dict[str, Any] = yaml.safe_load((MONITORING / "prometheus.yml").read_text())


def test_prometheus_accepts_its_configuration_and_rules() -> None:
    done = subprocess.run(
        [program("promtool"), "check", "config", "--lint-fatal", MONITORING / "prometheus.yml"],
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.returncode == 0, done.stdout + done.stderr


def asked_of_rabbitmq() -> Iterator[str]:
    every = [expression for board in boards().values() for expression in expressions(board)]
    for expression in every + [str(rule["expr"]) for rule in rules()]:
        yield from (name for each in selectors(expression) if (name := each.name or "").startswith("rabbitmq_"))


async def test_rabbitmq_serves_what_the_dashboards_show(restartable_servers: Servers) -> None:
    port = free_port()
    serve_metrics(restartable_servers.rabbitmq, port)
    jobs = [job for job in CONFIGURATION["scrape_configs"] if job["job_name"].startswith("rabbitmq")]

    served = set()
    async with plain_client(base_url=f"http://127.0.0.1:{port}") as client:
        for job in jobs:
            params = {name: ["/"] if name == "vhost" else given for name, given in job.get("params", {}).items()}
            answer = await client.get(job.get("metrics_path", "/metrics"), params=params)
            served |= {family.name for family in text_string_to_metric_families(answer.text)}

    assert set(asked_of_rabbitmq()) - served == set()
    assert set(asked_of_rabbitmq())
