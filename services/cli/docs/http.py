"""The OpenAPI documents of the HTTP APIs, from the applications that run; nothing is connected."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Any, Final, cast

from services.notifier.api import create_api as notifier_api
from services.ops.api import create_api as ops_api
from services.ops.audit.api import audit_router
from services.ops.endpoints.api import endpoints_router
from services.ops.letters.api import create_router as letter_routes
from services.ops.processes.api import processes_router
from services.ops.reconcile.api import reconciliation_router
from services.ops.replays.api import create_router as replay_routes
from services.ops.replays.streams import ReplayStreams
from services.ops.replays.waiting import Waiting
from services.ops.sign_in.api import sign_in_router
from services.ops.subscriptions.api import subscription_router
from services.state.api import WebhookAddress
from services.state.api import create_api as state_api
from services.state.streams import Watcher
from shared.runtime.http import Api

Document = dict[str, Any]

# Stores and clients, which a description never uses.
_NOTHING: Final = cast("Any", None)


def _state() -> Api:
    watcher = Watcher(_NOTHING, asyncio.Event(), limit=1)
    return state_api(
        _NOTHING, _NOTHING, watcher, webhook=WebhookAddress("https://h.example.com", ("s",)), api_tokens=()
    )


def _ops() -> Api:
    waiting = Waiting(_NOTHING)
    streams = ReplayStreams(_NOTHING, waiting, asyncio.Event(), limit=1)
    return ops_api(
        letter_routes(_NOTHING),
        audit_router(_NOTHING),
        replay_routes(_NOTHING, waiting, _NOTHING, streams),
        reconciliation_router(_NOTHING, _NOTHING, calls_per_minute=1),
        subscription_router(_NOTHING, _NOTHING),
        endpoints_router(_NOTHING, _NOTHING),
        processes_router(_NOTHING),
        sign_in_router(_NOTHING),
        tokens=(),
    )


#: How to create each documented API, by the name of its process. All are mounted at ``/v1``.
APIS: Final[Mapping[str, Callable[[], Api]]] = {
    "state": _state,
    "ops": _ops,
    "notifier": lambda: notifier_api(_NOTHING, _NOTHING, allowed=(), tokens=()),
}


def openapi(process: str) -> Document:
    return {**APIS[process]().openapi(), "servers": [{"url": "/v1"}]}
