"""The operators' routes for webhook endpoints; each change is in the audit. Edge."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol
from uuid import UUID

from fastapi import APIRouter
from pydantic import JsonValue

from services.ops.audit.views import Audit
from services.ops.endpoints.views import (
    ChangeEndpoint,
    DeliveriesResent,
    DeliveryResent,
    EditEndpoint,
    EndpointEdited,
    EndpointEnabled,
    EndpointRefused,
    ResendDeliveries,
)
from shared.runtime.description import raises
from shared.runtime.http import Asker, Key
from shared.runtime.tokens import Caller


class Endpoints(Protocol):
    """The notifier's endpoints."""

    async def edit(self, endpoint: UUID, changes: Mapping[str, JsonValue]) -> EndpointEdited: ...

    async def resend(self, endpoint: UUID, wanted: Mapping[str, JsonValue], key: str | None) -> DeliveriesResent: ...

    async def resend_one(self, endpoint: UUID, delivery: UUID, key: str | None) -> DeliveryResent: ...


def endpoints_router(endpoints: Endpoints, audit: Audit) -> APIRouter:
    """The routes, to be put below ``/v1``."""
    router = APIRouter()
    routes = _Routes(endpoints, audit)
    one = "/webhook-endpoints/{endpoint_id}"
    for method, path, operation in (
        ("PATCH", one, routes.edit_endpoint),
        ("POST", f"{one}/enable", routes.enable_endpoint),
        ("POST", f"{one}/resend", routes.resend_deliveries),
        ("POST", f"{one}/deliveries/{{delivery_id}}/resend", routes.resend_delivery),
    ):
        router.add_api_route(path, operation, methods=[method], tags=["webhook endpoints"])
    return router


@dataclass(frozen=True, slots=True)
class _Routes:
    endpoints: Endpoints
    audit: Audit

    @raises(EndpointRefused)
    async def edit_endpoint(
        self, endpoint_id: UUID, body: EditEndpoint, asker: Asker, key: Key = None
    ) -> EndpointEdited:
        """Change an endpoint, pause it, or let its deliveries go on. What is not given stays as it is."""
        changes = body.model_dump(mode="json", exclude={"reason"}, exclude_none=True)
        edited = await self.endpoints.edit(endpoint_id, changes)
        status = changes.pop("status", None)
        if changes:
            outcome = "; ".join(f"{name}: {_said(value)}" for name, value in changes.items())
            await self._note(asker, "edited", endpoint_id, body, outcome, key=key)
        if status is not None:
            await self._note(asker, status, endpoint_id, body, edited.url, key=key)
        return edited

    @raises(EndpointRefused)
    async def enable_endpoint(
        self, endpoint_id: UUID, body: ChangeEndpoint, asker: Asker, key: Key = None
    ) -> EndpointEnabled:
        """Let the deliveries of an endpoint go on, also after it was disabled for failing."""
        enabled = await self.endpoints.edit(endpoint_id, {"status": "enabled"})
        await self._note(asker, "enabled", endpoint_id, body, enabled.url, key=key)
        return enabled

    @raises(EndpointRefused)
    async def resend_deliveries(
        self, endpoint_id: UUID, body: ResendDeliveries, asker: Asker, key: Key = None
    ) -> DeliveriesResent:
        """
        Deliver failed events since a time again, the oldest 10,000; with `all`, also those that were delivered.

        To send just what a `dry_run` has counted, its `newest` is the next request's `up_to`.
        """
        wanted = body.model_dump(mode="json", exclude={"reason"}, exclude_none=True)
        sent = await self.endpoints.resend(endpoint_id, wanted, key)
        if body.dry_run:
            return sent
        which = "deliveries" if body.all else "failed deliveries"
        outcome = f"{sent.deliveries} {which} since {body.since.isoformat()} sent again"
        if sent.next_since is not None:
            outcome += f"; not those since {sent.next_since.isoformat()}"
        await self._note(asker, "resent", endpoint_id, body, outcome, key=key)
        return sent

    @raises(EndpointRefused)
    async def resend_delivery(
        self, endpoint_id: UUID, delivery_id: UUID, body: ChangeEndpoint, asker: Asker, key: Key = None
    ) -> DeliveryResent:
        """Deliver an event again, with the same `webhook-id`, also if it was delivered before."""
        sent = await self.endpoints.resend_one(endpoint_id, delivery_id, key)
        await self._note(asker, "resent", endpoint_id, body, f"{sent.event} {sent.event_id} sent again", key=key)
        return sent

    async def _note(
        self, asker: Caller, done: str, endpoint_id: UUID, because: ChangeEndpoint, outcome: str, *, key: str | None
    ) -> None:
        action, target = f"webhook_endpoint.{done}", f"webhook endpoint {endpoint_id}"
        await self.audit(asker.name, action, target, because.reason, outcome, key=key)


def _said(value: JsonValue) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)
