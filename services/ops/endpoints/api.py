"""The operators' routes for webhook endpoints; each change is in the audit. Edge."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Protocol
from uuid import UUID

from fastapi import APIRouter
from pydantic import JsonValue

from services.ops.audit.first import Note, noted_first
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
        edits = "; ".join(f"{name}: {_said(value)}" for name, value in changes.items() if name != "status")
        ask: Callable[[], Awaitable[EndpointEdited]] = partial(self.endpoints.edit, endpoint_id, changes)
        for done, asked in ((body.status, body.status), ("edited", edits)):
            if done and asked:
                note = self._note(asker, done, endpoint_id, body)
                ask = partial(noted_first, note, asked, ask, refusal=EndpointRefused, key=key)
        return await ask()

    @raises(EndpointRefused)
    async def enable_endpoint(
        self, endpoint_id: UUID, body: ChangeEndpoint, asker: Asker, key: Key = None
    ) -> EndpointEnabled:
        """Let the deliveries of an endpoint go on, also after it was disabled for failing."""
        ask = partial(self.endpoints.edit, endpoint_id, {"status": "enabled"})
        note = self._note(asker, "enabled", endpoint_id, body)
        return await noted_first(note, "enabled", ask, refusal=EndpointRefused, key=key)

    @raises(EndpointRefused)
    async def resend_deliveries(
        self, endpoint_id: UUID, body: ResendDeliveries, asker: Asker, key: Key = None
    ) -> DeliveriesResent:
        """
        Deliver failed events since a time again, the oldest 10,000; with `all`, also those that were delivered.

        To send just what a `dry_run` has counted, its `newest` is the next request's `up_to`.
        """
        wanted = body.model_dump(mode="json", exclude={"reason"}, exclude_none=True)
        ask = partial(self.endpoints.resend, endpoint_id, wanted, key)
        if body.dry_run:
            return await ask()
        which = f"{'deliveries' if body.all else 'failed deliveries'} since {body.since.isoformat()}"

        def outcome(sent: DeliveriesResent) -> str:
            rest = "" if sent.next_since is None else f"; not those since {sent.next_since.isoformat()}"
            return f"{sent.deliveries} {which} sent again{rest}"

        note = self._note(asker, "resent", endpoint_id, body)
        return await noted_first(note, which, ask, refusal=EndpointRefused, key=key, outcome=outcome)

    @raises(EndpointRefused)
    async def resend_delivery(
        self, endpoint_id: UUID, delivery_id: UUID, body: ChangeEndpoint, asker: Asker, key: Key = None
    ) -> DeliveryResent:
        """Deliver an event again, with the same `webhook-id`, also if it was delivered before."""
        ask = partial(self.endpoints.resend_one, endpoint_id, delivery_id, key)

        def outcome(sent: DeliveryResent) -> str:
            return f"{sent.event} {sent.event_id} sent again"

        note, asked = self._note(asker, "resent", endpoint_id, body), f"delivery {delivery_id}"
        return await noted_first(note, asked, ask, refusal=EndpointRefused, key=key, outcome=outcome)

    def _note(self, asker: Caller, done: str, endpoint_id: UUID, because: ChangeEndpoint) -> Note:
        action, target = f"webhook_endpoint.{done}", f"webhook endpoint {endpoint_id}"
        return partial(self.audit, asker.name, action, target, because.reason)


def _said(value: JsonValue) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)
