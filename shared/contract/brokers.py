"""Addresses of one broker: a cluster has one for each node, separated by commas. Pure."""

from __future__ import annotations

import re
from typing import Final

#: A comma separates only before the next address: a password or a vhost may have one, too.
_BETWEEN: Final = re.compile(r",\s*(?=[a-zA-Z][a-zA-Z0-9+.-]*://)")


def split_addresses(text: str) -> list[str]:
    """Return the addresses in *text*, in its order."""
    return _BETWEEN.split(text)


def in_turn(text: str, *, chance: float) -> list[str]:
    """Return the addresses in *text* in their order, from the one that *chance*, from 0 to 1, chooses."""
    addresses = split_addresses(text)
    first = int(chance * len(addresses))
    return addresses[first:] + addresses[:first]
