"""
Types of settings: how each is parsed from text, and what is refused. Pure.

A `ValueError` here becomes one line of `SettingsError`, after the setting's name.
"""

from __future__ import annotations

import re
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


def _split(value: object) -> object:
    return _parts(value) if isinstance(value, str) else value


def _parts(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(",") if part.strip())


def _delay(text: str) -> timedelta:
    match = re.fullmatch(r"(\d+(?:\.\d+)?)(ms|s|m|h)", text)
    if not match:
        raise ValueError(f"{text!r} is not a delay like 500ms, 5s, 2m or 1h")
    seconds = float(match[1]) * _UNITS[match[2]]
    if not _SHORTEST_DELAY_SECONDS <= seconds <= _LONGEST_DELAY_SECONDS:
        raise ValueError(f"{text!r} is not a delay from 1ms to 720h")
    return timedelta(seconds=seconds)


def _delays(value: object) -> object:
    return tuple(map(_delay, _parts(value))) if isinstance(value, str) else value


def _amqp(url: SecretStr) -> SecretStr:
    amqp_urls(url.get_secret_value())
    return url


def _postgres(url: SecretStr) -> SecretStr:
    postgres_url(url.get_secret_value())
    return url


def _management(url: SecretStr) -> SecretStr:
    management_urls(url.get_secret_value())
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


def _networks(value: object) -> object:
    return tuple(map(_network, _parts(value))) if isinstance(value, str) else value


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


Host = Annotated[str, AfterValidator(_host)]
#: Secrets of 128 bits or more, separated by commas.
Secrets = Annotated[tuple[Annotated[SecretStr, AfterValidator(_long)], ...], BeforeValidator(_split)]
#: A signing secret of webhooks: ``whsec_`` and base64.
SigningSecret = Annotated[SecretStr, AfterValidator(_signing)]
SigningSecrets = Annotated[tuple[SigningSecret, ...], BeforeValidator(_split)]
#: API tokens with a scope and a name: ``TOKEN``, ``reader:TOKEN``, ``operator/NAME:TOKEN``, ``service/NAME:TOKEN``.
Tokens = Annotated[Secrets, AfterValidator(_tokens)]
SomeTokens = Annotated[Tokens, Field(min_length=1)]
#: Delays like 500ms, 5s, 2m, 1h, separated by commas; each from 1 ms to 720 h.
Delays = Annotated[tuple[timedelta, ...], BeforeValidator(_delays), Field(min_length=1)]
#: An HTTP URL, without a user or password.
Url = Annotated[str, AfterValidator(http_url)]
#: One or more addresses of a broker, separated by commas.
AmqpUrl = Annotated[SecretStr, AfterValidator(_amqp)]
#: One or more, separated by commas.
ManagementUrl = Annotated[SecretStr, AfterValidator(_management)]
PostgresUrl = Annotated[SecretStr, AfterValidator(_postgres)]
#: Networks like 10.0.0.0/8, separated by commas.
Networks = Annotated[tuple[Network, ...], BeforeValidator(_networks)]
#: 0 lets the system choose a free port.
Port = Annotated[int, Field(ge=0, le=65535)]
#: At least one; the limit is that of a Postgres or RabbitMQ integer.
Count = Annotated[int, Field(gt=0, le=2**31)]
#: Seconds, up to a year.
Seconds = Annotated[float, Field(gt=0, le=31_536_000)]
#: A secret that is sent in an HTTP header: printable ASCII without spaces.
HeaderToken = Annotated[SecretStr, AfterValidator(_sendable)]
#: The name of an HTTP header.
HeaderName = Annotated[str, Field(pattern=r"^[A-Za-z0-9-]{1,100}$")]
