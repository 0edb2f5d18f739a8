"""Is everything that the services need there, and what is to be done if not? Edge: asks broker, database, Replicate."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Final

from services.cli.client import NoAnswer, Operators
from services.cli.machine import servers
from services.cli.machine.stack import SERVICES, Environment
from services.cli.output import print_json, print_table
from services.cli.problem import Problem
from services.cli.words import Format
from shared.contract.errors import DependencyDown, ModelswapError
from shared.replicate.client import Replicate
from shared.replicate.errors import OperatorNeeded
from shared.runtime.postgres import connect
from shared.runtime.settings import (
    PROCESSES,
    DatabaseSettings,
    OpsClientSettings,
    ReplicateSettings,
    Secrets,
    Settings,
    SettingsError,
    reveal,
    unknown,
)
from shared.runtime.tokens import read_token

OK: Final = "ok"
WARNING: Final = "warning"
WRONG: Final = "wrong"

_SET: Final = "set it in the environment; `modelswap config show` lists every setting"
_SECRETS: Final = "set MODELSWAP_WEBHOOK_SECRETS to what Replicate signs with"
_TOKEN: Final = "set MODELSWAP_REPLICATE_API_TOKEN to a token of replicate.com/account/api-tokens"  # noqa: S105


@dataclass(frozen=True, slots=True)
class Finding:
    """What one look found."""

    check: str
    status: str
    detail: str
    #: What to do about it.
    then: str = ""


async def examine(environment: Environment) -> list[Finding]:
    """Look at everything, in the order in which it is to be put right."""
    return [
        *_settings(environment),
        await _look("broker", _broker, environment, "start RabbitMQ, or correct MODELSWAP_AMQP_URL"),
        await _look("topology", _topology, environment, "modelswap topology apply", after="the broker"),
        await _look("database", _database, environment, "start Postgres, or correct MODELSWAP_DATABASE_URL"),
        await _look("migrations", _migrations, environment, "modelswap db migrate", after="the database"),
        await _dead_letters(environment),
        await _look("replicate", _replicate, environment, _TOKEN),
        await _look("public door", _public_door, environment, _DOOR),
        await _look("webhook secret", _webhook_secret, environment, _SECRETS, after="Replicate"),
    ]


#: Ops says itself when it has a trouble of its own.
_DOOR: Final = '"The public door is broken" in deploy/runbook.md; modelswap reconcile status'


class _SecretSettings(Settings):
    webhook_secrets: Secrets = ()


class _Wrong(Exception):  # noqa: N818 (it is what was seen)
    """A look found something that is to be put right; *then* is how, if it is not as always."""

    def __init__(self, detail: str, then: str = "") -> None:
        super().__init__(detail)
        self.then = then


class _NotKnown(Exception):  # noqa: N818 (likewise)
    """Whoever could say does not answer, or not to us."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(f"not known: {problem}")
        self.then = _ask_ops(problem)


async def _look(
    check: str, look: Callable[[Environment], Awaitable[str]], environment: Environment, then: str, *, after: str = ""
) -> Finding:
    """*then*: what to do if something is wrong. *after*: what is looked at before; if that is away, we can not look."""
    try:
        return Finding(check, OK, await look(environment))
    except SettingsError as error:
        return Finding(check, WRONG, _mistakes(error)[0], _SET)
    except _NotKnown as error:
        return Finding(check, WARNING, str(error), error.then)
    except _Wrong as error:
        return Finding(check, WRONG, str(error), error.then or then)
    except ModelswapError as error:
        if after and isinstance(error, (Problem, DependencyDown)):
            return Finding(check, WARNING, f"not known: {error}", f"put {after} right first")
        return Finding(check, WRONG, str(error), then)


def _settings(environment: Environment) -> list[Finding]:
    findings = []
    for process in SERVICES:
        try:
            PROCESSES[process].load(environment)
        except SettingsError as error:
            findings += [Finding(f"settings of {process}", WRONG, mistake, _SET) for mistake in _mistakes(error)]
        else:
            findings.append(Finding(f"settings of {process}", OK, "complete"))
    for name in unknown(environment):
        findings.append(
            Finding("settings", WARNING, f"nothing heeds {name}", "a typing mistake? modelswap config show")
        )
    return findings


async def _broker(environment: Environment) -> str:
    await servers.reach_broker(environment)
    return "answers"


async def _topology(environment: Environment) -> str:
    if differences := await servers.diff_topology(environment):
        raise _Wrong("; ".join(differences))
    return "every exchange and queue is as planned"


async def _database(environment: Environment) -> str:
    connection = await connect(_database_url(environment), application_name="modelswap doctor")
    try:
        version = connection.get_server_version()
    finally:
        await connection.close(timeout=5)
    return f"Postgres {version.major} answers"


async def _migrations(environment: Environment) -> str:
    migrations = await servers.migration_status(environment)
    if pending := [name for name, applied_at in migrations if applied_at is None]:
        raise _Wrong(f"not applied: {', '.join(pending)}")
    return f"all {len(migrations)} are applied"


async def _dead_letters(environment: Environment) -> Finding:
    """Letters that wait for somebody are no fault of the installation; that nobody can look at them is none either."""
    check = "dead letters"
    try:
        settings = OpsClientSettings.load(environment)
        async with Operators(settings.ops_url, read_token(settings.ops_tokens[0].get_secret_value()).secret) as api:
            open_letters = (await api.count_dead_letters()).open
    except SettingsError as error:
        return Finding(check, WRONG, _mistakes(error)[0], _SET)
    except Problem as error:
        return Finding(check, WARNING, str(error), _ask_ops(error))
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
            raise _Wrong(str(error), "correct MODELSWAP_REPLICATE_API_URL, or let this machine reach it") from error


async def _public_door(environment: Environment) -> str:
    settings = OpsClientSettings.load(environment)
    try:
        async with Operators(settings.ops_url, read_token(reveal(settings.ops_tokens)[0]).secret) as ops:
            shown = await ops.reconciliation(limit=0)
    except Problem as error:
        raise _NotKnown(error) from error
    recovered = shown.recovered.last_hour
    if shown.door_seems_broken:
        raise _Wrong(f"webhooks do not arrive: {recovered} trainings had to be recovered in the last hour")
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
        raise _Wrong("Replicate signs with another secret than those in MODELSWAP_WEBHOOK_SECRETS")
    return f"{len(configured)} configured, and Replicate's is among them"


def _ask_ops(problem: Problem) -> str:
    """What to do where ops does not tell us something."""
    return "modelswap serve ops" if isinstance(problem, NoAnswer) else problem.then


def _client(settings: ReplicateSettings) -> Replicate:
    if settings.replicate_api_token is None:
        raise _Wrong("MODELSWAP_REPLICATE_API_TOKEN is not set: no training can be started, and no model verified")
    return Replicate(settings.replicate_api_token.get_secret_value(), settings.replicate_api_url)


def _database_url(environment: Environment) -> str:
    return DatabaseSettings.load(environment).database_url.get_secret_value()


def _mistakes(error: SettingsError) -> list[str]:
    return [line.strip() for line in str(error).splitlines()[1:]]


def print_findings(findings: Sequence[Finding], output: Format) -> bool:
    """Show them; True if nothing is wrong."""
    if output is Format.JSON:
        print_json([asdict(finding) for finding in findings])
    else:
        rows = [(each.check, each.status, each.detail, each.then) for each in findings]
        print_table(("check", "", "what was seen", "what to do"), rows, empty="")
    return not any(finding.status == WRONG for finding in findings)
