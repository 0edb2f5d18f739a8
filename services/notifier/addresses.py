"""Which addresses of webhook endpoints may be called: only those on the public internet. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import Final, TypeAlias
from urllib.parse import urlsplit

from shared.contract.errors import PermanentError

Network: TypeAlias = IPv4Network | IPv6Network

_HTTPS_PORT: Final = 443
#: Of the ports below it, only HTTPS's own: the others belong to other services, such as SMTP.
_FIRST_OTHER_PORT: Final = 1024
#: Addresses that `ipaddress` may call global, but which lead elsewhere: into an IPv4 network behind a translator or a
#: tunnel, or to a cloud's own metadata.
_NOT_PUBLIC: Final = tuple(
    ip_network(network)
    for network in (
        "192.0.0.0/24",  # protocol assignments; one cloud has its metadata there
        "192.88.99.0/24",  # 6to4 relays
        "168.63.129.16/32",  # another cloud's platform address
        "::/96",  # IPv4-compatible
        "::ffff:0:0/96",  # IPv4-mapped
        "::ffff:0:0:0/96",  # IPv4-translated
        "64:ff9b::/96",  # NAT64
        "64:ff9b:1::/48",  # local NAT64
        "2001::/23",  # Teredo and other protocol assignments
        "2002::/16",  # 6to4
        "fec0::/10",  # site-local
    )
)


class UnusableUrl(PermanentError):
    """The URL of an endpoint cannot be used."""

    code = "unusable_url"


class NotPublic(PermanentError):
    """The endpoint's address is not on the public internet."""

    code = "address_not_public"


def check_url(url: str, allowed: Sequence[Network]) -> None:
    """
    Check an endpoint's *url*, before its name is looked up.

    Raises:
        UnusableUrl: if it cannot be used. Plain HTTP is refused unless there are *allowed* networks, which are for
            tests; and so is an address that is neither public nor in one of these.

    """
    if not (url.isascii() and url.isprintable()) or " " in url or "\\" in url:
        raise UnusableUrl("must consist of ASCII characters without spaces: encode others, and the name as punycode")
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise UnusableUrl(f"is no URL: {error}") from error
    if not uses_tls(url) and not (allowed and parts.scheme == "http"):
        raise UnusableUrl("must begin with https://")
    if not parts.hostname:
        raise UnusableUrl("names no host")
    if "@" in parts.netloc:
        raise UnusableUrl("must not contain a user or a password: requests are signed instead")
    if "#" in url:
        raise UnusableUrl("must not contain a fragment")
    if not allowed and port not in (None, _HTTPS_PORT) and (port or 0) < _FIRST_OTHER_PORT:
        raise UnusableUrl(f"must have port {_HTTPS_PORT}, or one from {_FIRST_OTHER_PORT} on")
    try:
        literal = ip_address(parts.hostname)
    except ValueError:
        return  # a name, which is looked up at each attempt
    if not is_allowed(literal, allowed, is_tls=uses_tls(url)):
        raise UnusableUrl("is not on the public internet")


def uses_tls(url: str) -> bool:
    """Return whether a valid *url* is called over TLS; a scheme may be in capitals."""
    return urlsplit(url).scheme == "https"


def is_allowed(address: IPv4Address | IPv6Address, allowed: Sequence[Network], *, is_tls: bool) -> bool:
    """Return whether *address* may be called: it is in an *allowed* network, or is public and TLS protects it."""
    return any(address in network for network in allowed) or (is_tls and is_public(address))


def is_public(address: IPv4Address | IPv6Address) -> bool:
    """Return whether *address* is one host on the public internet."""
    if isinstance(address, IPv6Address) and address.scope_id is not None:
        return False
    is_one_host = not (address.is_multicast or address.is_reserved or address.is_unspecified)
    return address.is_global and is_one_host and not any(address in network for network in _NOT_PUBLIC)
