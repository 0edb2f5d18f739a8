"""Static files: style, scripts, icon. Edge."""

from __future__ import annotations

from typing import Final

from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.routing import Route

from services.ops.console.console import Console, Visit, page_route
from services.ops.console.rendering import assets

#: The digest is part of the address, so a file at an address never changes.
_FOR_EVER: Final = "public, max-age=31536000, immutable"


def routes(console: Console) -> list[Route]:
    return [page_route(console, "/static/{name}", _show)]


async def _show(visit: Visit) -> Response:
    asset = assets().get(visit.params["name"])
    if asset is None:
        raise HTTPException(404, "there is no such file")
    cache = _FOR_EVER if visit.query.get("v") == asset.digest else "no-cache"
    return Response(asset.content, media_type=asset.content_type, headers={"Cache-Control": cache})
