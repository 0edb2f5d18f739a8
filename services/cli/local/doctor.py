"""`modelswap doctor`: check settings, servers, processes and Replicate, and say what to do. Edge."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from importlib.metadata import version
from itertools import groupby
from pathlib import Path
from typing import Final

from rich.text import Text

from services.cli.choices import Format
from services.cli.client import operators
from services.cli.local import servers
from services.cli.local.check import (
    OK,
    SET,
    WARNING,
    WRONG,
    Finding,
    NotKnown,
    Wrong,
    check,
    how_to_ask_ops,
    mistakes,
)
from services.cli.local.running import outbox, processes, public_address, queues
from services.cli.local.stack import SERVICES, Environment
from services.cli.output import print_json
from services.cli.problem import Problem
from services.cli.table import print_facts
from services.ops.letters.views import LetterCounts
from services.ops.reconcile.views import Reconciliation
from shared.contract.errors import DependencyDown
from shared.replicate.client import Replicate
from shared.replicate.errors import OperatorNeeded
from shared.runtime.postgres import connect
from shared.runtime.settings import (
    PROCESSES,
    DatabaseSettings,
    ReplicateSettings,
    Secrets,
    Settings,
    SettingsError,
    all_settings,
    guessable,
    reveal,
    unknown,
)

_SECRETS: Final = "set MODELSWAP_WEBHOOK_SECRETS to what Replicate signs with"
_TOKEN: Final = "set MODELSWAP_REPLICATE_API_TOKEN to a token of replicate.com/account/api-tokens"  # noqa: S105


async def examine(environment: Environment) -> list[Finding]:
    """Check everything; findings are in the order in which to fix things."""
    if not any(name.removesuffix("_FILE") in all_settings() for name in environment):
        return [Finding("settings", WRONG, "nothing is configured: no setting of modelswap is set", _how_to_set())]
    asked = asyncio.create_task(processes(environment, version("modelswap")))
    first = await _servers(environment)
    others = await asyncio.gather(
        check("queues", queues, environment, "read the log of the process", after="the broker"),
        check("outbox", outbox, environment, "read the log of state", after="the database"),
        _dead_letters(environment),
        check("replicate", _replicate, environment, _TOKEN),
        check("public address", public_address, environment, _LOST),
        check("webhooks", _webhooks, environment, _LOST),
        check("webhook secret", _webhook_secret, environment, _SECRETS, after="Replicate"),
    )
    return [*_settings(environment), *first, *await asked, *others]


async def _servers(environment: Environment) -> Sequence[Finding]:
    return await asyncio.gather(
        check("broker", _broker, environment, "start RabbitMQ, or correct MODELSWAP_AMQP_URL"),
        check("topology", _topology, environment, "modelswap topology apply", after="the broker"),
        check("database", _database, environment, "start Postgres, or correct MODELSWAP_DATABASE_URL"),
        check("migrations", _migrations, environment, "modelswap db migrate", after="the database"),
    )


def _how_to_set() -> str:
    if Path(".env").is_file():
        return ".env is here, but only docker compose reads it: docker compose run --rm cli doctor"
    return "modelswap up --embedded needs no settings; for docker compose: make env"


_LOST: Final = '"Webhooks do not arrive" in deploy/runbook.md; modelswap reconcile status'


class _SecretSettings(Settings):
    webhook_secrets: Secrets = ()


def _settings(environment: Environment) -> list[Finding]:
    findings = []
    for process in SERVICES:
        try:
            settings = PROCESSES[process].load(environment)
        except SettingsError as error:
            findings += [Finding(f"settings of {process}", WRONG, mistake, SET) for mistake in mistakes(error)]
        else:
            findings.append(_complete(process, guessable(settings)))
    for name in unknown(environment):
        findings.append(
            Finding("settings", WARNING, f"no process reads {name}", "a typing mistake? modelswap config show")
        )
    return findings


def _complete(process: str, guessable_names: Sequence[str]) -> Finding:
    if not guessable_names:
        return Finding(f"settings of {process}", OK, "complete")
    detail = f"{', '.join(guessable_names)}: too few different characters to be random"
    return Finding(f"settings of {process}", WARNING, detail, "openssl rand -hex 24 makes a good one")


async def _broker(environment: Environment) -> str:
    await servers.reach_broker(environment)
    return "answers"


async def _topology(environment: Environment) -> str:
    if differences := await servers.diff_topology(environment):
        raise Wrong("; ".join(differences))
    return "every exchange and queue is as planned"


async def _database(environment: Environment) -> str:
    connection = await connect(_database_url(environment), application_name="modelswap doctor")
    try:
        major = connection.get_server_version().major
    finally:
        await connection.close(timeout=5)
    return f"Postgres {major} answers"


async def _migrations(environment: Environment) -> str:
    migrations = await servers.migration_status(environment)
    if pending := [name for name, applied_at in migrations if applied_at is None]:
        raise Wrong(f"not applied: {', '.join(pending)}")
    return f"all {len(migrations)} are applied"


async def _dead_letters(environment: Environment) -> Finding:
    """Count open dead letters. They are no fault of the installation, nor is ops being away: warnings, not errors."""
    check = "dead letters"
    try:
        async with operators(environment) as api:
            open_letters = (await api.get(LetterCounts, "/v1/dead-letter-counts")).open
    except SettingsError as error:
        return Finding(check, WRONG, mistakes(error)[0], SET)
    except Problem as error:
        return Finding(check, WARNING, str(error), how_to_ask_ops(error))
    if open_letters:
        return Finding(check, WARNING, f"{open_letters} open", "modelswap dead-letters groups --status open")
    return Finding(check, OK, "none is open")


async def _replicate(environment: Environment) -> str:
    settings = ReplicateSettings.load(environment)
    async with _client(settings) as replicate:
        try:
            return f"{settings.replicate_api_url} knows us as {await replicate.account()}"
        except OperatorNeeded:
            raise  # It is the token.
        except DependencyDown as error:
            raise Wrong(str(error), "correct MODELSWAP_REPLICATE_API_URL, or let this machine reach it") from error


async def _webhooks(environment: Environment) -> str:
    try:
        async with operators(environment) as api:
            shown = await api.get(Reconciliation, "/v1/reconciliation", {"limit": "0"})
    except Problem as error:
        raise NotKnown(error, how_to_ask_ops(error)) from error
    recovered = shown.recovered.last_hour
    if shown.webhooks_seem_lost:
        raise Wrong(f"webhooks do not arrive: {recovered} trainings had to be recovered in the last hour")
    return f"{recovered} trainings had to be recovered in the last hour"


async def _webhook_secret(environment: Environment) -> str:
    configured = _SecretSettings.load(environment).webhook_secrets
    if configured and ReplicateSettings.load(environment).replicate_api_token is None:
        return f"{len(configured)} configured; not compared with Replicate's, because there is no token"
    async with _client(ReplicateSettings.load(environment)) as replicate:
        current = await replicate.webhook_secret()
    if not configured:
        return "none is configured; Replicate tells us its own"
    if current not in reveal(configured):
        raise Wrong("Replicate signs with another secret than those in MODELSWAP_WEBHOOK_SECRETS")
    return f"{len(configured)} configured, and Replicate's is among them"


def _client(settings: ReplicateSettings) -> Replicate:
    if settings.replicate_api_token is None:
        raise Wrong("MODELSWAP_REPLICATE_API_TOKEN is not set: no training can be started, and no model verified")
    return Replicate(settings.replicate_api_token.get_secret_value(), settings.replicate_api_url)


def _database_url(environment: Environment) -> str:
    return DatabaseSettings.load(environment).database_url.get_secret_value()


def print_findings(findings: Sequence[Finding], output: Format) -> bool:
    """Print the findings; return True if nothing is wrong."""
    if output is Format.JSON:
        print_json([asdict(finding) for finding in findings])
    else:
        print_facts(_rows(findings))
    return not any(finding.status == WRONG for finding in findings)


def _rows(findings: Sequence[Finding]) -> Iterator[tuple[object, ...]]:
    """Yield each finding, and below it what to do: once for neighbours with the same remedy."""
    for then, together in groupby(findings, lambda finding: finding.then):
        for finding in together:
            yield finding.check, finding.status, finding.detail
        if then:
            yield Text(), Text(), f"→ {then}"
