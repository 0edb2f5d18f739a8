"""The APIs of all services without what is behind them, for tests of what they say of themselves."""

from __future__ import annotations

from typing import Any, Final, cast

from services.cli.docs.http import APIS
from services.extractor.api import create_api as extractor_api
from shared.runtime.http import Api

_NOTHING: Final = cast("Any", None)


def all_apis() -> dict[str, Api]:
    """One of each, by the name of its service."""
    return {**{name: create() for name, create in APIS.items()}, "extractor": extractor_api(_NOTHING, api_tokens=())}
