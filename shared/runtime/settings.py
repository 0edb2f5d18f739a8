"""
How is this process set up? From the environment, prefix ``MODELSWAP_``, all mistakes reported at once.

Every name has a ``_FILE`` form whose value is the path of a file that holds the value (a mounted secret). Secrets are
`SecretStr`, so that no print, log or traceback shows one.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any, Final, Self

from pydantic import BeforeValidator, Field, SecretStr, ValidationError
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from shared.contract.errors import ModelswapError
from shared.contract.retry import DELAYS

PREFIX: Final = "MODELSWAP_"
_FILE: Final = "_FILE"
_UNITS: Final = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}


class SettingsError(ModelswapError):
    """The environment does not describe a process that can run; the message lists every mistake."""

    code = "settings"


def _split(value: Any) -> Any:
    if isinstance(value, str):
        return tuple(part.strip() for part in value.split(",") if part.strip())
    return value


def _delay(text: str) -> timedelta:
    match = re.fullmatch(r"(\d+(?:\.\d+)?)(ms|s|m|h)", text)
    if not match:
        raise ValueError(f"{text!r} is not a delay like 500ms, 5s, 2m or 1h")
    return timedelta(seconds=float(match[1]) * _UNITS[match[2]])


def _delays(value: Any) -> Any:
    return tuple(_delay(part) for part in _split(value)) if isinstance(value, str) else value


#: Several secrets, separated by commas.
Secrets = Annotated[tuple[SecretStr, ...], NoDecode, BeforeValidator(_split)]
Delays = Annotated[tuple[timedelta, ...], NoDecode, BeforeValidator(_delays), Field(min_length=1)]
Port = Annotated[int, Field(ge=0, le=65535)]
Seconds = Annotated[float, Field(gt=0)]


class Settings(BaseSettings):
    """What every process needs to know."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX, frozen=True, extra="ignore", hide_input_in_errors=True, validate_default=True
    )

    #: Where this process listens. In a container: 0.0.0.0.
    host: str = "127.0.0.1"
    #: debug, info, warning or error.
    log_level: Annotated[str, Field(pattern="^(debug|info|warning|error)$")] = "info"
    #: json for machines, console for people.
    log_format: Annotated[str, Field(pattern="^(json|console)$")] = "json"
    #: How long to finish what was begun, after SIGTERM. Keep it below the orchestrator's own patience.
    drain_seconds: Seconds = 8.0

    @classmethod
    def load(cls, environment: Mapping[str, str] | None = None) -> Self:
        """
        Read the settings from *environment* (the process's own, if not given).

        Raises:
            SettingsError: naming every setting that is missing or wrong.

        """
        given = dict(os.environ if environment is None else environment)
        values, mistakes = _read_files({name: value for name, value in given.items() if name.startswith(PREFIX)})
        try:
            # Only what was read here counts: the values are handed over by name, the environment is not asked again.
            settings = cls(
                **{name: values[PREFIX + name.upper()] for name in cls.model_fields if PREFIX + name.upper() in values}
            )
        except ValidationError as error:
            mistakes += [
                f"{PREFIX}{'_'.join(map(str, e['loc'][:1])).upper()}: {e['msg']}"
                for e in error.errors(include_input=False, include_url=False)
            ]
        if mistakes:
            raise SettingsError(
                "\n".join(["These settings need your attention:", *(f"  {m}" for m in sorted(set(mistakes)))])
            )
        return settings


class BrokerSettings(Settings):
    """What a process that talks to RabbitMQ needs to know."""

    #: amqp://user:password@host:port/vhost
    amqp_url: SecretStr
    #: How long to wait for the broker's receipt of a message.
    publish_timeout_seconds: Seconds = 5.0
    #: May this process declare exchanges and queues? No, where a deploy job owns them.
    declare_topology: bool = True
    #: The ladder of delays between attempts.
    retry_delays: Delays = DELAYS


def unknown(classes: Iterable[type[Settings]], environment: Mapping[str, str] | None = None) -> list[str]:
    """Names in the environment that start like ours and that none of *classes* has: most likely typing mistakes."""
    known = {PREFIX + name.upper() for each in classes for name in each.model_fields}
    given = os.environ if environment is None else environment
    return sorted(
        name
        for name in given
        if name.startswith(PREFIX) and name.removesuffix(_FILE) not in known and name not in known
    )


def _read_files(values: Mapping[str, str]) -> tuple[dict[str, str], list[str]]:
    """Replace each ``NAME_FILE`` by ``NAME`` with the file's content; a line for each that can not be read."""
    read, mistakes = dict(values), []
    for name, path in values.items():
        if not name.endswith(_FILE):
            continue
        target = name.removesuffix(_FILE)
        if target in values:
            mistakes.append(f"{target}: given twice, also as {name}")
            continue
        try:
            read[target] = Path(path).read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            mistakes.append(f"{name}: {error.__class__.__name__} reading {path}")
    return read, mistakes


def reveal(secrets: Iterable[SecretStr]) -> tuple[str, ...]:
    """The secrets themselves, for those who must use them."""
    return tuple(secret.get_secret_value() for secret in secrets)
