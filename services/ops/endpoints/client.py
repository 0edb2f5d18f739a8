"""Client of the notifier: changes webhook endpoints. Edge."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, Self, TypeVar

import httpx
from pydantic import BaseModel, JsonValue

from services.ops.endpoints.views import EndpointRefused
from shared.contract.answers import said_in
from shared.runtime.client import HttpClient, read, token_refused
from shared.runtime.tokens import Token

M = TypeVar("M", bound=BaseModel)

_SECONDS: Final = 30.0
_LIMIT_BYTES: Final = 1024 * 1024


class Endpoints:
    """The notifier's endpoints, as an async context manager. It raises `ServiceDown` if it is away."""

    def __init__(self, url: str, token: Token, *, transport: httpx.AsyncBaseTransport | None = None) -> None:
        self._http = HttpClient(f"{url}/v1/webhook-endpoints", token=token.secret, transport=transport)

    async def __aenter__(self) -> Self:
        await self._http.__aenter__()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._http.__aexit__()

    async def ask(
        self,
        kind: type[M],
        method: str,
        path: str,
        body: Mapping[str, JsonValue] | None = None,
        *,
        key: str | None = None,
    ) -> M:
        """
        Return the answer to a change, which is made once for each *key*; *path* is the one below the endpoints.

        Raises:
            EndpointRefused: if the notifier refuses it.

        """
        response = await self._http.request(
            method,
            path,
            body=body,
            headers={"Idempotency-Key": key},
            seconds=_SECONDS,
            deadline_seconds=_SECONDS,
            limit_bytes=_LIMIT_BYTES,
        )
        if refused := token_refused(response):
            raise refused
        if response.is_client_error:
            raise EndpointRefused(f"the notifier refuses it: {said_in(response.content)}")
        return read(kind, response)
