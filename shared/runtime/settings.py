"""
Settings from the environment; one frozen class for each process and command.

How they are read, and what all processes have: `settings_base`. Types and their bounds: `setting_types`.

All classes are in this file: they share one environment, so only all of them together tell a mistyped name from another
process's setting.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Final, Literal

from pydantic import Field, SecretStr

from shared.contract.queues import LogLimits
from shared.contract.retry import DELAYS
from shared.contract.topology import Topology, topology
from shared.runtime.setting_types import (
    AmqpUrl,
    Count,
    Delays,
    HeaderName,
    HeaderToken,
    ManagementUrl,
    Networks,
    Port,
    PostgresUrl,
    Seconds,
    SigningSecret,
    SigningSecrets,
    SomeSecrets,
    SomeTokens,
    Tokens,
    Url,
)
from shared.runtime.settings_base import FILE, PREFIX, Settings, setting

#: Variables with our prefix that are read by tools and tests.
_NOT_SETTINGS: Final = ("MODELSWAP_CACHE_DIR", "MODELSWAP_TEST_", "MODELSWAP_UP_FOLDER")
#: Default URLs of the services.
STATE_URL: Final = "http://127.0.0.1:8081"
_RECEIVER_URL: Final = "http://127.0.0.1:8080"
_NOTIFIER_URL: Final = "http://127.0.0.1:8084"


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


class ReceiverSettings(BrokerSettings, ReplicateSettings):
    """`services.receiver`."""

    receiver_port: Port = 8080
    #: Secrets of Replicate's webhook signatures; any may match, for rotation. Empty: fetched from Replicate's API.
    webhook_secrets: SigningSecrets = ()
    #: Secrets that sign the ``ref`` in webhook URLs: the first signs, all verify, for rotation.
    ref_secrets: SomeSecrets
    #: Limit of a webhook's body: 4 MiB, because a completed training's body holds its whole log.
    max_body_bytes: Count = 4 * 1024 * 1024
    #: Seconds that a webhook's timestamp may differ from now: 5 minutes, as Standard Webhooks recommends.
    webhook_tolerance_seconds: Seconds = 300.0


class ExtractorSettings(BrokerSettings, ReplicateSettings):
    """`services.extractor`."""

    extractor_port: Port = 8082
    #: Bearer tokens for `POST /preview`. Empty: all requests are refused.
    api_tokens: Tokens = ()
    #: Checks before a swap: the version exists; also has a prompt in its input schema; also makes an image, which costs
    #: a prediction.
    verify_level: Literal["exists", "schema", "predict"] = "exists"
    #: Seconds that one attempt waits for a prediction; a cold boot that takes longer is retried later.
    verify_patience_seconds: Seconds = 90.0
    #: Seconds after which Replicate cancels the prediction: the limit of its cost. 5 is Replicate's minimum.
    verify_cancel_after_seconds: Annotated[int, Field(ge=5, le=86_400)] = 300
    #: Trainings handled at the same time; 65,535 is AMQP's limit of a prefetch count.
    extractor_concurrency: Annotated[int, Field(gt=0, le=65_535)] = 64


class StateSettings(TopologySettings, ReplicateSettings, DatabaseSettings):
    """`services.state`."""

    state_port: Port = 8081
    #: Limit of open event streams. Half of a process's thousand connections, so that other requests have room.
    max_streams: Count = 500
    #: Bearer tokens of the product's API.
    api_tokens: SomeTokens
    #: As the receiver's.
    ref_secrets: SomeSecrets
    #: URL under which Replicate reaches the receiver; https in production.
    public_url: Url


class OpsSettings(BrokerSettings, ReplicateSettings, DatabaseSettings):
    """`services.ops`."""

    ops_port: Port = 8083
    #: Bearer tokens of the operators' API.
    ops_tokens: SomeTokens
    #: URL of `services.state`.
    api_url: Url = STATE_URL
    #: Tokens for `services.state`: the first of scope ``service`` is used, which names the operator; else the first.
    api_tokens: SomeTokens
    #: URL of `services.extractor`.
    extractor_url: Url = "http://127.0.0.1:8082"
    #: URL of `services.receiver`: ops asks it how it is.
    receiver_url: Url = _RECEIVER_URL
    #: URL of RabbitMQ's management API, with a user that has the tag administrator; of a cluster one for each node,
    #: separated by commas. Empty: no subscription can be added or shown, and queues that could hold up all subscribers
    #: are not found.
    management_url: ManagementUrl | None = None
    #: Days after which a resolved or dropped dead letter is deleted; open ones are always kept.
    ops_keep_settled_days: Annotated[float, Field(gt=0, le=3650)] = 90.0
    #: URL of `services.notifier`, which the console asks.
    notifier_url: Url = _NOTIFIER_URL
    #: Header in which a trusted proxy names the person at the console, for the audit. Empty: the token's name.
    console_name_header: HeaderName | None = None
    #: As the receiver's: they identify our trainings in Replicate's list.
    ref_secrets: SomeSecrets
    #: Seconds after which a training is overdue, as long as its trainer has too few ended trainings to compute it. One
    #: hour: usual trainings take minutes.
    reconcile_after_seconds: Seconds = 3600.0
    #: Seconds between two searches for overdue trainings.
    reconcile_every_seconds: Seconds = 60.0
    #: Limit of calls to Replicate about overdue trainings; Replicate allows 3,000 per minute for all purposes.
    reconcile_calls_per_minute: Count = 60
    #: Seconds without any news after which a training has failed: three days.
    reconcile_give_up_seconds: Seconds = 259_200.0


class NotifierSettings(BrokerSettings, DatabaseSettings):
    """`services.notifier`."""

    notifier_port: Port = 8084
    #: As state's.
    api_tokens: SomeTokens
    #: Secrets that the signing secrets of webhook endpoints are derived from: the first makes new ones, all are used,
    #: for rotation.
    webhook_master_secrets: SomeSecrets
    #: Networks that webhooks may go to although they are not public, and without TLS: for tests.
    webhook_allowed_networks: Networks = ()
    #: Seconds for a webhook's whole request and the begin of its response.
    webhook_timeout_seconds: Seconds = 15.0
    #: Requests to one endpoint at a time, of each process; one while it fails.
    webhook_requests_per_endpoint: Annotated[int, Field(gt=0, le=1000)] = 8
    #: Requests to all endpoints at a time; 65,535 is AMQP's limit of a prefetch count.
    webhook_concurrency: Annotated[int, Field(gt=0, le=65_535)] = 256
    #: Seconds after which a delivery that fails is given up: three days.
    webhook_give_up_seconds: Seconds = 259_200.0


class SimulatorSettings(Settings):
    """`services.simulator`."""

    simulator_port: Port = 8090
    #: The same seed makes the same trainings. Empty: a random one.
    simulator_seed: int | None = None
    #: SQLite file that keeps its state over restarts. Empty: nothing is kept.
    simulator_state: Path | None = None
    #: Simulated seconds per real second.
    simulator_speed: Annotated[float, Field(gt=0, le=1_000_000)] = 1.0
    simulator_token: HeaderToken = SecretStr("r8_simulator")
    #: Signing secret of its webhooks. Empty: derived from the seed.
    simulator_webhook_secret: SigningSecret | None = None


class ClientSettings(Settings):
    """Commands that call the product's API."""

    #: URL of `services.state`.
    api_url: Url = STATE_URL
    api_tokens: SomeTokens


class OpsClientSettings(Settings):
    """Commands that call the operators' API."""

    #: URL of `services.ops`.
    ops_url: Url = "http://127.0.0.1:8083"
    #: URL under which browsers reach the console. Empty: that of `services.ops`.
    console_url: Url | None = None
    ops_tokens: SomeTokens


class NotifierClientSettings(Settings):
    """Commands that call the API of webhook endpoints."""

    #: URL of `services.notifier`.
    notifier_url: Url = _NOTIFIER_URL
    api_tokens: SomeTokens


class TriggerSettings(ReplicateSettings):
    """`modelswap trigger`, which posts webhooks."""

    #: URL of `services.receiver`.
    receiver_url: Url = _RECEIVER_URL
    webhook_secrets: SigningSecrets = ()


class ListenSettings(BrokerSettings):
    """`modelswap listen`, which shows public events and forwards them."""

    #: Signing secret of forwarded events. Empty: a new one at every start, which is printed.
    listen_secret: SigningSecret | None = None


PROCESSES: Final[dict[str, type[Settings]]] = {
    "receiver": ReceiverSettings,
    "extractor": ExtractorSettings,
    "state": StateSettings,
    "ops": OpsSettings,
    "notifier": NotifierSettings,
    "simulator": SimulatorSettings,
}
#: Settings of the commands of `modelswap`.
CLIENTS: Final = (
    ClientSettings,
    NotifierClientSettings,
    OpsClientSettings,
    TriggerSettings,
    ListenSettings,
    TopologySettings,
)


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
        and name.removesuffix(FILE) not in known
    )
