"""A client's way to one of our APIs that holds every answer against the API's description."""

from __future__ import annotations

from contextvars import ContextVar
from typing import Any, Final

import httpx
from fastapi.routing import iter_route_contexts
from starlette.types import Receive, Scope, Send

from shared.contract.answers import KIND_PREFIX, kind_in
from shared.runtime.health import reporter
from shared.runtime.http import Api, create_app

#: By title and operations: to describe an API takes up to half a second, and many tests make one of their own.
_descriptions: Final[dict[tuple[object, ...], dict[str, Any]]] = {}
_scope: ContextVar[Scope] = ContextVar("_scope")


class DescribedTransport(httpx.ASGITransport):
    """
    Passes requests to *api*, mounted as in its service.

    Raises:
        AssertionError: if an operation answers with a status or a kind of problem that its description does not name.

    """

    def __init__(self, api: Api, *, below: str = "/v1") -> None:
        self.api = api
        operations = ((each.path, *sorted(each.methods or ())) for each in iter_route_contexts(api.routes))
        self._key = (api.title, *operations)
        api._whole = _descriptions.get(self._key)
        self._app = create_app(api, reporter({}), below=below)
        super().__init__(self._remember_scope, raise_app_exceptions=False)

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        # The application is run in this task, so the variable is seen here.
        response = await super().handle_async_request(request)
        await response.aread()
        missing = self._undescribed(_scope.get(), response)
        assert missing is None, missing
        return response

    async def _remember_scope(self, scope: Scope, receive: Receive, send: Send) -> None:
        _scope.set(scope)
        await self._app(scope, receive, send)

    def _undescribed(self, scope: Scope, response: httpx.Response) -> str | None:
        # What is answered before an operation was found concerns them all, and a bug none.
        if "route" not in scope or response.status_code == 500:
            return None
        path: str = scope["route"].path_format
        described: Any = _descriptions.setdefault(self._key, self.api.whole())["paths"]
        described = described.get(path, {}).get(scope["method"].lower())
        if described is None:
            return None
        answer = described["responses"].get(str(response.status_code))
        kind = kind_in(response.content)
        says = f"{scope['method']} {path} answers {response.status_code} {kind or ''}"
        if answer is None:
            return f"{says}, a status that its description does not name: add the error to @raises of the operation"
        for content in answer.get("content", {}).values():
            kinds = content["schema"].get("properties", {}).get("type", {}).get("enum", ())
            if kind is not None and KIND_PREFIX + kind not in kinds:
                return f"{says}, a kind of problem that its description does not name: add the error to @raises"
        return None
