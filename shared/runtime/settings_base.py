"""
What all settings have in common: the prefix ``MODELSWAP_``, the ``_FILE`` forms, and errors that name every mistake.

Every name has a ``_FILE`` form, the path of a file with the value (a mounted secret). Secrets are `SecretStr`, so that
no print, log or traceback shows one. All errors are reported at once.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Final, Literal, NamedTuple, Self

from pydantic import BaseModel, ConfigDict, SecretStr, ValidationError
from pydantic_core import ErrorDetails

from shared.contract.errors import ModelswapError
from shared.runtime.connections import PRIVATE_NETWORKS, Limits
from shared.runtime.setting_types import Count, Host, Networks, Seconds
from shared.runtime.tokens import read_token

PREFIX: Final = "MODELSWAP_"
FILE: Final = "_FILE"
#: A random secret has more different characters than this: 16 hexadecimal digits have 10 on average.
_VARIED_CHARACTERS: Final = 7


class BadSetting(NamedTuple):
    """What is wrong with one setting, in a line."""

    setting: str
    said: str
    is_missing: bool = False


class SettingsError(ModelswapError):
    """Settings are missing or invalid; the message lists all of them."""

    code = "settings"

    def __init__(self, mistakes: Sequence[BadSetting]) -> None:
        super().__init__("\n".join(["these settings need your attention:", *(f"  {each.said}" for each in mistakes)]))
        self.mistakes = mistakes


class Settings(BaseModel):
    """Settings of every process."""

    # Built at first use: a process or a command needs one or two of fifteen such classes.
    model_config = ConfigDict(
        frozen=True, extra="forbid", hide_input_in_errors=True, validate_default=True, defer_build=True
    )

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
            mistakes += [_bad_setting(problem) for problem in error.errors(include_input=False, include_url=False)]
        if mistakes:
            raise SettingsError(mistakes)
        return settings


def setting(field: str) -> str:
    """Return the environment variable of a field."""
    return PREFIX + field.upper()


def reveal(secrets: Iterable[SecretStr]) -> tuple[str, ...]:
    """Return the plain secrets."""
    return tuple(secret.get_secret_value() for secret in secrets)


def read_named(environment: Mapping[str, str], names: Collection[str]) -> dict[str, str]:
    """
    Return those of *names*, which are no settings, that are given: as a variable, or as a file by the ``_FILE`` form.

    Raises:
        SettingsError: naming each that cannot be read.

    """
    forms = [form for name in names for form in (name, name + FILE)]
    values, mistakes = _read_files({form: environment[form] for form in forms if environment.get(form)})
    if mistakes:
        raise SettingsError(mistakes)
    return {name: text for name, text in values.items() if name in names}


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


def _read_files(values: Mapping[str, str]) -> tuple[dict[str, str], list[BadSetting]]:
    """Replace each ``NAME_FILE`` by ``NAME`` with the file's content; also return a mistake per unreadable file."""
    read, mistakes = dict(values), []
    for name, path in values.items():
        if not name.endswith(FILE):
            continue
        target = name.removesuffix(FILE)
        if target in values:
            mistakes.append(BadSetting(target, f"{target} is given twice, also as {name}"))
            continue
        try:
            read[target] = Path(path).read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            mistakes.append(BadSetting(target, f"{name}: {type(error).__name__} while reading {path}"))
    return read, mistakes


def _bad_setting(problem: ErrorDetails) -> BadSetting:
    name = setting(str(problem["loc"][0])) if problem["loc"] else PREFIX
    if problem["type"] == "missing":
        return BadSetting(name, f"{name} is missing", is_missing=True)
    return BadSetting(name, f"{name}: {problem['msg'].removeprefix('Value error, ')}")
