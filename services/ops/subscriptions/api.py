"""
The operators' routes for subscriptions; each write is in the audit. Edge.

The entry comes first, and says what was asked for: RabbitMQ forgets at once what was there, and a new password is told
only once. So nothing is changed while Postgres is away.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Protocol

from fastapi import Path, Query

from services.ops.audit.views import Audit
from services.ops.requests import Because
from services.ops.subscriptions.views import (
    Name,
    NoManagement,
    NoSubscription,
    PasswordRotated,
    Planned,
    Subscribe,
    SubscriptionAdded,
    SubscriptionView,
)
from shared.contract.answers import Page
from shared.runtime.description import raises
from shared.runtime.http import Asker, Cursor, Limit, Router, from_cursor, to_cursor
from shared.runtime.management import Inequivalent, ManagementRefused
from shared.runtime.tokens import Caller

_Name = Annotated[Name, Path()]


class Subscriptions(Protocol):
    """The subscriptions on the broker."""

    async def list_all(self) -> list[SubscriptionView]: ...

    async def get(self, name: str) -> SubscriptionView: ...

    async def plan(self, name: str, wanted: Subscribe) -> Planned: ...

    async def put(self, name: str, wanted: Subscribe) -> SubscriptionAdded: ...

    async def rotate_password(self, name: str) -> PasswordRotated: ...

    async def remove(self, name: str) -> SubscriptionView: ...


def subscription_router(subscriptions: Subscriptions, audit: Audit) -> Router:
    router, routes = Router("subscriptions"), _Routes(subscriptions, audit)
    router.get("/subscriptions")(routes.list_subscriptions)
    router.get("/subscriptions/{name}")(routes.get_subscription)
    router.put("/subscriptions/{name}")(routes.put_subscription)
    router.delete("/subscriptions/{name}")(routes.remove_subscription)
    router.post("/subscriptions/{name}/rotate-password")(routes.rotate_password)
    return router


@dataclass(frozen=True, slots=True)
class _Routes:
    subscriptions: Subscriptions
    audit: Audit

    @raises(NoManagement, ManagementRefused)
    async def list_subscriptions(self, limit: Limit = 50, cursor: Cursor = None) -> Page[SubscriptionView]:
        """Every subscription by name, and how far its service is behind. The counts are up to five seconds old."""
        begin = from_cursor(cursor, 0)
        found = await self.subscriptions.list_all()
        more = to_cursor(begin + limit) if len(found) > begin + limit else None
        return Page(items=found[begin : begin + limit], next_cursor=more)

    @raises(NoSubscription, NoManagement, ManagementRefused)
    async def get_subscription(self, name: _Name) -> SubscriptionView:
        """One subscription, and how far its service is behind. The counts are up to five seconds old."""
        return await self.subscriptions.get(name)

    @raises(Inequivalent, NoManagement, ManagementRefused)
    async def put_subscription(self, name: _Name, body: Subscribe, asker: Asker) -> SubscriptionAdded:
        """
        Add a subscription, or change its events and its limit. It may be repeated.

        It makes a queue that never holds up anything else, and a RabbitMQ user that can only read: this queue, its
        overflow queue, and the log of all events. A new user's password is in `amqp_url` of this answer alone.
        """
        planned = await self.subscriptions.plan(name, body)
        done = "added" if planned.is_new else "changed"
        await self._note(asker, done, name, body.reason, f"{', '.join(body.events)}; at most {planned.max_length}")
        return await self.subscriptions.put(name, body)

    @raises(NoSubscription, NoManagement, ManagementRefused)
    async def remove_subscription(
        self, name: _Name, because: Annotated[Because, Query()], asker: Asker
    ) -> SubscriptionView:
        """
        Remove a subscription with its user and all events that wait in its queues; returns what there was.

        Its service can catch up later from the models (`GET /v1/models` of state) and the log of all events.
        """
        shown = await self.subscriptions.get(name)
        outcome = f"{shown.waiting} events wait, {shown.overflowed} in the overflow queue"
        await self._note(asker, "removed", name, because.reason, outcome)
        return await self.subscriptions.remove(name)

    @raises(NoSubscription, NoManagement, ManagementRefused)
    async def rotate_password(self, name: _Name, body: Because, asker: Asker) -> PasswordRotated:
        """Give the subscription's user a new password; the old one ends at once, open connections stay open."""
        await self.subscriptions.get(name)
        await self._note(asker, "password_rotated", name, body.reason, "a new password")
        return await self.subscriptions.rotate_password(name)

    async def _note(self, asker: Caller, done: str, name: str, reason: str, asked: str) -> None:
        await self.audit(asker.name, f"subscription.{done}", f"subscription {name}", reason, f"asked: {asked}")
