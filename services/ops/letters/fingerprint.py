"""Digests and fingerprints: which dead letters are the same, and which have one cause. Pure."""

from __future__ import annotations

import hashlib
import re
from typing import Final

#: Parts of an error's text that differ between failures of one cause. In order: the longest first.
_VARIABLE: Final = tuple(
    (re.compile(pattern), put)
    for pattern, put in (
        (r"[a-z][a-z0-9+.-]*://[^\s'\"<>]+", "<url>"),
        (r"'[^']*'|\"[^\"]*\"|`[^`]*`", "<value>"),
        (r"\b[0-9a-fA-F]{8}-(?:[0-9a-fA-F]{4}-){3}[0-9a-fA-F]{12}\b", "<id>"),
        (r"\b[a-z0-9][\w.-]*/[\w.-]+(?::[\w-]+)?", "<model>"),
        (r"\b\d{4}-\d\d-\d\d[T ]\d\d:\d\d\S*", "<time>"),
        # A word of letters and digits mixed is an id. HTTP2 and utf8 are too short.
        (r"\b(?=\w*\d)(?=\w*[a-zA-Z])\w{8,}\b", "<id>"),
        # Status codes stay.
        (r"(?<!answered )(?<!status )(?<!said )(?<!HTTP )(?<!code )[-+]?(?<!\d)\d+(?:[.,:]\d+)*", "<n>"),
        (r"\s+", " "),
    )
)


_FINGERPRINT_TEXT: Final = 1000


def fingerprint(queue: str, code: str, kind: str, text: str) -> str:
    """Return a text that is equal for failures that most likely have one cause."""
    return digest_of(*(part.encode() for part in (queue, code, kind, normalised(text))))[:16]


def normalised(text: str) -> str:
    """Return *text* without ids, numbers and quoted parts."""
    text = text[:_FINGERPRINT_TEXT]
    for pattern, put in _VARIABLE:
        text = pattern.sub(put, text)
    return text.strip()


def digest_of(*parts: bytes) -> str:
    found = hashlib.sha256()
    for part in parts:
        # With its length, so that nothing can move from one part to the next.
        found.update(len(part).to_bytes(8))
        found.update(part)
    return found.hexdigest()
