"""Add, show, edit and remove webhook endpoints. Edge."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Final
from uuid import UUID, uuid4

from services.notifier.signing import Seed
from services.notifier.store.session import Session, once
from services.notifier.views import AddEndpoint, EditEndpoint, EndpointView, NoEndpoint
from shared.contract.answers import END
from shared.contract.idempotency import IdempotencyKey
from shared.runtime.postgres import Connection

_VIEW: Final = """
    SELECT number, id, url, events, description, created_at, status, status_at, failing_since, last_success_at,
           salt, master,
           CASE WHEN failing_since IS NULL THEN 0 ELSE failed_attempts END AS failed_attempts,
           CASE WHEN old_until > clock_timestamp() THEN old_until END AS old_secret_until
    FROM notifier.endpoints
"""
_BY_ID: Final = _VIEW + "WHERE id = $1"
_LIST: Final = _VIEW + "WHERE number < $1 ORDER BY number DESC LIMIT $2"
_ADD: Final = """
    INSERT INTO notifier.endpoints (id, url, events, description, salt, master) VALUES ($1, $2, $3, $4, $5, $6)
"""
# A new address, or enabling it again, clears past failures.
_EDIT: Final = """
    UPDATE notifier.endpoints SET
        url           = coalesce($2, url),
        events        = coalesce($3, events),
        description   = coalesce($4, description),
        status_at     = CASE WHEN coalesce($5, status) = status THEN status_at ELSE clock_timestamp() END,
        status        = coalesce($5, status),
        failing_since = CASE WHEN $2 IS NOT NULL OR $5 = 'enabled' THEN NULL ELSE failing_since END,
        not_before    = CASE WHEN $2 IS NOT NULL OR $5 = 'enabled' THEN NULL ELSE not_before END
    WHERE id = $1
"""
REMOVE_DELIVERIES: Final = """
    DELETE FROM notifier.deliveries
    WHERE number = ANY(ARRAY(SELECT number FROM notifier.deliveries WHERE endpoint_id = $1 LIMIT 5000))
    RETURNING true
"""
_REMOVE: Final = "DELETE FROM notifier.endpoints WHERE id = $1"
_ROTATE: Final = """
    UPDATE notifier.endpoints SET old_salt = salt, old_master = master, old_until = $4, salt = $2, master = $3
    WHERE id = $1
"""


class Endpoints(Session):
    """The endpoints."""

    async def add_endpoint(
        self, wanted: AddEndpoint, seed: Seed, key: IdempotencyKey | None
    ) -> tuple[EndpointView, Seed]:
        """Add an endpoint; with a *key* that was used before, return the one that it made."""

        async def work(connection: Connection) -> tuple[EndpointView, Seed]:
            async def make() -> str:
                endpoint_id = uuid4()
                await connection.execute(
                    _ADD, endpoint_id, wanted.url, list(wanted.events), wanted.description, seed.salt, seed.master
                )
                return str(endpoint_id)

            made = UUID(await once(connection, key, make))
            return await _get_with_seed(connection, made)

        return await self._transaction(work)

    async def find_endpoint(self, endpoint_id: UUID) -> EndpointView | None:
        rows = await self._fetch(_BY_ID, endpoint_id)
        return EndpointView(**rows[0]) if rows else None

    async def list_endpoints(self, *, before: int = END, limit: int) -> Sequence[EndpointView]:
        """Return at most *limit* endpoints numbered below *before*, newest first."""
        return [EndpointView(**row) for row in await self._fetch(_LIST, before, limit)]

    async def edit_endpoint(
        self, endpoint_id: UUID, wanted: EditEndpoint, key: IdempotencyKey | None = None
    ) -> EndpointView:
        """Change what *wanted* gives; nothing with a *key* that was used before."""

        async def work(connection: Connection) -> EndpointView:
            async def make() -> str:
                changes = (wanted.url, wanted.events and list(wanted.events), wanted.description, wanted.status)
                await connection.execute(_EDIT, endpoint_id, *changes)
                return ""

            await once(connection, key, make)
            return await get_endpoint(connection, endpoint_id)

        return await self._change(work)

    async def remove_endpoint(self, endpoint_id: UUID) -> EndpointView:
        """Remove an endpoint with its deliveries; return it as it was."""
        # There may be more than one statement deletes within its time.
        while await self._fetch(REMOVE_DELIVERIES, endpoint_id):
            pass

        async def work(connection: Connection) -> EndpointView:
            removed = await get_endpoint(connection, endpoint_id)
            await connection.execute(_REMOVE, endpoint_id)
            return removed

        return await self._transaction(work)

    async def rotate_secret(
        self, endpoint_id: UUID, seed: Seed, *, old_until: datetime, key: IdempotencyKey | None
    ) -> tuple[EndpointView, Seed]:
        """Make *seed* that of the secret; the one before signs as well, until *old_until*."""

        async def work(connection: Connection) -> tuple[EndpointView, Seed]:
            async def make() -> str:
                await connection.execute(_ROTATE, endpoint_id, seed.salt, seed.master, old_until)
                return str(endpoint_id)

            await once(connection, key, make)
            return await _get_with_seed(connection, endpoint_id)

        return await self._transaction(work)


async def get_endpoint(connection: Connection, endpoint_id: UUID) -> EndpointView:
    """
    Return an endpoint.

    Raises:
        NoEndpoint: if it does not exist.

    """
    return (await _get_with_seed(connection, endpoint_id))[0]


async def _get_with_seed(connection: Connection, endpoint_id: UUID) -> tuple[EndpointView, Seed]:
    row = await connection.fetchrow(_BY_ID, endpoint_id)
    if row is None:
        raise NoEndpoint(f"there is no webhook endpoint {endpoint_id}")
    return EndpointView(**row), Seed(row["salt"], row["master"])
