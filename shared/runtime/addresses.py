"""
Validates URLs of brokers, databases and APIs, because each library fails on an invalid one with errors of its own.

Functions return their argument, or raise `ValueError` with a text that does not quote it: it may contain a password.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from ipaddress import ip_address
from pathlib import Path
from typing import Final
from urllib.parse import SplitResult, parse_qsl, quote, unquote, urlsplit

from shared.contract.brokers import split_addresses

_AMQP_FORM: Final = "is not an address like amqp://user:password@host:5672/vhost"
_POSTGRES_FORM: Final = "is not an address like postgresql://user:password@host:5432/database"
_MANAGEMENT_FORM: Final = "is not an address like http://user:password@host:15672"
_HTTP_FORM: Final = "is not an address like https://example.com"

#: AMQP encodes the length of a name in one byte.
_VHOST_BYTES: Final = 255
_LABEL: Final = re.compile(r"[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?", re.IGNORECASE | re.ASCII)
_NUMBERS: Final = re.compile(r"[0-9]+(\.[0-9]+){3}")
_HOST_BYTES: Final = 253
_POSTGRES_PORT: Final = 5432
_BAD_ESCAPE: Final = re.compile(r"%(?![0-9a-fA-F]{2})|%00")
_BLANK: Final = re.compile(r"[\x00-\x20\x7f-\xa0\ud800-\udfff]")

#: URL parameters of brokers and databases that name a file.
_AMQP_FILES: Final = ("cafile", "capath", "certfile", "keyfile")
_POSTGRES_FILES: Final = ("sslcert", "sslkey", "sslrootcert", "sslcrl", "passfile")
_AMQP_CHOICES: Final = {"auth": ("plain", "external")}
_POSTGRES_CHOICES: Final = {
    "sslmode": ("disable", "allow", "prefer", "require", "verify-ca", "verify-full"),
    # The others are those of servers that take no writes.
    "target_session_attrs": ("any", "primary", "read-write"),
}


def is_host(text: str) -> bool:
    """Return whether *text*, without brackets, is a valid host name or IP address."""
    try:
        if ":" in text or _NUMBERS.fullmatch(text):
            ip_address(text)
            return True
        name = text.encode("ascii" if text.isascii() else "idna").decode()
        name.encode().decode("idna")
    except ValueError:
        return False
    return len(name) <= _HOST_BYTES and all(map(_LABEL.fullmatch, name.removesuffix(".").split(".")))


def http_url(url: str) -> str:
    """Validate an API's URL; return it without a trailing slash."""
    parts = _split(url, _HTTP_FORM)
    if parts.scheme not in ("http", "https") or parts.query or parts.fragment or not _is_server(parts.netloc):
        raise ValueError(_HTTP_FORM)
    if "@" in parts.netloc:
        raise ValueError("holds a user or a password: addresses are logged and shown, so remove it")
    return url.rstrip("/")


def amqp_urls(text: str) -> str:
    """Validate a broker's addresses, separated by commas: nodes of one cluster, so all have the same vhost."""
    addresses = split_addresses(text)
    for number, address in enumerate(addresses, start=1):
        try:
            amqp_url(address)
        except ValueError as error:
            raise ValueError(
                f"{error} (address {number} of {len(addresses)})" if addresses[1:] else str(error)
            ) from None
        if vhost_of(address) != vhost_of(text):
            raise ValueError(
                f"names another vhost in address {number} than in address 1: all must be nodes of one cluster"
            )
    return text


def amqp_url(url: str) -> str:
    """Validate one address of a broker."""
    parts = _split(url, _AMQP_FORM)
    if parts.scheme not in ("amqp", "amqps") or parts.fragment:
        raise ValueError(_AMQP_FORM)
    if "\\" in parts.netloc:
        raise ValueError(f"{_AMQP_FORM}: a backslash in it must be written as %5C")
    if "," in _servers(parts.netloc):
        raise ValueError("names several hosts in one address: write amqp://user:password@one/vhost,amqp://… for each")
    if not _is_server(parts.netloc):
        raise ValueError(_AMQP_FORM)
    if len(unquote(parts.path.removeprefix("/")).encode()) > _VHOST_BYTES:
        raise ValueError(f"names a vhost of more than {_VHOST_BYTES} bytes")
    _check_parameters(parts.query, _AMQP_FILES, _AMQP_CHOICES)
    return url


def management_urls(text: str) -> str:
    """Validate URLs of RabbitMQ's management API, separated by commas, each with a user and a password."""
    for url in split_addresses(text):
        parts = _split(url, _MANAGEMENT_FORM)
        is_plain = not (parts.query or parts.fragment or parts.path.strip("/"))
        if parts.scheme not in ("http", "https") or not is_plain or not _is_server(parts.netloc):
            raise ValueError(_MANAGEMENT_FORM)
        if not (parts.username and parts.password):
            raise ValueError(f"{_MANAGEMENT_FORM}: it lacks a user or a password")
    return text


def vhost_of(text: str) -> str:
    """Return the vhost of a broker's valid addresses."""
    return unquote(urlsplit(split_addresses(text)[0]).path.removeprefix("/")) or "/"


def with_login(text: str, user: str, password: str) -> str:
    """Return *text*, one or more addresses of a server, for another user; parameters stay."""
    return ",".join(_with_login(address, user, password) for address in split_addresses(text))


def _with_login(url: str, user: str, password: str) -> str:
    parts = urlsplit(url)
    login = f"{quote(user, safe='')}:{quote(password, safe='')}"
    return parts._replace(netloc=f"{login}@{_servers(parts.netloc)}").geturl()


def without_parameters(text: str) -> str:
    """Return *text*, one or more addresses, without parameters, such as files of this machine."""
    return ",".join(address.partition("?")[0] for address in split_addresses(text))


def postgres_url(url: str) -> str:
    """Validate a database's URL; it may name several servers, or none for a Unix socket."""
    parts = _split(url, _POSTGRES_FORM)
    if parts.scheme not in ("postgres", "postgresql") or parts.fragment:
        raise ValueError(_POSTGRES_FORM)
    servers = _servers(parts.netloc)
    if servers and not all(_is_server(server) or _is_socket(server) for server in servers.split(",")):
        raise ValueError(_POSTGRES_FORM)
    _check_parameters(parts.query, _POSTGRES_FILES, _POSTGRES_CHOICES)
    for name, text in parse_qsl(parts.query):
        if name == "port" and not all(_is_port(port) for port in text.split(",")):
            raise ValueError("its port is not a number from 1 to 65535")
    return url


def servers_of(url: str) -> list[tuple[str, int]]:
    """Return host and port of each server that a database's valid URL names before its database."""
    servers = [server for server in _servers(urlsplit(url).netloc).split(",") if server and not _is_socket(server)]
    parts = [urlsplit(f"//{server}") for server in servers]
    return [(each.hostname or "", each.port or _POSTGRES_PORT) for each in parts]


def _split(url: str, form: str) -> SplitResult:
    try:
        parts = urlsplit(url)
    except ValueError:
        raise ValueError(form) from None
    if _BLANK.search(url) or _BAD_ESCAPE.search(url):
        raise ValueError(f"{form}: a space or another character in it must be written as %20, and % itself as %25")
    return parts


def _servers(netloc: str) -> str:
    return netloc.rpartition("@")[2]


def _is_server(netloc: str) -> bool:
    try:
        parts = urlsplit(f"//{_servers(netloc)}")
        port = parts.port
    except ValueError:
        return False
    host = parts.hostname or ""
    return port != 0 and is_host(host) and ("[" in parts.netloc) == (":" in host)


def _is_socket(server: str) -> bool:
    return unquote(server).startswith("/")


def _is_port(text: str) -> bool:
    return text.isascii() and text.isdecimal() and 0 < int(text) < 2**16


def _check_parameters(query: str, files: Sequence[str], choices: Mapping[str, Sequence[str]]) -> None:
    try:
        parameters = parse_qsl(query, strict_parsing=bool(query), keep_blank_values=True)
    except ValueError:
        raise ValueError("its parameters are not like ?name=value&name=value") from None
    for name, text in parameters:
        if name in choices and text not in choices[name]:
            raise ValueError(f"its {name} is none of {', '.join(choices[name])}")
        if name == "cacertfile":
            raise ValueError("its cacertfile is called cafile here")
        if name in files and not Path(text).exists():
            raise ValueError(f"its {name} names a file that is not there")
