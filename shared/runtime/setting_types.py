"""
Types of settings: how each is parsed from text, and what is refused. Pure.

A `ValueError` here becomes one line of `SettingsError`, after the setting's name.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import timedelta
from ipaddress import ip_network
from typing import Annotated, Final

from pydantic import AfterValidator, BeforeValidator, Field, SecretStr

from shared.replicate.signature import decode_secret
from shared.runtime.addresses import amqp_urls, http_url, is_host, management_urls, postgres_url
from shared.runtime.connections import Network
from shared.runtime.tokens import read_token

#: 128 bits, if every character is random.
SECRET_MIN_BYTES: Final = 16
#: RabbitMQ's delays are milliseconds, up to 49 days.
_SHORTEST_DELAY_SECONDS: Final = 0.001
_LONGEST_DELAY_SECONDS: Final = 30 * 86_400
_UNITS: Final = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}


def _each(parse: Callable[[str], object]) -> BeforeValidator:
    """Return the validator that parses each part of a text whose parts are separated by commas."""

    def validate(value: object) -> object:
        return (
            tuple(parse(part.strip()) for part in value.split(",") if part.strip()) if isinstance(value, str) else value
        )

    return BeforeValidator(validate)


def _secret(check: Callable[[str], object]) -> AfterValidator:
    """Return the validator that calls *check* with a secret's text."""

    def validate(secret: SecretStr) -> SecretStr:
        check(secret.get_secret_value())
        return secret

    return AfterValidator(validate)


def _delay(text: str) -> timedelta:
    match = re.fullmatch(r"(\d+(?:\.\d+)?)(ms|s|m|h)", text)
    if not match:
        raise ValueError(f"{text!r} is not a delay like 500ms, 5s, 2m or 1h")
    seconds = float(match[1]) * _UNITS[match[2]]
    if not _SHORTEST_DELAY_SECONDS <= seconds <= _LONGEST_DELAY_SECONDS:
        raise ValueError(f"{text!r} is not a delay from 1ms to 720h")
    return timedelta(seconds=seconds)


def _host(name: str) -> str:
    if not is_host(name):
        raise ValueError("is not a host like 127.0.0.1, :: or localhost")
    return name


def _sendable(secret: str) -> None:
    if not re.fullmatch(r"[\x21-\x7e]*", secret):
        raise ValueError("has a character that no HTTP header can carry: letters, digits and signs of ASCII only")


def _network(text: str) -> Network:
    try:
        return ip_network(text, strict=False)
    except ValueError as error:
        raise ValueError(f"{text!r} is not a network like 10.0.0.0/8") from error


def _long(secret: str) -> None:
    if len(secret.encode()) < SECRET_MIN_BYTES:
        raise ValueError(f"is shorter than {SECRET_MIN_BYTES} characters; `openssl rand -hex 24` makes a good one")


def _tokens(entries: tuple[SecretStr, ...]) -> tuple[SecretStr, ...]:
    secrets = [read_token(entry.get_secret_value()).secret for entry in entries]
    for secret in secrets:
        _long(secret)
        _sendable(secret)
    if len(set(secrets)) < len(secrets):
        raise ValueError("one token is there twice")
    return entries


Host = Annotated[str, AfterValidator(_host)]
#: Secrets of 128 bits or more, separated by commas.
Secrets = Annotated[tuple[Annotated[SecretStr, _secret(_long)], ...], _each(str)]
#: A signing secret of webhooks: ``whsec_`` and base64.
SigningSecret = Annotated[SecretStr, _secret(decode_secret)]
SigningSecrets = Annotated[tuple[SigningSecret, ...], _each(str)]
#: API tokens with a scope and a name: ``TOKEN``, ``reader:TOKEN``, ``operator/NAME:TOKEN``, ``service/NAME:TOKEN``.
Tokens = Annotated[Secrets, AfterValidator(_tokens)]
SomeSecrets = Annotated[Secrets, Field(min_length=1)]
SomeTokens = Annotated[Tokens, Field(min_length=1)]
#: Delays like 500ms, 5s, 2m, 1h, separated by commas; each from 1 ms to 720 h.
Delays = Annotated[tuple[timedelta, ...], _each(_delay), Field(min_length=1)]
#: An HTTP URL, without a user or password.
Url = Annotated[str, AfterValidator(http_url)]
#: One or more addresses of a broker, separated by commas.
AmqpUrl = Annotated[SecretStr, _secret(amqp_urls)]
#: One or more, separated by commas.
ManagementUrl = Annotated[SecretStr, _secret(management_urls)]
PostgresUrl = Annotated[SecretStr, _secret(postgres_url)]
#: Networks like 10.0.0.0/8, separated by commas.
Networks = Annotated[tuple[Network, ...], _each(_network)]
#: 0 lets the system choose a free port.
Port = Annotated[int, Field(ge=0, le=65535)]
#: At least one; the limit is that of a Postgres or RabbitMQ integer.
Count = Annotated[int, Field(gt=0, le=2**31)]
#: Seconds, up to a year.
Seconds = Annotated[float, Field(gt=0, le=31_536_000)]
#: A secret that is sent in an HTTP header: printable ASCII without spaces.
HeaderToken = Annotated[SecretStr, _secret(_sendable)]
#: The name of an HTTP header.
HeaderName = Annotated[str, Field(pattern=r"^[A-Za-z0-9-]{1,100}$")]
