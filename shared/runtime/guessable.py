"""Finds secrets of our own that are too uniform to be random, to warn of them. Pure."""

from __future__ import annotations

from typing import Final

from shared.runtime.settings import Settings, reveal, setting

#: A random secret has more different characters than this: 16 hexadecimal digits have 10 on average.
_VARIED_CHARACTERS: Final = 7


def guessable(settings: Settings) -> list[str]:
    """Return the names of settings with a secret of our own that has too few different characters to be random."""
    own = ("api_tokens", "ops_tokens", "ref_secrets")
    return [
        setting(field)
        for field in own
        if any(len(set(secret)) < _VARIED_CHARACTERS for secret in reveal(getattr(settings, field, ())))
    ]
