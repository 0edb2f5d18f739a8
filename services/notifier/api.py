"""The API of webhook endpoints. Edge."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from http import HTTPStatus
from operator import attrgetter
from typing import Annotated, Final
from uuid import UUID, uuid4

from pydantic import BaseModel, StringConstraints

from services.notifier.addresses import Network, UnusableUrl, check_url
from services.notifier.message import make_test
from services.notifier.signing import Seed, Signer
from services.notifier.store import Store
from services.notifier.views import (
    AddEndpoint,
    DeliveryStatus,
    DeliveryView,
    EditEndpoint,
    EndpointView,
    EventDeliveryView,
    NoDelivery,
    NoEndpoint,
    Resend,
    Resent,
    SecretView,
)
from shared.contract.answers import END, Mistake, Page
from shared.contract.checked import PRINTABLE
from shared.contract.errors import ModelswapError
from shared.contract.idempotency import IdempotencyKey, KeyReused
from shared.runtime.clock import now
from shared.runtime.description import kind_of, raises
from shared.runtime.http import Api, Cursor, Invalid, Key, Limit, from_cursor, new_api, page_of
from shared.runtime.tokens import Token

#: Status by class of error. Any other error is a bug.
_STATUS: Final[Mapping[type[ModelswapError], HTTPStatus]] = {
    KeyReused: HTTPStatus.UNPROCESSABLE_ENTITY,
    UnusableUrl: HTTPStatus.UNPROCESSABLE_ENTITY,
    NoEndpoint: HTTPStatus.NOT_FOUND,
    NoDelivery: HTTPStatus.NOT_FOUND,
}
#: A `webhook-id`.
EventId = Annotated[str, StringConstraints(min_length=1, max_length=200), PRINTABLE]
_TAG: Final = "webhook endpoints"
_DESCRIPTION: Final = """
Each request needs a bearer token: one of `MODELSWAP_API_TOKENS`. A reader's token can change nothing.

Webhooks are signed as Standard Webhooks says; their body is a CloudEvent in structured mode. With an `Idempotency-Key`,
a write can be repeated if its answer was lost: it is done once, and answered again.
"""
#: How long the secret before a rotation signs as well.
_OLD_SECRET: Final = timedelta(days=1)
_SALT_BYTES: Final = 32


def create_api(store: Store, signer: Signer, *, allowed: Sequence[Network], tokens: Sequence[Token]) -> Api:
    """The API, to be mounted at ``/v1``; *allowed* as in `addresses.check_url`."""
    api = new_api(
        title="modelswap webhooks",
        summary="Get public events over HTTP.",
        description=_DESCRIPTION,
        tags={_TAG: "Where events are delivered, which events, and the outcome of each delivery."},
        tokens=tokens,
        statuses=_STATUS,
    )
    routes = _Routes(store, signer, allowed)
    path = "/webhook-endpoints"
    one = path + "/{endpoint_id}"

    def add(method: str, at: str, operation: Callable[..., object], model: type[BaseModel], status: int = 200) -> None:
        api.add_api_route(at, operation, methods=[method], tags=[_TAG], response_model=model, status_code=status)

    add("POST", path, routes.add_endpoint, SecretView, 201)
    add("GET", path, routes.list_endpoints, Page[EndpointView])
    add("GET", one, routes.get_endpoint, EndpointView)
    add("PATCH", one, routes.edit_endpoint, EndpointView)
    add("DELETE", one, routes.remove_endpoint, EndpointView)
    add("POST", f"{one}/rotate-secret", routes.rotate_secret, SecretView)
    add("POST", f"{one}/test", routes.test_endpoint, DeliveryView, 202)
    add("GET", f"{one}/deliveries", routes.list_deliveries, Page[DeliveryView])
    add("POST", f"{one}/deliveries/{{delivery_id}}/resend", routes.resend_delivery, DeliveryView, 202)
    add("GET", "/deliveries", routes.list_event_deliveries, Page[EventDeliveryView])
    add("POST", f"{one}/resend", routes.resend_deliveries, Resent, 202)
    return api


@dataclass(frozen=True, slots=True)
class _Routes:
    store: Store
    signer: Signer
    allowed: Sequence[Network]

    @raises(UnusableUrl, KeyReused)
    async def add_endpoint(self, body: AddEndpoint, key: Key = None) -> SecretView:
        """Add an endpoint. Its signing secret is in this response only."""
        self._check(body.url)
        idempotency = IdempotencyKey.of(key, {"add": body.model_dump(mode="json")})
        view, seed = await self.store.add_endpoint(body, self._new_seed(), idempotency)
        return SecretView.of(view, self.signer.secret_of(seed))

    async def list_endpoints(self, limit: Limit = 50, cursor: Cursor = None) -> Page[EndpointView]:
        """Endpoints, newest first."""
        found = await self.store.list_endpoints(before=from_cursor(cursor, END), limit=limit + 1)
        return page_of(found, limit, attrgetter("number"))

    @raises(NoEndpoint)
    async def get_endpoint(self, endpoint_id: UUID) -> EndpointView:
        """One endpoint."""
        found = await self.store.find_endpoint(endpoint_id)
        if found is None:
            raise NoEndpoint(f"there is no webhook endpoint {endpoint_id}")
        return found

    @raises(NoEndpoint, UnusableUrl, KeyReused)
    async def edit_endpoint(self, endpoint_id: UUID, body: EditEndpoint, key: Key = None) -> EndpointView:
        """Change an endpoint: what is not given stays as it is."""
        if body.url is not None:
            self._check(body.url)
        idempotency = IdempotencyKey.of(key, {"edit": str(endpoint_id), **body.model_dump(mode="json")})
        return await self.store.edit_endpoint(endpoint_id, body, idempotency)

    @raises(NoEndpoint)
    async def remove_endpoint(self, endpoint_id: UUID) -> EndpointView:
        """Remove an endpoint with its deliveries, and return it once more. Deliveries that wait are not made."""
        return await self.store.remove_endpoint(endpoint_id)

    @raises(NoEndpoint, KeyReused)
    async def rotate_secret(self, endpoint_id: UUID, key: Key = None) -> SecretView:
        """Make a new signing secret, which is in this response only. Only the one before signs as well, for a day."""
        idempotency = IdempotencyKey.of(key, {"rotate": str(endpoint_id)})
        view, seed = await self.store.rotate_secret(
            endpoint_id, self._new_seed(), old_until=now() + _OLD_SECRET, key=idempotency
        )
        return SecretView.of(view, self.signer.secret_of(seed))

    @raises(NoEndpoint, KeyReused)
    async def test_endpoint(self, endpoint_id: UUID, key: Key = None) -> DeliveryView:
        """Deliver an event of type `dev.modelswap.webhook.test.v1`; the deliveries show what comes of it."""
        event = make_test(uuid4(), endpoint_id, now())
        return await self.store.add_test(endpoint_id, event, IdempotencyKey.of(key, {"test": str(endpoint_id)}))

    @raises(NoEndpoint)
    async def list_deliveries(
        self, endpoint_id: UUID, status: DeliveryStatus | None = None, limit: Limit = 50, cursor: Cursor = None
    ) -> Page[DeliveryView]:
        """Deliveries of an endpoint, newest first; they are kept for 30 days."""
        before = from_cursor(cursor, END)
        found = await self.store.list_deliveries(endpoint_id, status=status, before=before, limit=limit + 1)
        return page_of(found, limit, attrgetter("number"))

    async def list_event_deliveries(
        self, event_id: EventId, limit: Limit = 50, cursor: Cursor = None
    ) -> Page[EventDeliveryView]:
        """Deliveries of an event to all endpoints, newest first; they are kept for 30 days."""
        found = await self.store.list_event_deliveries(event_id, before=from_cursor(cursor, END), limit=limit + 1)
        return page_of(found, limit, attrgetter("number"))

    @raises(NoEndpoint, NoDelivery, KeyReused)
    async def resend_delivery(self, endpoint_id: UUID, delivery_id: UUID, key: Key = None) -> DeliveryView:
        """Deliver an event again, with the same `webhook-id`, also if it was delivered before."""
        idempotency = IdempotencyKey.of(key, {"resend": str(endpoint_id), "delivery": str(delivery_id)})
        return await self.store.resend(endpoint_id, delivery_id, idempotency)

    @raises(NoEndpoint, KeyReused)
    async def resend_deliveries(self, endpoint_id: UUID, body: Resend, key: Key = None) -> Resent:
        """
        Deliver failed events since a time again, the oldest 10,000; with `all`, also those that were delivered.

        To send just what a `dry_run` has counted, its `newest` is the next request's `up_to`.
        """
        if body.dry_run:
            return await self.store.count_since(endpoint_id, body.since, with_delivered=body.all, up_to=body.up_to)
        # As a version without `up_to` remembers it.
        asked = body.model_dump(mode="json", exclude_none=True)
        idempotency = IdempotencyKey.of(key, {"resend": str(endpoint_id), **asked})
        return await self.store.resend_since(
            endpoint_id, body.since, with_delivered=body.all, up_to=body.up_to, key=idempotency
        )

    def _check(self, url: str) -> None:
        try:
            check_url(url, self.allowed)
        except UnusableUrl as error:
            raise Invalid(Mistake(pointer="#/url", detail=str(error)), kind=kind_of(error.code)) from error

    def _new_seed(self) -> Seed:
        return self.signer.new_seed(os.urandom(_SALT_BYTES))
