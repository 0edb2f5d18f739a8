"""Health routes of every process: liveness, readiness and metrics."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from importlib.metadata import version
from typing import Any

from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from shared.runtime.aside import SetAside

#: Returns what is wrong, or None.
Check = Callable[[], Awaitable[str | None]]


def health_routes(
    checks: Mapping[str, Check], aside: Sequence[SetAside[Any]] = (), *, optional: Mapping[str, Check] | None = None
) -> list[Route]:
    """
    Return ``/livez`` (uses no dependency), ``/readyz`` (runs every check) and ``/metrics`` (Prometheus text).

    ``/readyz`` also shows the items that loops have set *aside* and the findings of *optional* checks. They do not make
    the process unready: its other work continues.
    """
    # Read once at start: later it could be the version that was installed meanwhile, not the running one.
    running = version("modelswap")

    async def livez(_: Request) -> Response:
        return JSONResponse({"status": "ok"})

    async def readyz(_: Request) -> Response:
        found = {name: await check() for name, check in checks.items()}
        ready = not any(found.values())
        found |= {name: await check() for name, check in (optional or {}).items()}
        body: dict[str, Any] = {
            "status": "ok" if ready else "unavailable",
            "version": running,
            "checks": {name: problem or "ok" for name, problem in found.items()},
        }
        if held := {each.loop: said for each in aside if (said := each.check())}:
            body["set_aside"] = held
        return JSONResponse(body, status_code=200 if ready else 503)

    async def metrics(_: Request) -> Response:
        return Response(generate_latest(), media_type=CONTENT_TYPE_LATEST)

    return [
        Route("/livez", livez),
        Route("/healthz", livez),
        Route("/readyz", readyz),
        Route("/metrics", metrics),
    ]
