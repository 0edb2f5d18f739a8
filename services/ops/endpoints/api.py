"""The operators' routes for webhook endpoints; each change is in the audit. Edge."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractAsyncContextManager, nullcontext
from dataclasses import dataclass
from typing import Annotated, Final, TypeVar
from uuid import UUID

from fastapi import Query
from pydantic import BaseModel, JsonValue

from services.ops.audit.first import Entry, NoteOutcome, noted_first
from services.ops.audit.views import Audit
from services.ops.endpoints.views import (
    AddEndpoint,
    ChangeEndpoint,
    DeliveriesResent,
    DeliveryOfTest,
    DeliveryResent,
    EditEndpoint,
    EndpointEdited,
    EndpointEnabled,
    EndpointRefused,
    EndpointRemoved,
    ResendDeliveries,
    SecretMade,
)
from shared.contract.answers import said_in
from shared.runtime.client import HttpClient, read, token_refused
from shared.runtime.description import raises
from shared.runtime.http import Asker, Key, Router
from shared.runtime.tokens import Caller

M = TypeVar("M", bound=BaseModel)

_SECONDS: Final = 30.0
_LIMIT_BYTES: Final = 1024 * 1024


def endpoints_router(notifier: HttpClient, audit: Audit) -> Router:
    router, routes = Router("webhook endpoints"), _Routes(notifier, audit)
    one = "/webhook-endpoints/{endpoint_id}"
    router.post("/webhook-endpoints")(routes.add_endpoint)
    router.patch(one)(routes.edit_endpoint)
    router.delete(one)(routes.remove_endpoint)
    router.post(f"{one}/rotate-secret")(routes.rotate_secret)
    router.post(f"{one}/test")(routes.test_endpoint)
    router.post(f"{one}/enable")(routes.enable_endpoint)
    router.post(f"{one}/resend")(routes.resend_deliveries)
    router.post(f"{one}/deliveries/{{delivery_id}}/resend")(routes.resend_delivery)
    return router


@dataclass(frozen=True, slots=True)
class _Routes:
    notifier: HttpClient
    audit: Audit

    @raises(EndpointRefused)
    async def add_endpoint(self, body: AddEndpoint, asker: Asker, key: Key = None) -> SecretMade:
        """Add an endpoint. Its signing secret is in this response only."""
        wanted = body.model_dump(mode="json", exclude={"reason"})
        async with self._noted(asker, "added", body.url, body, asked=_said(wanted["events"]), key=key):
            made = await self._ask(SecretMade, "POST", "", wanted, key=key)
            # Before, it has no id.
            await self.audit(*_entry(asker, "added", made.id, body), f"added: {body.url}", key=key)
            return made

    @raises(EndpointRefused)
    async def remove_endpoint(
        self, endpoint_id: UUID, because: Annotated[ChangeEndpoint, Query()], asker: Asker
    ) -> EndpointRemoved:
        """Remove an endpoint with its deliveries. Those that wait are not made."""
        async with self._noted(asker, "removed", endpoint_id, because, asked="removed", key=None) as note_outcome:
            removed = await self._ask(EndpointRemoved, "DELETE", f"/{endpoint_id}")
            await note_outcome(f"removed: {removed.url}")
            return removed

    @raises(EndpointRefused)
    async def rotate_secret(self, endpoint_id: UUID, body: ChangeEndpoint, asker: Asker, key: Key = None) -> SecretMade:
        """Make a new signing secret, which is in this response only. Only the one before signs as well, for a day."""
        async with self._noted(asker, "secret_rotated", endpoint_id, body, asked="a new secret", key=key):
            return await self._ask(SecretMade, "POST", f"/{endpoint_id}/rotate-secret", key=key)

    @raises(EndpointRefused)
    async def test_endpoint(
        self, endpoint_id: UUID, body: ChangeEndpoint, asker: Asker, key: Key = None
    ) -> DeliveryOfTest:
        """Deliver a test event, which is no fact about a user."""
        async with self._noted(asker, "tested", endpoint_id, body, asked="a test", key=key):
            return await self._ask(DeliveryOfTest, "POST", f"/{endpoint_id}/test", key=key)

    @raises(EndpointRefused)
    async def edit_endpoint(
        self, endpoint_id: UUID, body: EditEndpoint, asker: Asker, key: Key = None
    ) -> EndpointEdited:
        """Change an endpoint, pause it, or let its deliveries go on. What is not given stays as it is."""
        changes = body.model_dump(mode="json", exclude={"reason"}, exclude_none=True)
        edits = "; ".join(f"{name}: {_said(value)}" for name, value in changes.items() if name != "status")
        edited = self._noted(asker, "edited", endpoint_id, body, asked=edits, key=key) if edits else nullcontext()
        status = body.status
        moved = self._noted(asker, status, endpoint_id, body, asked=status, key=key) if status else nullcontext()
        async with edited, moved:
            return await self._ask(EndpointEdited, "PATCH", f"/{endpoint_id}", changes, key=key)

    @raises(EndpointRefused)
    async def enable_endpoint(
        self, endpoint_id: UUID, body: ChangeEndpoint, asker: Asker, key: Key = None
    ) -> EndpointEnabled:
        """Let the deliveries of an endpoint go on, also after it was disabled for failing."""
        async with self._noted(asker, "enabled", endpoint_id, body, asked="enabled", key=key):
            enabled = {"status": "enabled"}
            return await self._ask(EndpointEnabled, "PATCH", f"/{endpoint_id}", enabled, key=key)

    @raises(EndpointRefused)
    async def resend_deliveries(
        self, endpoint_id: UUID, body: ResendDeliveries, asker: Asker, key: Key = None
    ) -> DeliveriesResent:
        """
        Deliver failed events since a time again, the oldest 10,000; with `all`, also those that were delivered.

        To send just what a `dry_run` has counted, its `newest` is the next request's `up_to`.
        """
        wanted = body.model_dump(mode="json", exclude={"reason"}, exclude_none=True)
        path = f"/{endpoint_id}/resend"
        if body.dry_run:
            return await self._ask(DeliveriesResent, "POST", path, wanted, key=key)
        which = f"{'deliveries' if body.all else 'failed deliveries'} since {body.since.isoformat()}"
        async with self._noted(asker, "resent", endpoint_id, body, asked=which, key=key) as note_outcome:
            sent = await self._ask(DeliveriesResent, "POST", path, wanted, key=key)
            rest = "" if sent.next_since is None else f"; not those since {sent.next_since.isoformat()}"
            await note_outcome(f"{sent.deliveries} {which} sent again{rest}")
            return sent

    @raises(EndpointRefused)
    async def resend_delivery(
        self, endpoint_id: UUID, delivery_id: UUID, body: ChangeEndpoint, asker: Asker, key: Key = None
    ) -> DeliveryResent:
        """Deliver an event again, with the same `webhook-id`, also if it was delivered before."""
        asked, path = f"delivery {delivery_id}", f"/{endpoint_id}/deliveries/{delivery_id}/resend"
        async with self._noted(asker, "resent", endpoint_id, body, asked=asked, key=key) as note_outcome:
            sent = await self._ask(DeliveryResent, "POST", path, key=key)
            await note_outcome(f"{sent.event} {sent.event_id} sent again")
            return sent

    async def _ask(
        self,
        kind: type[M],
        method: str,
        path: str,
        body: Mapping[str, JsonValue] | None = None,
        *,
        key: str | None = None,
    ) -> M:
        """
        Return the notifier's answer to a change, which is made once for each *key*; *path* is below the endpoints.

        Raises:
            EndpointRefused: if the notifier refuses it.
            ServiceDown: if it does not answer.

        """
        response = await self.notifier.request(
            method,
            f"/webhook-endpoints{path}",
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

    def _noted(
        self, asker: Caller, done: str, endpoint: UUID | str, because: ChangeEndpoint, *, asked: str, key: str | None
    ) -> AbstractAsyncContextManager[NoteOutcome]:
        entry = _entry(asker, done, endpoint, because)
        return noted_first(self.audit, entry, asked, refusal=EndpointRefused, key=key)


def _entry(asker: Caller, done: str, endpoint: UUID | str, because: ChangeEndpoint) -> Entry:
    return asker.name, f"webhook_endpoint.{done}", f"webhook endpoint {endpoint}", because.reason


def _said(value: JsonValue) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)
