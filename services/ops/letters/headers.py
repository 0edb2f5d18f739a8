"""Read header values of any type as what can be stored. Pure; nothing raises."""

from __future__ import annotations

import base64
import math
from collections.abc import Mapping
from datetime import datetime
from typing import Any, Final

from shared.contract.moments import in_utc
from shared.contract.text import clean

Headers = Mapping[str, Any]
NAME_LIMIT: Final = 200
#: Tables in tables in tables: deeper ones are shown as text.
_DEPTH_LIMIT: Final = 16
_ATTEMPTS_MOST: Final = 2**31 - 1


def to_plain(value: object, depth: int = 0) -> Any:
    """Return *value* of a header as a value of JSON."""
    plain: Any = clean(str(value))
    match value:
        # Postgres cannot look into JSON with a NUL.
        case str() if "\x00" in value:
            plain = {"base64": base64.b64encode(value.encode("utf-8", "replace")).decode()}
        case str():
            plain = to_encodable(value)
        case None | bool() | int():
            plain = value
        case float() if math.isfinite(value):
            plain = value
        case bytes() | bytearray():
            plain = {"base64": base64.b64encode(value).decode()}
        case datetime():
            plain = value.isoformat()
        case list() | tuple() if depth < _DEPTH_LIMIT:
            plain = [to_plain(each, depth + 1) for each in value]
        case Mapping() if depth < _DEPTH_LIMIT:
            plain = {to_encodable(str(name)): to_plain(each, depth + 1) for name, each in value.items()}
    return plain


def to_encodable(text: str) -> str:
    """Return *text* without NUL and lone surrogates, which Postgres cannot store."""
    return text.replace("\x00", "\N{REPLACEMENT CHARACTER}").encode("utf-8", "replace").decode()


def to_name(value: object) -> str | None:
    return clean(value, NAME_LIMIT) or None if isinstance(value, str) else None


def to_count(value: object) -> int:
    return value if isinstance(value, int) and 0 < value <= _ATTEMPTS_MOST else 1


def to_time(value: object) -> datetime | None:
    if isinstance(value, str):
        try:
            value = datetime.fromisoformat(value)
        except ValueError:
            return None
    return in_utc(value) if isinstance(value, datetime) else None
