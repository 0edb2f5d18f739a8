"""The screen Now: is all well, what runs, what is slow, what failed. Edge."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from services.ops.console.console import Console


def routes(console: Console) -> list[Route]:
    """Return the route of the first page."""

    async def show_now(request: Request) -> Response:
        return await console.render(request, "now.html")

    return [Route("/", show_now)]
