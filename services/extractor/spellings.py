"""
Reads one text of an output: `SPELLINGS` are the ways in which it may name a model and its version. Pure.

Text is matched in lower case. Where in an output such a text stands: `outputs.PLACES`.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Final

from pydantic import JsonValue

from services.extractor.agreement import Answer
from services.extractor.errors import BY_HAND, NoModel, shown
from shared.contract.identity import ModelName

_MODEL: Final = r"(?P<model>[^/:@?#]+/[^/:@?#]+)"
# Replicate's pages show the first eight digits.
_VERSION: Final = r"(?P<version>[0-9a-f]{8,64})"
_WEB: Final = r"(?:https?://)?"
_PORT: Final = r"(?::443|:80)?"
# One more path segment (a page's tab, an API method), query and fragment.
_REST: Final = r"(?:/[a-z-]+)?/?(?:[?#].*)?"

_MODEL_REF: Final = re.compile(rf"{_MODEL}(?::{_VERSION})?")
_BARE_VERSION: Final = re.compile(rf"(?:sha256:)?{_VERSION}")
_PAGE: Final = re.compile(rf"{_WEB}(?:www\.)?replicate\.com{_PORT}/{_MODEL}(?:(?::|/versions/){_VERSION})?{_REST}")
_API: Final = re.compile(rf"{_WEB}api\.replicate\.com{_PORT}/v1/models/{_MODEL}(?:/versions/{_VERSION})?{_REST}")
_IMAGE: Final = re.compile(rf"(?:{_WEB}r8\.im/)?{_MODEL}(?::|@sha256:){_VERSION}")

_HOSTS: Final = re.compile(rf"(?:(?:www\.|api\.)?replicate\.com{_PORT}|r8\.im)")
_ANY_URL: Final = re.compile(r"[a-z][a-z0-9+.-]*://([^/?#]*).*", re.IGNORECASE)
_FILE_URL: Final = re.compile(r"https?://(?:[a-z0-9-]+\.)*replicate\.delivery/.*", re.IGNORECASE)


def model_ref(text: str) -> re.Match[str] | None:
    """``owner/name:version`` or ``owner/name``"""
    return _MODEL_REF.fullmatch(text)


def bare_version(text: str) -> re.Match[str] | None:
    """``version`` or ``sha256:version``"""
    return _BARE_VERSION.fullmatch(text)


def page_url(text: str) -> re.Match[str] | None:
    """``https://replicate.com/owner/name/versions/version`` or ``…/owner/name:version``"""
    return _PAGE.fullmatch(text)


def api_url(text: str) -> re.Match[str] | None:
    """``https://api.replicate.com/v1/models/owner/name/versions/version``"""
    return _API.fullmatch(text)


def image(text: str) -> re.Match[str] | None:
    """``r8.im/owner/name@sha256:version``"""
    return _IMAGE.fullmatch(text)


Spelling = Callable[[str], re.Match[str] | None]
SPELLINGS: Final[tuple[Spelling, ...]] = (model_ref, bare_version, page_url, api_url, image)

_LONGEST_TEXT: Final = 2048
# The lookbehind keeps the search linear: each run of hexadecimal digits is matched once.
_LONG: Final = re.compile(r"(?<![0-9a-f])[0-9a-f]{64,}", re.IGNORECASE)


def read(place: str, value: JsonValue) -> Answer | NoModel:
    """Return what *value* names, or the reason why it names nothing."""
    if not isinstance(value, str):
        return NoModel(f"{place}: {shown(value)} is not text. {BY_HAND}", code="bad_version_format")
    text = value.strip()
    # Checked before case is folded: folding turns some look-alikes into ASCII letters.
    if text.isascii() and text.isprintable() and len(text) <= _LONGEST_TEXT:
        for spelling in SPELLINGS:
            match = spelling(text.lower())
            if match:
                return _answer(match.groupdict(), f"{place}/{spelling.__name__}") or _unreadable(place, text)
    return _unreadable(place, text)


def _answer(groups: dict[str, str | None], shape: str) -> Answer | None:
    name = groups.get("model")
    model = ModelName.parse(name) if name else None
    if name and model is None:
        return None
    return Answer(model, groups.get("version"), shape)


def _unreadable(place: str, text: str) -> NoModel:
    url = _ANY_URL.fullmatch(text)
    if url and not _HOSTS.fullmatch(url[1].lower()):
        return NoModel(f"{place}: {shown(text)} is not a URL of Replicate. {BY_HAND}", code="unsupported_host")
    return NoModel(f"{place}: {shown(text)} names no version. {BY_HAND}", code="bad_version_format")


def versions_in(value: JsonValue) -> set[str]:
    return {version.lower() for version in _LONG.findall(value)} if isinstance(value, str) else set()


def is_file(value: JsonValue) -> bool:
    return isinstance(value, str) and _FILE_URL.fullmatch(value.strip()[:_LONGEST_TEXT]) is not None
