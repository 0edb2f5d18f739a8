"""`modelswap doctor`: check settings, servers, processes and Replicate, and say what to do. Edge."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from importlib.metadata import version
from itertools import groupby
from pathlib import Path
from typing import Final, TypeVar

from pydantic import BaseModel
from rich.text import Text

from services.cli.broker import MANAGEMENT, linked, opened_api
from services.cli.choices import Format
from services.cli.local import servers
from services.cli.local.check import OK, SET, WARNING, WRONG, Doubtful, Finding, Wrong, check, settings_findings
from services.cli.local.database import connected, database_url
from services.cli.local.running import outbox, processes, public_address, queues
from services.cli.local.stack import SERVICES, Environment
from services.cli.operators.client import operators
from services.cli.problem import NoAnswer, NotNow, Problem
from services.cli.table import print_one
from services.ops.letters.views import LetterCounts
from services.ops.reconcile.views import WHILE_AWAY, Reconciliation
from shared.contract.errors import DependencyDown
from shared.contract.health import POSTGRES_AWAY, RABBITMQ_AWAY, follows_from, how_to_start
from shared.contract.text import plural
from shared.contract.topology import EVENTS_LOG
from shared.replicate.client import Replicate
from shared.replicate.errors import OperatorNeeded
from shared.runtime.setting_types import Secrets
from shared.runtime.settings import PROCESSES, ReplicateSettings, all_settings, unknown
from shared.runtime.settings_base import Settings, SettingsError, guessable, reveal, setting

M = TypeVar("M", bound=BaseModel)

_SECRETS: Final = "set MODELSWAP_WEBHOOK_SECRETS to what Replicate signs with"
_REPLICATE: Final = "set MODELSWAP_REPLICATE_API_TOKEN to a token of replicate.com/account/api-tokens"
#: The check of what is away.
_CAUSES: Final = {POSTGRES_AWAY: "database", RABBITMQ_AWAY: "broker"}
_WAITS: Final = '"A consumer waits" in deploy/runbook.md'
_REPLICATE_AWAY: Final = (
    f"if it has an outage or limits us, nothing: what needs it waits, {_WAITS}; "
    "else correct MODELSWAP_REPLICATE_API_URL, or let this machine reach it"
)
_ELSEWHERE: Final = "nothing; to have it checked, set it here, too"
_LOST: Final = '"Webhooks do not arrive" in deploy/runbook.md; modelswap reconcile status'


class _SecretSettings(Settings):
    webhook_secrets: Secrets = ()


async def examine(environment: Environment) -> list[Finding]:
    """Check everything; findings are in the order in which to fix things."""
    if not any(name.removesuffix("_FILE") in all_settings() for name in environment):
        return [Finding("settings", WRONG, "nothing is configured: no setting of modelswap is set", _how_to_set())]
    asked = asyncio.create_task(processes(environment, version("modelswap")))
    first = await asyncio.gather(
        check("broker", _broker, environment, "start RabbitMQ, or correct MODELSWAP_AMQP_URL"),
        check("broker nodes", _broker_nodes, environment, MANAGEMENT),
        check("topology", _topology, environment, "modelswap topology apply", after="the broker"),
        check("database", _database, environment, "start Postgres, or correct MODELSWAP_DATABASE_URL"),
        check("migrations", _migrations, environment, "modelswap db migrate", after="the database"),
    )
    others = await asyncio.gather(
        check("queues", queues, environment, "read the log of the process", after="the broker"),
        check("outbox", outbox, environment, "read the log of state", after="the database"),
        check("dead letters", _dead_letters, environment, SET),
        check("replicate", _replicate, environment, _REPLICATE),
        check("public address", public_address, environment, _LOST),
        check("webhooks", _webhooks, environment, f"{_LOST}; {WHILE_AWAY}"),
        check("webhook secret", _webhook_secret, environment, _SECRETS, after="Replicate"),
    )
    of_processes, running = await asked
    wrong = {each.check for each in first if each.status == WRONG}
    effects = [_first_things_first(each, wrong) for each in [*of_processes, *others]]
    return [_where_it_counts(each, running) for each in [*_settings(environment), *first, *effects]]


def _first_things_first(finding: Finding, wrong: set[str]) -> Finding:
    """Point *finding* to what it follows from, if that is among the *wrong* findings."""
    cause = _CAUSES.get(follows_from(finding.detail) or "")
    return replace(finding, then=f"fix the {cause} first") if finding.status != OK and cause in wrong else finding


def _where_it_counts(finding: Finding, running: set[str]) -> Finding:
    """Turn *finding* into a warning if it is a missing setting that only processes need which are *running* with it."""
    need = [each for each in SERVICES if finding.missing in map(setting, PROCESSES[each].model_fields)]
    if not need or not running.issuperset(need):
        return finding
    they_run = f"{', '.join(need)} {'runs' if len(need) == 1 else 'run'} with it"
    detail = f"not known here: {finding.missing} is not set, but {they_run}"
    return replace(finding, status=WARNING, detail=detail, then=_ELSEWHERE)


def _how_to_set() -> str:
    if Path(".env").is_file():
        return ".env is here, but only docker compose reads it: docker compose run --rm cli doctor"
    return "modelswap up --embedded needs no settings; for docker compose: make env"


def _settings(environment: Environment) -> Iterator[Finding]:
    for process in SERVICES:
        name = f"settings of {process}"
        try:
            weak = guessable(PROCESSES[process].load(environment))
        except SettingsError as error:
            yield from settings_findings(name, error)
            continue
        if weak:
            detail = f"{', '.join(weak)}: too few different characters to be random"
            yield Finding(name, WARNING, detail, "openssl rand -hex 24 makes a good one")
        else:
            yield Finding(name, OK, "complete")
    for name in unknown(environment):
        yield Finding("settings", WARNING, f"no process reads {name}", "a typing mistake? modelswap config show")


async def _broker(environment: Environment) -> str:
    async with linked(environment, name="modelswap doctor"):
        return "answers"


async def _broker_nodes(environment: Environment) -> str:
    try:
        async with opened_api(environment) as management:
            nodes = [] if management is None else await management.nodes()
    except DependencyDown as error:
        # The check before this one says whether the broker itself answers.
        raise Doubtful(f"not known: {error}", then=MANAGEMENT) from error
    alarms = {
        "disk": [each.name for each in nodes if each.disk_free_alarm],
        "memory": [each.name for each in nodes if each.mem_alarm],
    }
    if found := [f"{' and '.join(names)} is out of {what}" for what, names in alarms.items() if names]:
        raise Wrong(f"{', '.join(found)}: RabbitMQ takes no message", then=_WAITS)
    for each in nodes:
        # Not as in the next check: each side of a partition says that the nodes of the other one are down.
        if each.running and each.partitions:
            raise Doubtful(f"{each.name} is partitioned from {' and '.join(each.partitions)}", then=_WAITS)
    if down := [each.name for each in nodes if not each.running]:
        raise Doubtful(f"{' and '.join(down)} {'is' if len(down) == 1 else 'are'} down", then=_WAITS)
    if not nodes:
        return "not known without MODELSWAP_MANAGEMENT_URL"
    return f"{plural(len(nodes), 'runs', 'run')}, without an alarm"


async def _topology(environment: Environment) -> str:
    found = await servers.diff_topology(environment)
    detail = "; ".join(filter(None, [*(found.lines or [found.as_planned]), found.unseen]))
    if not found.lines:
        if found.is_lacking:
            raise Doubtful(detail, then=MANAGEMENT)
        return detail
    if all(EVENTS_LOG in each and "missing" not in each for each in found.lines):
        raise Doubtful(detail, then='"The events log" in deploy/runbook.md')
    raise Wrong(detail)


async def _database(environment: Environment) -> str:
    async with connected(database_url(environment), name="modelswap doctor") as connection:
        return f"Postgres {connection.get_server_version().major} answers"


async def _migrations(environment: Environment) -> str:
    migrations = await servers.migration_status(environment)
    if pending := [name for name, applied_at in migrations if applied_at is None]:
        raise Wrong(f"not applied: {', '.join(pending)}")
    return f"all {len(migrations)} are applied"


async def _dead_letters(environment: Environment) -> str:
    if waiting := (await _ask_ops(environment, LetterCounts, "/v1/dead-letter-counts")).open:
        raise Doubtful(f"{waiting} open", then="modelswap dead-letters groups --status open")
    return "none is open"


async def _webhooks(environment: Environment) -> str:
    shown = await _ask_ops(environment, Reconciliation, "/v1/reconciliation?limit=0")
    said = f"{plural(shown.recovered.last_hour, 'training')} had to be recovered in the last hour"
    if shown.webhooks_seem_lost:
        raise Wrong(f"webhooks do not arrive: {said}")
    return said


async def _ask_ops(environment: Environment, kind: type[M], path: str) -> M:
    try:
        async with operators(environment) as api:
            return await api.get(kind, path)
    except Problem as error:
        raise Doubtful(f"not known: {error}", then=how_to_ask_ops(error)) from error


def how_to_ask_ops(problem: Problem) -> str:
    match problem:
        case NoAnswer():
            return how_to_start("ops")
        case NotNow():
            return "read the log of ops"
    return problem.then


async def _replicate(environment: Environment) -> str:
    settings = ReplicateSettings.load(environment)
    async with _client(settings) as replicate:
        try:
            return f"{settings.replicate_api_url} knows us as {await replicate.account()}"
        except OperatorNeeded:
            raise  # it is the token
        except DependencyDown as error:
            raise Wrong(f"{settings.replicate_api_url}: {error}", _REPLICATE_AWAY) from error


async def _webhook_secret(environment: Environment) -> str:
    configured = _SecretSettings.load(environment).webhook_secrets
    settings = ReplicateSettings.load(environment)
    if configured and settings.replicate_api_token is None:
        return f"{len(configured)} configured; not compared with Replicate's, because there is no token"
    async with _client(settings) as replicate:
        current = await replicate.webhook_secret()
    if not configured:
        return "none is configured; it is fetched from Replicate"
    if current not in reveal(configured):
        raise Wrong("Replicate signs with another secret than those in MODELSWAP_WEBHOOK_SECRETS")
    return f"{len(configured)} configured, and Replicate's is among them"


def _client(settings: ReplicateSettings) -> Replicate:
    if settings.replicate_api_token is None:
        raise Wrong("MODELSWAP_REPLICATE_API_TOKEN is not set: no training can be started, and no model verified")
    return Replicate(settings.replicate_api_token.get_secret_value(), settings.replicate_api_url)


def print_findings(findings: Sequence[Finding], output: Format) -> bool:
    """Print the findings; return True if nothing is wrong."""
    print_one(_rows(findings), output, data=[asdict(finding) for finding in findings])
    return not any(finding.status == WRONG for finding in findings)


def _rows(findings: Sequence[Finding]) -> Iterator[tuple[object, ...]]:
    """Yield each finding, and below it what to do: once for neighbours with the same remedy."""
    for then, together in groupby(findings, lambda finding: finding.then):
        for finding in together:
            yield finding.check, finding.status, finding.detail
        if then:
            yield Text(), Text(), f"→ {then}"
