"""
Settings from the environment, with the prefix ``MODELSWAP_``; all errors are reported at once.

Every name has a ``_FILE`` form, the path of a file with the value (a mounted secret). Secrets are `SecretStr`, so that
no print, log or traceback shows one. Here is what the classes of `settings` have in common. Types and their bounds:
`setting_types`.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Final, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError
from pydantic_core import ErrorDetails

from shared.contract.errors import ModelswapError
from shared.contract.queues import LogLimits
from shared.contract.retry import DELAYS
from shared.contract.topology import Topology, topology
from shared.runtime.connections import PRIVATE_NETWORKS, Limits
from shared.runtime.setting_types import (
    AmqpUrl,
    Count,
    Delays,
    HeaderToken,
    Host,
    Networks,
    PostgresUrl,
    Seconds,
    Url,
)
from shared.runtime.tokens import read_token

PREFIX: Final = "MODELSWAP_"
FILE: Final = "_FILE"
#: Ends what is said of a setting that must be set.
MISSING: Final = " is missing"
#: A random secret has more different characters than this: 16 hexadecimal digits have 10 on average.
_VARIED_CHARACTERS: Final = 7


class SettingsError(ModelswapError):
    """Settings are missing or invalid; the message lists all of them."""

    code = "settings"


class Settings(BaseModel):
    """Settings of every process."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True, validate_default=True)

    #: Address to listen on. Loopback, so that nothing is exposed by accident; 0.0.0.0 in a container.
    host: Host = "127.0.0.1"
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    #: json for log collectors, console for terminals.
    log_format: Literal["json", "console"] = "json"
    #: Seconds after SIGTERM to finish work in progress. Must be shorter than the orchestrator's grace period, which is
    #: 10 s in Docker.
    drain_seconds: Seconds = 5.0
    #: Seconds to receive a request's headers, from the connection or the request's first byte. Ends clients that hold
    #: connections open by sending slowly.
    header_timeout_seconds: Seconds = 10.0
    #: Limit of open connections per client address; trusted proxies have none.
    max_connections_per_address: Count = 100
    #: Networks of proxies, whose connections are not limited per address. Default: the private networks.
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

    #: amqp://user:password@host:port/vhost; of a cluster one for each node, separated by commas
    amqp_url: AmqpUrl
    #: Seconds to wait for the broker's confirm of a message; the receiver then answers 503.
    publish_timeout_seconds: Seconds = 5.0
    #: Whether this process declares exchanges and queues; false where a deploy job does.
    declare_topology: bool = True
    #: Delays between the attempts at a message; a message that failed after the last one is dead-lettered.
    retry_delays: Delays = DELAYS
    #: Nodes of a RabbitMQ cluster that keep a copy of each queue (but progress) and of the events log. It counts where
    #: one is made, and then leaders are spread over the nodes. Empty: RabbitMQ's defaults.
    queue_replicas: Annotated[int, Field(ge=1, le=99)] | None = None

    @property
    def topology(self) -> Topology:
        """Every exchange and queue, as these settings want them."""
        return topology(self.retry_delays, replicas=self.queue_replicas)


class TopologySettings(BrokerSettings):
    """Settings of what declares the events log: `services.state` and `modelswap topology`."""

    #: Days that the events log keeps public events.
    events_log_max_age_days: Annotated[int, Field(ge=1, le=3650)] = LogLimits().max_age_days
    #: Largest size of the events log; an event takes about 1 kB. Beyond it the oldest events are deleted earlier.
    events_log_max_bytes: Annotated[int, Field(ge=10_000_000, le=10**15)] = LogLimits().max_bytes

    @property
    def topology(self) -> Topology:
        """Every exchange and queue, as these settings want them."""
        limits = LogLimits(self.events_log_max_age_days, self.events_log_max_bytes)
        return topology(self.retry_delays, limits, self.queue_replicas)


class ReplicateSettings(Settings):
    """Settings of processes that call Replicate."""

    #: Without it no training is started and no model verified.
    replicate_api_token: HeaderToken | None = None
    replicate_api_url: Url = "https://api.replicate.com"


class DatabaseSettings(Settings):
    """Settings of processes that use Postgres."""

    #: postgresql://user:password@host:port/database; with a standby, user:password@one:port,two:port/database
    database_url: PostgresUrl
    #: Connections to Postgres of each process.
    database_pool_size: Annotated[int, Field(ge=2, le=1000)] = 8


def setting(field: str) -> str:
    """Return the environment variable of a field."""
    return PREFIX + field.upper()


def reveal(secrets: Iterable[SecretStr]) -> tuple[str, ...]:
    """Return the plain secrets."""
    return tuple(secret.get_secret_value() for secret in secrets)


def guessable(settings: Settings) -> list[str]:
    """Return the names of settings with a secret of our own that has too few different characters to be random."""
    tokens = {
        field: [read_token(entry).secret for entry in reveal(getattr(settings, field, ()))]
        for field in ("api_tokens", "ops_tokens")
    }
    secrets = {field: reveal(getattr(settings, field, ())) for field in ("ref_secrets", "webhook_master_secrets")}
    return [
        setting(field)
        for field, found in {**tokens, **secrets}.items()
        if any(len(set(secret)) < _VARIED_CHARACTERS for secret in found)
    ]


def _read_files(values: Mapping[str, str]) -> tuple[dict[str, str], list[str]]:
    """Replace each ``NAME_FILE`` by ``NAME`` with the file's content; also return an error line per unreadable file."""
    read, mistakes = dict(values), []
    for name, path in values.items():
        if not name.endswith(FILE):
            continue
        target = name.removesuffix(FILE)
        if target in values:
            mistakes.append(f"{target} is given twice, also as {name}")
            continue
        try:
            read[target] = Path(path).read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            mistakes.append(f"{name}: {type(error).__name__} while reading {path}")
    return read, mistakes


def _mistake(problem: ErrorDetails) -> str:
    name = setting(str(problem["loc"][0])) if problem["loc"] else PREFIX
    is_missing = problem["type"] == "missing"
    return f"{name}{MISSING}" if is_missing else f"{name}: {problem['msg'].removeprefix('Value error, ')}"
