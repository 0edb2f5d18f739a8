"""What an error of a TLS connection means, in a sentence for operators. Pure."""

from __future__ import annotations

import re
from typing import Final

_UNVERIFIED: Final = re.compile(r"certificate verify failed: (?P<reason>.*?)\.?(?: \(_ssl|\s*$)")
_ALERT: Final = re.compile(r"\balert (?P<reason>[a-z][a-z ]*[a-z])")


def say_tls(server: str, error: BaseException) -> str | None:
    """Return what is wrong with the certificate of *server* or with ours; None if *error* is about something else."""
    said = f"{error} {error.__cause__ or ''}"
    if found := _UNVERIFIED.search(said):
        return f"the certificate of {server} is not accepted: {found['reason']}"
    if found := _ALERT.search(said):
        return f"{server} does not accept our client certificate, or its absence: {found['reason']}"
    return None
