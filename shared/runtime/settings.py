"""
Settings of each process and command, one frozen class each.

All are in this file: they share one environment, so only all of them together tell a mistyped name from another
process's setting. How they are read: `settings_base`.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Final, Literal

from pydantic import Field, SecretStr

from shared.runtime.setting_types import (
    Count,
    HeaderName,
    HeaderToken,
    ManagementUrl,
    Networks,
    Port,
    Seconds,
    Secrets,
    SigningSecret,
    SigningSecrets,
    SomeTokens,
    Tokens,
    Url,
)
from shared.runtime.settings_base import (
    FILE,
    MISSING,
    PREFIX,
    BrokerSettings,
    DatabaseSettings,
    ReplicateSettings,
    Settings,
    SettingsError,
    TopologySettings,
    guessable,
    reveal,
    setting,
)

__all__ = [
    "CLIENTS",
    "MISSING",
    "PREFIX",
    "PROCESSES",
    "STATE_URL",
    "BrokerSettings",
    "ClientSettings",
    "DatabaseSettings",
    "ExtractorSettings",
    "ListenSettings",
    "NotifierClientSettings",
    "NotifierSettings",
    "OpsClientSettings",
    "OpsSettings",
    "ReceiverSettings",
    "ReplicateSettings",
    "Settings",
    "SettingsError",
    "SimulatorSettings",
    "StateSettings",
    "TopologySettings",
    "TriggerSettings",
    "all_settings",
    "guessable",
    "reveal",
    "setting",
    "unknown",
]

#: Default URLs of the services.
STATE_URL: Final = "http://127.0.0.1:8081"
_RECEIVER_URL: Final = "http://127.0.0.1:8080"
_NOTIFIER_URL: Final = "http://127.0.0.1:8084"


class ReceiverSettings(BrokerSettings, ReplicateSettings):
    """`services.receiver`."""

    receiver_port: Port = 8080
    #: Secrets of Replicate's webhook signatures; any may match, for rotation. Empty: fetched from Replicate's API.
    webhook_secrets: SigningSecrets = ()
    #: Secrets that sign the ``ref`` in webhook URLs: the first signs, all verify, for rotation.
    ref_secrets: Annotated[Secrets, Field(min_length=1)]
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
    ref_secrets: Annotated[Secrets, Field(min_length=1)]
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
    ref_secrets: Annotated[Secrets, Field(min_length=1)]
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
    webhook_master_secrets: Annotated[Secrets, Field(min_length=1)]
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
#: Variables with our prefix that are read by tools and tests.
_NOT_SETTINGS: Final = ("MODELSWAP_CACHE_DIR", "MODELSWAP_TEST_", "MODELSWAP_UP_FOLDER")


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
