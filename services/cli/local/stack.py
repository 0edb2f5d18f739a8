"""The processes of `modelswap up`, the environment that they share, and the Replicate that they use. Pure."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final
from urllib.parse import urlsplit

from shared.runtime.settings import PROCESSES, ReceiverSettings, SimulatorSettings, all_settings
from shared.runtime.settings_base import PREFIX, BadSetting, Settings, SettingsError

SERVICES: Final = ("receiver", "extractor", "state", "ops", "notifier")
SIMULATOR: Final = "simulator"
GENERATOR: Final = "generator"
_URL: Final = "REPLICATE_API_URL"
_AUTH: Final = "REPLICATE_API_TOKEN"
_DEFAULT_URL: Final = ReceiverSettings.model_fields["replicate_api_url"].default
#: The simulator accepts any trainer.
TRAINER: Final = "ostris/flux-dev-lora-trainer:" + 64 * "0"
#: A ten-minute training then takes half a minute.
_SPEED: Final = "20"

_LAST_PORT: Final = 65_535
#: Where a process that listens everywhere is reached.
_LOOPBACK: Final = {"0.0.0.0": "127.0.0.1", "::": "::1"}
_LOGINS: Final = ("AMQP_URL", "DATABASE_URL", "MANAGEMENT_URL")

#: Settings with the addresses of processes that ops asks.
_ADDRESSES: Final = {
    "API_URL": "state",
    "EXTRACTOR_URL": "extractor",
    "NOTIFIER_URL": "notifier",
    "RECEIVER_URL": "receiver",
}

Environment = Mapping[str, str]
#: For each process, settings (names without prefix) of its own.
Logins = Mapping[str, Mapping[str, str]]


@dataclass(frozen=True, slots=True)
class Plan:
    """The processes to run, and their environment."""

    services: tuple[str, ...]
    #: Its database URL is the one for migrations.
    environment: Environment
    urls: Mapping[str, str]
    #: The settings with which each process logs in to the servers. Empty: all use those of *environment*.
    logins: Logins = field(default_factory=dict)

    def environment_of(self, name: str) -> Environment:
        """Return the environment of the process *name*, with its own logins only."""
        if not self.logins:
            return self.environment
        return overridden(self.environment, {**dict.fromkeys(_LOGINS, ""), **self.logins.get(name, {})})


def is_given(environment: Environment, name: str) -> bool:
    """Return whether the setting *name* (without prefix) is set, directly or by a file."""
    return bool(environment.get(PREFIX + name) or environment.get(f"{PREFIX}{name}_FILE"))


def without_settings(environment: Environment) -> dict[str, str]:
    known = all_settings()
    return {name: text for name, text in environment.items() if name.removesuffix("_FILE") not in known}


def overridden(environment: Environment, settings: Mapping[str, str]) -> dict[str, str]:
    """Return *environment* with *settings* (names without prefix) replaced."""
    names = {PREFIX + name for name in settings}
    kept = {name: text for name, text in environment.items() if name.removesuffix("_FILE") not in names}
    return kept | {PREFIX + name: text for name, text in settings.items()}


def completed(environment: Environment, settings: Mapping[str, str]) -> dict[str, str]:
    """Return *environment* with those of *settings* that are not set yet."""
    return overridden(environment, {n: text for n, text in settings.items() if not is_given(environment, n)})


def plan(environment: Environment, *, simulator: bool, logins: Logins | None = None) -> Plan:
    """Plan all services, optionally with the simulator in place of Replicate and with *logins* to the servers."""
    ready = completed(environment, {"LOG_FORMAT": "console"})
    ready = completed(_with_simulator(ready) if simulator else ready, {"PUBLIC_URL": url_of(ready, "receiver")})
    ready = overridden(ready, {name: url_of(ready, service) for name, service in _ADDRESSES.items()})
    services = (SIMULATOR, *SERVICES) if simulator else SERVICES
    _check(ready, services)
    return Plan(services, ready, {name: url_of(ready, name) for name in services}, logins or {})


def exports(environment: Environment) -> str:
    """Return the shell commands that give another terminal the settings of this stack."""
    urls = {name: url_of(environment, service) for name, service in {**_ADDRESSES, "OPS_URL": "ops"}.items()}
    everything = overridden(environment, urls)
    given = {name: text for name, text in everything.items() if name.startswith(PREFIX) and text}
    return "".join(f"export {name}={shlex.quote(text)}\n" for name, text in given.items())


def _with_simulator(environment: Environment) -> Environment:
    ready = completed(environment, {"SIMULATOR_SPEED": _SPEED})
    simulator = SimulatorSettings.load(ready)
    secret = simulator.simulator_webhook_secret
    return overridden(
        ready,
        {
            "REPLICATE_API_URL": url_of(ready, SIMULATOR),
            "REPLICATE_API_TOKEN": simulator.simulator_token.get_secret_value(),
            # If empty, the receiver fetches it from the simulator, as from Replicate.
            "WEBHOOK_SECRETS": secret.get_secret_value() if secret else "",
        },
    )


def _check(environment: Environment, services: Sequence[str]) -> None:
    mistakes: dict[BadSetting, None] = {}
    for name in services:
        try:
            PROCESSES[name].load(environment)
        except SettingsError as error:
            mistakes |= dict.fromkeys(error.mistakes)
    if mistakes:
        raise SettingsError(list(mistakes))


def url_of(environment: Environment, service: str) -> str:
    default = PROCESSES[service].model_fields[f"{service}_port"].default
    host = environment.get(f"{PREFIX}HOST") or Settings.model_fields["host"].default
    host = _LOOPBACK.get(host, host)
    given = environment.get(f"{PREFIX}{service.upper()}_PORT", "")
    # An invalid port is reported for its own setting, not for the ones derived from it.
    port = given if given.isdecimal() and int(given) <= _LAST_PORT else default
    return f"http://{f'[{host}]' if ':' in host else host}:{port}"


@dataclass(frozen=True, slots=True)
class Choice:
    """The Replicate to use."""

    is_simulated: bool
    #: Which one, why, and how to get the other one.
    why: str


def choose_replicate(environment: Environment, *, embedded: bool, simulator: bool | None) -> Choice:
    """
    Choose by the option *simulator*; if that is None, by *environment*.

    With *embedded* servers, choose the simulator unless there is a token for another Replicate. A terminal with the
    exported settings of an earlier run has the simulator's own token; the address tells the two apart.
    """
    ours = url_of(environment, SIMULATOR)
    given = environment.get(PREFIX + _URL)
    is_simulated = bool(simulator)
    if simulator is not None:
        reason = "as --simulator says" if simulator else "as --no-simulator says"
    elif not embedded:
        reason = "since --embedded is not given"
    elif given == ours:
        is_simulated, reason = True, f"since {PREFIX}{_URL} is its address"
    elif is_given(environment, _AUTH):
        reason = f"since {PREFIX}{_AUTH} is set"
    else:
        unused = f"; {PREFIX}{_URL} is not used" if given else ""
        is_simulated, reason = True, f"since {PREFIX}{_AUTH} is not set{unused}"
    if is_simulated:
        where = f"the simulator at {ours}"
        then = f"real one set {PREFIX}{_AUTH} and {PREFIX}PUBLIC_URL, unset {PREFIX}{_URL}, and add --no-simulator"
    else:
        where, then = without_login(given or _DEFAULT_URL), "simulator add --simulator"
    return Choice(is_simulated, f"{where}, {reason}. For the {then}")


def without_login(url: str) -> str:
    """Return scheme, host and port of *url*, without the user and password that it may have."""
    address = urlsplit(url)
    return f"{address.scheme}://{address.netloc.rpartition('@')[2]}"
