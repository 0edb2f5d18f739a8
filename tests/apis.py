"""The APIs of all services without what is behind them, for tests of what they say of themselves."""

from __future__ import annotations

import asyncio
from typing import Any, Final, cast

from services.extractor.api import create_api as extractor_api
from services.ops.api import create_api as ops_api
from services.ops.letters.api import create_router as letter_routes
from services.ops.reconcile.api import reconciliation_router
from services.ops.replays.api import create_router as replay_routes
from services.ops.replays.waiting import Waiting
from services.state.api import WebhookAddress
from services.state.api import create_api as state_api
from services.state.streams import Watcher
from shared.runtime.aside import SetAside
from shared.runtime.http import Api

_NOTHING: Final = cast("Any", None)


def all_apis() -> dict[str, Api]:
    """One of each, by the name of its service."""
    watcher = Watcher(_NOTHING, asyncio.Event(), limit=1, aside=SetAside("test"))
    routers = (
        letter_routes(_NOTHING),
        replay_routes(_NOTHING, Waiting({})),
        reconciliation_router(_NOTHING, _NOTHING, calls_per_minute=1),
    )
    return {
        "state": state_api(
            _NOTHING, _NOTHING, watcher, webhook=WebhookAddress("https://h.example.com", ("s",)), api_tokens=()
        ),
        "ops": ops_api(*routers, tokens=()),
        "extractor": extractor_api(_NOTHING, api_tokens=()),
    }
