"""Health routes of every process: liveness, readiness and metrics. Edge."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from importlib.metadata import version
from typing import Any, Final

from prometheus_client import REGISTRY
from prometheus_client.exposition import choose_encoder
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from shared.contract.health import OK, Health
from shared.runtime.aside import SetAside

_OPENMETRICS: Final = "application/openmetrics-text"

#: Returns what is wrong, or None.
Check = Callable[[], Awaitable[str | None]]
#: Returns how the process is.
Report = Callable[[], Awaitable[Health]]


def reporter(
    checks: Mapping[str, Check],
    aside: Sequence[SetAside[Any]] = (),
    *,
    optional: Mapping[str, Check] | None = None,
    consumers: Mapping[str, Check] | None = None,
) -> Report:
    """
    Return the function that runs every check.

    Items that loops have set *aside*, findings of *optional* checks, and paused *consumers* (by queue) are reported.
    They do not make the process unready: its other work continues.
    """
    # Read once at start: later it could be the version that was installed meanwhile, not the running one.
    running = version("modelswap")

    async def report() -> Health:
        found = {name: await check() for name, check in checks.items()}
        ready = not any(found.values())
        found |= {name: await check() for name, check in (optional or {}).items()}
        return Health(
            status=OK if ready else "unavailable",
            version=running,
            checks={name: problem or OK for name, problem in found.items()},
            set_aside={each.loop: said for each in aside if (said := each.check())},
            consumers={queue: await check() or OK for queue, check in (consumers or {}).items()},
        )

    return report


def health_routes(report: Report) -> list[Route]:
    """Return ``/livez`` (uses no dependency), ``/readyz`` and ``/metrics``."""

    async def livez(_: Request) -> Response:
        return JSONResponse({"status": OK})

    async def readyz(_: Request) -> Response:
        health = await report()
        body = health.model_dump()
        for name in ("set_aside", "consumers"):
            if not body[name]:
                del body[name]
        return JSONResponse(body, status_code=200 if health.is_ready else 503)

    async def metrics(request: Request) -> Response:
        # Only OpenMetrics has exemplars. The library raises on some headers, so it is never given one of a client.
        accepts = _OPENMETRICS in request.headers.get("accept", "")
        encode, media_type = choose_encoder(_OPENMETRICS if accepts else "")
        return Response(encode(REGISTRY), media_type=media_type)

    return [
        Route("/livez", livez),
        Route("/healthz", livez),
        Route("/readyz", readyz),
        Route("/metrics", metrics),
    ]
