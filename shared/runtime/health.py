"""Is this process alive, and can it do its work? The same three routes on every process."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from importlib.metadata import version

from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

#: Says what is wrong, or None.
Check = Callable[[], Awaitable[str | None]]


def health_routes(checks: Mapping[str, Check]) -> list[Route]:
    """``/livez`` never touches a dependency; ``/readyz`` asks every check; ``/metrics`` is Prometheus text."""

    async def livez(_: Request) -> Response:
        return JSONResponse({"status": "ok"})

    async def readyz(_: Request) -> Response:
        found = {name: await check() for name, check in checks.items()}
        ready = not any(found.values())
        body = {
            "status": "ok" if ready else "unavailable",
            "version": version("modelswap"),
            "checks": {name: problem or "ok" for name, problem in found.items()},
        }
        return JSONResponse(body, status_code=200 if ready else 503)

    async def metrics(_: Request) -> Response:
        return Response(generate_latest(), media_type=CONTENT_TYPE_LATEST)

    return [
        Route("/livez", livez),
        Route("/healthz", livez),
        Route("/readyz", readyz),
        Route("/metrics", metrics),
    ]
