"""Client of the notifier: changes webhook endpoints. Edge."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, Self, TypeVar
from uuid import UUID

import httpx
from pydantic import BaseModel, JsonValue

from services.ops.endpoints.views import (
    DeliveriesResent,
    DeliveryOfTest,
    DeliveryResent,
    EndpointEdited,
    EndpointRefused,
    EndpointRemoved,
    SecretMade,
)
from shared.contract.answers import said_in
from shared.runtime.client import HttpClient, read, token_refused
from shared.runtime.tokens import Token

M = TypeVar("M", bound=BaseModel)

_SECONDS: Final = 30.0
_LIMIT_BYTES: Final = 1024 * 1024


class Endpoints:
    """The notifier's endpoints, as an async context manager. Every method raises `ServiceDown` if it is away."""

    def __init__(self, url: str, token: Token, *, transport: httpx.AsyncBaseTransport | None = None) -> None:
        self._http = HttpClient(f"{url}/v1/webhook-endpoints", token=token.secret, transport=transport)

    async def __aenter__(self) -> Self:
        await self._http.__aenter__()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._http.__aexit__()

    async def add(self, wanted: Mapping[str, JsonValue], key: str | None) -> SecretMade:
        """Add an endpoint, once for each *key*."""
        return await self._ask(SecretMade, "POST", "", wanted, key)

    async def remove(self, endpoint: UUID) -> EndpointRemoved:
        return await self._ask(EndpointRemoved, "DELETE", f"/{endpoint}", None)

    async def rotate_secret(self, endpoint: UUID, key: str | None) -> SecretMade:
        """Make a new secret, once for each *key*."""
        return await self._ask(SecretMade, "POST", f"/{endpoint}/rotate-secret", None, key)

    async def send_test(self, endpoint: UUID, key: str | None) -> DeliveryOfTest:
        """Deliver a test, once for each *key*."""
        return await self._ask(DeliveryOfTest, "POST", f"/{endpoint}/test", None, key)

    async def edit(self, endpoint: UUID, changes: Mapping[str, JsonValue], key: str | None) -> EndpointEdited:
        """Change an endpoint, once for each *key*."""
        return await self._ask(EndpointEdited, "PATCH", f"/{endpoint}", changes, key)

    async def resend(self, endpoint: UUID, wanted: Mapping[str, JsonValue], key: str | None) -> DeliveriesResent:
        """Send the *wanted* deliveries of an endpoint again, once for each *key*."""
        return await self._ask(DeliveriesResent, "POST", f"/{endpoint}/resend", wanted, key)

    async def resend_one(self, endpoint: UUID, delivery: UUID, key: str | None) -> DeliveryResent:
        """Send one delivery again, once for each *key*."""
        return await self._ask(DeliveryResent, "POST", f"/{endpoint}/deliveries/{delivery}/resend", None, key)

    async def _ask(
        self, kind: type[M], method: str, path: str, body: Mapping[str, JsonValue] | None, key: str | None = None
    ) -> M:
        """
        Return the answer to a change.

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
