"""Forms of the console: what a browser sends, and where it may come from. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Final
from urllib.parse import parse_qsl

_MOST_FIELDS: Final = 12_000
_URL_ENCODED: Final = "application/x-www-form-urlencoded"
#: A path on this site: not ``//other.example`` and no backslash, which browsers take for a slash.
_LOCAL: Final = re.compile(r"/(?![/\\])[^\x00-\x1f\\\x7f]*")


class BadForm(ValueError):
    """The body is not a form as browsers send it."""


class Form(Mapping[str, str]):
    """The fields of a form; of a name that is given several times, the mapping has the last value."""

    def __init__(self, *fields: tuple[str, str]) -> None:
        self._fields = fields
        self._last = dict(fields)

    def __getitem__(self, name: str) -> str:
        return self._last[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._last)

    def __len__(self) -> int:
        return len(self._last)

    def text(self, name: str) -> str:
        """Return a field without surrounding blanks; empty if it is not given."""
        return self._last.get(name, "").strip()

    def all(self, name: str) -> list[str]:
        """Return every value of a field, such as those of checkboxes."""
        return [value for given, value in self._fields if given == name]


def read_form(body: bytes, content_type: str) -> Form:
    """
    Parse *body*.

    Raises:
        BadForm: if it is not URL-encoded UTF-8, or has too many fields.

    """
    if body and content_type.partition(";")[0].strip().lower() != _URL_ENCODED:
        raise BadForm(f"a form is sent as {_URL_ENCODED}")
    try:
        text = body.decode("ascii")
        fields = parse_qsl(text, keep_blank_values=True, errors="strict", max_num_fields=_MOST_FIELDS)
    except ValueError as error:
        raise BadForm("the form cannot be read") from error
    # Browsers send line ends as CR LF.
    return Form(*((name, value.replace("\r\n", "\n")) for name, value in fields))


def is_same_origin(headers: Mapping[str, str]) -> bool:
    """
    Return whether a request with these *headers* was sent by a page of ours, as far as they tell.

    Programs send none of the headers; they are refused for their missing CSRF token.
    """
    site = headers.get("sec-fetch-site")
    if site is not None:
        return site in ("same-origin", "none")
    origin = headers.get("origin")
    return origin is None or origin.partition("://")[2] == headers.get("host")


def local_path(text: str) -> str:
    """Return *text* if it is a path on this site, else that of the first page."""
    return text if _LOCAL.fullmatch(text) else "/"
