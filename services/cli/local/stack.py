"""What runs when everything runs on one machine? Pure: the environment that all processes share, and who they are."""

from __future__ import annotations

import base64
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from shared.runtime.settings import PREFIX, PROCESSES, Settings, SettingsError, SimulatorSettings, all_settings

SERVICES: Final = ("receiver", "extractor", "state", "ops")
SIMULATOR: Final = "simulator"
#: The simulator takes any.
TRAINER: Final = "ostris/flux-dev-lora-trainer:" + 64 * "0"
#: A ten-minute training then takes half a minute.
_SPEED: Final = "20"

_LAST_PORT: Final = 65_535
#: To listen there is to listen on all addresses.
_ANYWHERE: Final = ("0.0.0.0", "::")

Environment = Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Plan:
    """Which processes run, and what they share."""

    services: tuple[str, ...]
    #: The database in it is the migrations'.
    environment: Environment
    #: Where each is reached from here.
    urls: Mapping[str, str]
    #: The database's URL for each process that has a login of its own. Empty: all use the one of *environment*.
    logins: Mapping[str, str] = field(default_factory=dict)

    def environment_of(self, name: str) -> Environment:
        """Return what the process *name* is given: no database but its own."""
        if not self.logins:
            return self.environment
        return overridden(self.environment, {"DATABASE_URL": self.logins.get(name, "")})


def is_given(environment: Environment, name: str) -> bool:
    """Does the environment say something of the setting *name* (without our prefix), itself or by a file?"""
    return bool(environment.get(PREFIX + name) or environment.get(f"{PREFIX}{name}_FILE"))


def without_settings(environment: Environment) -> dict[str, str]:
    """*environment* as if nothing were set."""
    known = all_settings()
    return {name: text for name, text in environment.items() if name.removesuffix("_FILE") not in known}


def overridden(environment: Environment, settings: Mapping[str, str]) -> dict[str, str]:
    """*environment* with *settings* (names without our prefix), whatever it said of them before."""
    names = {PREFIX + name for name in settings}
    kept = {name: text for name, text in environment.items() if name.removesuffix("_FILE") not in names}
    return kept | {PREFIX + name: text for name, text in settings.items()}


def completed(environment: Environment, settings: Mapping[str, str]) -> dict[str, str]:
    """*environment* with those of *settings* that it says nothing of."""
    return overridden(environment, {n: text for n, text in settings.items() if not is_given(environment, n)})


def generated(random: bytes) -> dict[str, str]:
    """The secrets of a private stack, made from 112 *random* bytes."""
    return {
        "API_TOKENS": random[:24].hex(),
        "REF_SECRETS": random[24:56].hex(),
        "SIMULATOR_WEBHOOK_SECRET": "whsec_" + base64.b64encode(random[56:88]).decode(),
        "OPS_TOKENS": random[88:112].hex(),
    }


def plan(environment: Environment, *, simulator: bool, logins: Mapping[str, str] | None = None) -> Plan:
    """
    All services, with the simulator in Replicate's place if it is wanted, and with their own *logins* to the database.

    Raises:
        SettingsError: naming every setting of every process that is missing or wrong.

    """
    ready = completed(environment, {"LOG_FORMAT": "console"})
    ready = completed(_with_simulator(ready) if simulator else ready, {"PUBLIC_URL": url_of(ready, "receiver")})
    ready = overridden(ready, {"API_URL": url_of(ready, "state"), "EXTRACTOR_URL": url_of(ready, "extractor")})
    services = (SIMULATOR, *SERVICES) if simulator else SERVICES
    _check(ready, services)
    return Plan(services, ready, {name: url_of(ready, name) for name in services}, logins or {})


def exports(environment: Environment) -> str:
    """What another terminal needs to talk to this stack, as shell."""
    asked = {"API_URL": "state", "OPS_URL": "ops", "RECEIVER_URL": "receiver"}
    urls = {name: url_of(environment, service) for name, service in asked.items()}
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
            # Without one, the receiver asks the simulator, as it would Replicate.
            "WEBHOOK_SECRETS": secret.get_secret_value() if secret else "",
        },
    )


def _check(environment: Environment, services: Sequence[str]) -> None:
    mistakes: dict[str, None] = {}
    for name in services:
        try:
            PROCESSES[name].load(environment)
        except SettingsError as error:
            mistakes |= dict.fromkeys(str(error).splitlines())
    if mistakes:
        raise SettingsError("\n".join(mistakes))


def url_of(environment: Environment, service: str) -> str:
    """Where *service* is reached from this machine."""
    default = PROCESSES[service].model_fields[f"{service}_port"].default
    host = environment.get(f"{PREFIX}HOST") or Settings.model_fields["host"].default
    given = environment.get(f"{PREFIX}{service.upper()}_PORT", "")
    # What is no port is a mistake of that setting, and of none that follows from it.
    port = given if given.isdecimal() and int(given) <= _LAST_PORT else default
    return f"http://{'127.0.0.1' if host in _ANYWHERE else host}:{port}"
