"""
Settings from the environment, with the prefix ``MODELSWAP_``; all errors are reported at once.

One frozen class per process, all in this file, because they share one environment: so a mistyped name can be told from
another process's setting. Every name has a ``_FILE`` form, the path of a file with the value (a mounted secret).
Secrets are `SecretStr`, so that no print, log or traceback shows one.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from datetime import timedelta
from ipaddress import ip_network
from pathlib import Path
from typing import Annotated, Any, Final, Literal, Self

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, SecretStr, ValidationError

from shared.contract.errors import ModelswapError
from shared.contract.retry import DELAYS
from shared.replicate.signature import decode_secret
from shared.runtime.addresses import amqp_url, http_url, is_host, postgres_url
from shared.runtime.connections import PRIVATE_NETWORKS, Limits, Network
from shared.runtime.tokens import read_token

PREFIX: Final = "MODELSWAP_"
_FILE: Final = "_FILE"
#: 128 bits, if all of them were random.
SECRET_MIN_BYTES: Final = 16
#: A random secret of that length has more different characters: 16 hex digits have 10 on average.
_VARIED_CHARACTERS: Final = 7
#: Where `services.state` answers, as it is set up by default.
STATE_URL: Final = "http://127.0.0.1:8081"
#: RabbitMQ counts in milliseconds, up to 49 days.
_SHORTEST_DELAY_SECONDS: Final = 0.001
_LONGEST_DELAY_SECONDS: Final = 30 * 86_400
_UNITS: Final = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}


class SettingsError(ModelswapError):
    """Settings are missing or invalid; the message lists all of them."""

    code = "settings"


def _split(value: Any) -> Any:
    if isinstance(value, str):
        return tuple(part.strip() for part in value.split(",") if part.strip())
    return value


def _delay(text: str) -> timedelta:
    match = re.fullmatch(r"(\d+(?:\.\d+)?)(ms|s|m|h)", text)
    if not match:
        raise ValueError(f"{text!r} is not a delay like 500ms, 5s, 2m or 1h")
    seconds = float(match[1]) * _UNITS[match[2]]
    if not _SHORTEST_DELAY_SECONDS <= seconds <= _LONGEST_DELAY_SECONDS:
        raise ValueError(f"{text!r} is not a delay from 1ms to 720h")
    return timedelta(seconds=seconds)


def _delays(value: Any) -> Any:
    return tuple(_delay(part) for part in _split(value)) if isinstance(value, str) else value


def _amqp(url: SecretStr) -> SecretStr:
    amqp_url(url.get_secret_value())
    return url


def _postgres(url: SecretStr) -> SecretStr:
    postgres_url(url.get_secret_value())
    return url


def _host(name: str) -> str:
    if not is_host(name):
        raise ValueError("is not a host like 127.0.0.1, :: or localhost")
    return name


def _sendable(secret: SecretStr) -> SecretStr:
    if not re.fullmatch(r"[\x21-\x7e]*", secret.get_secret_value()):
        raise ValueError("has a character that no HTTP header can carry: letters, digits and signs of ASCII only")
    return secret


def _network(text: str) -> Network:
    try:
        return ip_network(text, strict=False)
    except ValueError as error:
        raise ValueError(f"{text!r} is not a network like 10.0.0.0/8") from error


def _networks(value: Any) -> Any:
    return tuple(map(_network, _split(value))) if isinstance(value, str) else value


def _signing(secret: SecretStr) -> SecretStr:
    decode_secret(secret.get_secret_value())
    return secret


def _long(secret: SecretStr) -> SecretStr:
    _check_length(secret.get_secret_value())
    return secret


def _check_length(secret: str) -> None:
    if len(secret.encode()) < SECRET_MIN_BYTES:
        raise ValueError(f"is shorter than {SECRET_MIN_BYTES} characters; `openssl rand -hex 24` makes a good one")


def _tokens(entries: tuple[SecretStr, ...]) -> tuple[SecretStr, ...]:
    secrets = [read_token(entry.get_secret_value()).secret for entry in entries]
    for secret in secrets:
        _check_length(secret)
        _sendable(SecretStr(secret))
    if len(set(secrets)) < len(secrets):
        raise ValueError("one token is there twice")
    return entries


#: Several secrets, separated by commas.
Secrets = Annotated[tuple[Annotated[SecretStr, AfterValidator(_long)], ...], BeforeValidator(_split)]
#: ``whsec_`` and base64.
SigningSecret = Annotated[SecretStr, AfterValidator(_signing)]
SigningSecrets = Annotated[tuple[SigningSecret, ...], BeforeValidator(_split)]
#: Tokens with a scope and a name, as `shared.runtime.tokens` reads them.
Tokens = Annotated[Secrets, AfterValidator(_tokens)]
SomeTokens = Annotated[Tokens, Field(min_length=1)]
Delays = Annotated[tuple[timedelta, ...], BeforeValidator(_delays), Field(min_length=1)]
Url = Annotated[str, AfterValidator(http_url)]
AmqpUrl = Annotated[SecretStr, AfterValidator(_amqp)]
PostgresUrl = Annotated[SecretStr, AfterValidator(_postgres)]
Networks = Annotated[tuple[Network, ...], BeforeValidator(_networks)]
Port = Annotated[int, Field(ge=0, le=65535)]
Count = Annotated[int, Field(gt=0, le=2**31)]
#: Up to a year.
Seconds = Annotated[float, Field(gt=0, le=31_536_000)]
#: Goes into a header.
HeaderToken = Annotated[SecretStr, AfterValidator(_sendable)]


class Settings(BaseModel):
    """Settings of every process."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True, validate_default=True)

    #: Where this process listens. In a container: 0.0.0.0.
    host: Annotated[str, AfterValidator(_host)] = "127.0.0.1"
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    #: json for machines, console for people.
    log_format: Literal["json", "console"] = "json"
    #: How long to finish what was begun, after SIGTERM. Keep it below the orchestrator's own patience.
    drain_seconds: Seconds = 5.0
    #: From connecting, or from a request's first byte, to the end of its headers.
    header_timeout_seconds: Seconds = 10.0
    #: Open connections of one client address outside of the trusted proxies' networks.
    max_connections_per_address: Count = 100
    #: Where proxies connect from; connections from there are not limited one by one.
    trusted_proxies: Networks = PRIVATE_NETWORKS

    @property
    def limits(self) -> Limits:
        """The limits of this process's HTTP server."""
        return Limits(
            connections_per_address=self.max_connections_per_address,
            trusted=self.trusted_proxies,
            header_seconds=self.header_timeout_seconds,
        )

    @classmethod
    def load(cls, environment: Mapping[str, str] | None = None) -> Self:
        """
        Read the settings from *environment* (the process's own, if not given).

        Raises:
            SettingsError: naming every setting that is missing or wrong.

        """
        given = os.environ if environment is None else environment
        values, mistakes = _read_files({name: text for name, text in given.items() if name.startswith(PREFIX) and text})
        own = {field: values[setting(field)] for field in cls.model_fields if setting(field) in values}
        try:
            settings = cls.model_validate(own)
        except ValidationError as error:
            mistakes += [_mistake(problem) for problem in error.errors(include_input=False, include_url=False)]
        if mistakes:
            lines = "\n".join(f"  {mistake}" for mistake in mistakes)
            raise SettingsError(f"these settings need your attention:\n{lines}")
        return settings


class BrokerSettings(Settings):
    """Settings of processes that use RabbitMQ."""

    #: amqp://user:password@host:port/vhost
    amqp_url: AmqpUrl
    #: How long to wait for the broker's receipt of a message.
    publish_timeout_seconds: Seconds = 5.0
    #: May this process declare exchanges and queues? No, where a deploy job owns them.
    declare_topology: bool = True
    #: The ladder of delays between attempts.
    retry_delays: Delays = DELAYS


class ReplicateSettings(Settings):
    """Settings of processes that call Replicate."""

    replicate_api_token: HeaderToken | None = None
    replicate_api_url: Url = "https://api.replicate.com"


class DatabaseSettings(Settings):
    """Settings of processes that use Postgres."""

    #: postgresql://user:password@host:port/database
    database_url: PostgresUrl
    database_pool_size: Annotated[int, Field(ge=2, le=1000)] = 8


class ReceiverSettings(BrokerSettings, ReplicateSettings):
    """`services.receiver`."""

    receiver_port: Port = 8080
    #: Sign Replicate's webhooks, ``whsec_…``; any may match. Empty: fetched from Replicate's API.
    webhook_secrets: SigningSecrets = ()
    #: Sign the webhook address's ``ref``: the first signs, all verify.
    ref_secrets: Annotated[Secrets, Field(min_length=1)]
    #: A completed training's body carries its whole log.
    max_body_bytes: Count = 4 * 1024 * 1024
    #: How far a webhook's timestamp may be from now.
    webhook_tolerance_seconds: Seconds = 300.0


class ExtractorSettings(BrokerSettings, ReplicateSettings):
    """`services.extractor`."""

    extractor_port: Port = 8082
    #: Who may ask what would become of a message: bearer tokens. Empty: nobody.
    api_tokens: Tokens = ()
    #: What a model must show before a swap: it exists, its input has a prompt, or it makes an image.
    verify_level: Literal["exists", "schema", "predict"] = "exists"
    #: How long one verification waits for a model that boots; after that it is tried again later.
    verify_patience_seconds: Seconds = 90.0
    #: Ends a verification's prediction, and with it its cost.
    verify_cancel_after_seconds: Annotated[int, Field(ge=5, le=86_400)] = 300
    #: How many trainings are looked at at a time.
    extractor_concurrency: Annotated[int, Field(gt=0, le=65_535)] = 64


class StateSettings(BrokerSettings, ReplicateSettings, DatabaseSettings):
    """`services.state`."""

    state_port: Port = 8081
    #: How many clients may follow trainings at a time. A process takes a thousand connections, for all purposes.
    max_streams: Count = 500
    #: Who may use the API: ``TOKEN``, ``reader:TOKEN``, ``operator/NAME:TOKEN``, ``service/NAME:TOKEN``.
    api_tokens: SomeTokens
    ref_secrets: Annotated[Secrets, Field(min_length=1)]
    #: Where Replicate reaches the receiver: https://…
    public_url: Url


class OpsSettings(BrokerSettings, ReplicateSettings, DatabaseSettings):
    """`services.ops`."""

    ops_port: Port = 8083
    #: Who may look and repair: ``TOKEN``, ``reader:TOKEN``, ``operator/NAME:TOKEN``.
    ops_tokens: SomeTokens
    #: Where `services.state` answers.
    api_url: Url = STATE_URL
    #: Asks `services.state`: the first of scope ``service``, which says for which operator; else the first.
    api_tokens: SomeTokens
    #: Where `services.extractor` answers.
    extractor_url: Url = "http://127.0.0.1:8082"
    #: How long dead letters are kept once they are resolved or dropped. Until then they are kept anyway.
    ops_keep_settled_days: Annotated[float, Field(gt=0, le=3650)] = 90.0
    #: Tell which trainings in Replicate's list are ours.
    ref_secrets: Annotated[Secrets, Field(min_length=1)]
    #: A training is overdue after this, where too few of its trainer's have ended to know better.
    reconcile_after_seconds: Seconds = 3600.0
    #: How often to see whether any is.
    reconcile_every_seconds: Seconds = 60.0
    #: How often Replicate may be asked for what is overdue.
    reconcile_calls_per_minute: Count = 60
    #: A training of which nobody hears anything for so long has failed. Three days.
    reconcile_give_up_seconds: Seconds = 259_200.0


class SimulatorSettings(Settings):
    """`services.simulator`."""

    simulator_port: Port = 8090
    #: The same seed makes the same trainings; drawn when empty.
    simulator_seed: int | None = None
    #: The file in which it keeps its trainings across restarts; nothing is kept when empty.
    simulator_state: Path | None = None
    #: How much faster than the clock its trainings run.
    simulator_speed: Annotated[float, Field(gt=0, le=1_000_000)] = 1.0
    simulator_token: HeaderToken = SecretStr("r8_simulator")
    #: Signs its webhooks; made from the seed when empty.
    simulator_webhook_secret: SigningSecret | None = None


class ClientSettings(Settings):
    """The commands of `modelswap` that ask the product's API."""

    #: Where `services.state` answers.
    api_url: Url = STATE_URL
    api_tokens: SomeTokens


class OpsClientSettings(Settings):
    """The commands of `modelswap` that ask the operators' API."""

    #: Where `services.ops` answers.
    ops_url: Url = "http://127.0.0.1:8083"
    ops_tokens: SomeTokens


class TriggerSettings(ReplicateSettings):
    """The command of `modelswap` that posts a webhook."""

    #: Where `services.receiver` answers.
    receiver_url: Url = "http://127.0.0.1:8080"
    webhook_secrets: SigningSecrets = ()


class ListenSettings(BrokerSettings):
    """The command of `modelswap` that shows public events and passes them on."""

    #: Signs what it passes on, ``whsec_…``. Empty: another one at every start, which it then says.
    listen_secret: SigningSecret | None = None


PROCESSES: Final[dict[str, type[Settings]]] = {
    "receiver": ReceiverSettings,
    "extractor": ExtractorSettings,
    "state": StateSettings,
    "ops": OpsSettings,
    "simulator": SimulatorSettings,
}
#: Those of `modelswap`, which is no process of its own.
CLIENTS: Final = (ClientSettings, OpsClientSettings, TriggerSettings, ListenSettings)
#: Names with our prefix that steer tools and tests.
_NOT_SETTINGS: Final = ("MODELSWAP_CACHE_DIR", "MODELSWAP_TEST_", "MODELSWAP_UP_FOLDER")


def setting(field: str) -> str:
    """Return the environment variable of a field."""
    return PREFIX + field.upper()


def all_settings() -> dict[str, type[Settings]]:
    """Return every environment variable, with a settings class that has it."""
    classes: list[type[Settings]] = [*PROCESSES.values(), *CLIENTS]
    return {setting(field): each for each in classes for field in each.model_fields}


def unknown(environment: Mapping[str, str] | None = None) -> list[str]:
    """Return environment variables with our prefix that are not settings: most likely mistyped."""
    given = os.environ if environment is None else environment
    known = all_settings()
    return sorted(
        name
        for name in given
        if name.startswith(PREFIX)
        and not name.startswith(_NOT_SETTINGS)
        and name not in known
        and name.removesuffix(_FILE) not in known
    )


def guessable(settings: Settings) -> list[str]:
    """Return the names of settings with a secret of our own that has too few different characters to be random."""
    own = ("api_tokens", "ops_tokens", "ref_secrets")
    return [
        setting(field)
        for field in own
        if any(len(set(secret)) < _VARIED_CHARACTERS for secret in reveal(getattr(settings, field, ())))
    ]


def reveal(secrets: Iterable[SecretStr]) -> tuple[str, ...]:
    """Return the plain secrets."""
    return tuple(secret.get_secret_value() for secret in secrets)


def _mistake(problem: Mapping[str, Any]) -> str:
    name = setting(str(problem["loc"][0])) if problem["loc"] else PREFIX
    return (
        f"{name} is missing"
        if problem["type"] == "missing"
        else f"{name}: {problem['msg'].removeprefix('Value error, ')}"
    )


def _read_files(values: Mapping[str, str]) -> tuple[dict[str, str], list[str]]:
    """Replace each ``NAME_FILE`` by ``NAME`` with the file's content; also return an error line per unreadable file."""
    read, mistakes = dict(values), []
    for name, path in values.items():
        if not name.endswith(_FILE):
            continue
        target = name.removesuffix(_FILE)
        if target in values:
            mistakes.append(f"{target} is given twice, also as {name}")
            continue
        try:
            read[target] = Path(path).read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            mistakes.append(f"{name}: {type(error).__name__} while reading {path}")
    return read, mistakes
