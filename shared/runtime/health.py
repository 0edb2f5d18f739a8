"""Is this process alive, and can it do its work? The same three routes on every process."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from importlib.metadata import version
from typing import Any

from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from shared.runtime.aside import SetAside

#: Says what is wrong, or None.
Check = Callable[[], Awaitable[str | None]]


def health_routes(
    checks: Mapping[str, Check], aside: Sequence[SetAside[Any]] = (), *, told: Mapping[str, Check] | None = None
) -> list[Route]:
    """
    ``/livez`` never touches a dependency; ``/readyz`` asks every check; ``/metrics`` is Prometheus text.

    What loops have set *aside*, and what a check of *told* finds, is shown by ``/readyz``, but the process is ready all
    the same: the others go on.
    """
    # Read once: a later look would find the version that was installed meanwhile, not the one that runs.
    running = version("modelswap")

    async def livez(_: Request) -> Response:
        return JSONResponse({"status": "ok"})

    async def readyz(_: Request) -> Response:
        found = {name: await check() for name, check in checks.items()}
        ready = not any(found.values())
        found |= {name: await check() for name, check in (told or {}).items()}
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
