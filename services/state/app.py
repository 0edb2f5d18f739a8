"""The state service as one application. Edge: the product's API below ``/v1``, the health routes beside it."""

from __future__ import annotations

from collections.abc import Mapping

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.routing import Mount
from starlette.types import ASGIApp

from services.state.api import answer
from shared.runtime.health import Check, health_routes


def create_app(api: ASGIApp, checks: Mapping[str, Check]) -> Starlette:
    """Serve *api*, and say whether this process is well, by *checks*."""
    return Starlette(
        routes=[*health_routes(checks), Mount("/v1", app=api)],
        exception_handlers={HTTPException: answer},
    )
