"""A tester's hands on the operators' service: its store, its API, and dead letters to order."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx

from services.ops.api import create_api
from services.ops.audit.api import audit_router
from services.ops.audit.store import AuditStore
from services.ops.letters.api import create_router
from services.ops.letters.archive import Archive
from services.ops.letters.store import Store
from services.ops.migrate import ROLE
from shared.contract.envelope import wrap
from shared.contract.errors import PermanentError
from shared.contract.events import TrainingSucceeded
from shared.contract.topology import EXTRACTOR_QUEUE, Topology
from shared.runtime.broker import Delivery, Outgoing, dead_letter, to_message
from shared.runtime.http import Router
from shared.runtime.tokens import read_token
from tests.databases import opened_pool
from tests.described import DescribedTransport

NOON = datetime(2026, 11, 24, 12, tzinfo=UTC)
OPERATOR = "token-of-olga"
READER = "token-of-rita"


class Letters(Store, AuditStore):
    """The dead letters, and the audit of what was done to them."""


@contextlib.asynccontextmanager
async def opened_letters(database_url: str, **options: Any) -> AsyncIterator[Letters]:
    """A store as the service has it: in the role that may do little."""
    async with opened_pool(database_url, role=ROLE) as pool:
        yield Letters(pool, **options)


def routers_of(letters: Letters) -> tuple[Router, Router]:
    """The routes for them."""
    return create_router(letters), audit_router(letters)


@contextlib.asynccontextmanager
async def operators_api(store: Letters, token: str = OPERATOR) -> AsyncIterator[httpx.AsyncClient]:
    """The operators' API, asked with *token*."""
    api = create_api(
        *routers_of(store), tokens=[read_token(f"operator/olga:{OPERATOR}"), read_token(f"reader/rita:{READER}")]
    )
    async with httpx.AsyncClient(
        transport=DescribedTransport(api),
        base_url="http://ops/v1",
        headers={"Authorization": f"Bearer {token}"},
    ) as client:
        yield client


def dead(
    training_id: str,
    plan: Topology,
    *,
    text: str = "no version in the output",
    code: str = "no_version",
    queue: str = EXTRACTOR_QUEUE,
    at: datetime = NOON,
    **headers: Any,
) -> Outgoing:
    """The dead letter of a training that ended well, but whose output was not understood."""
    event = TrainingSucceeded(training_id=training_id, output={})
    published = to_message(wrap(event, source="receiver", now=NOON), plan)
    delivery = Delivery(
        queue=queue,
        tag=1,
        exchange=published.exchange,
        routing_key=published.routing_key,
        headers={**published.headers, **headers},
        content_type=published.content_type,
        body=published.body,
    )
    return dead_letter(delivery, PermanentError(text, code=code), now=at)


async def archived(store: Store, *messages: Outgoing, now: datetime = NOON + timedelta(hours=1)) -> None:
    """As if these had been taken from the dead queue."""
    deliveries = [
        Delivery(
            queue="modelswap.dead",
            tag=tag,
            exchange=message.exchange,
            routing_key=message.routing_key,
            headers=message.headers,
            content_type=message.content_type,
            body=message.body,
        )
        for tag, message in enumerate(messages, start=1)
    ]
    await Archive(store, lambda: now).keep(deliveries)
