"""
Pages of all users' models, and of those that changed since a time. Edge.

A user who ever had a model has one row here: the current model, or the withdrawal that took it away. Pages go by user,
or by the time of the change, from the last row of the page before: so they stay right while swaps happen.
"""

from __future__ import annotations

from datetime import datetime
from typing import Final

from services.state.snapshot import Position
from services.state.store.queries import MODEL
from services.state.store.session import Session
from services.state.views import ModelView, UserModelView, WithdrawnView
from shared.runtime.postgres import Record, acquired

_NOW: Final = "SELECT clock_timestamp()"

# Each half is read by an index of its own, in its order. A training is read by a subquery, as in `queries`.
_PAGE: Final = """
    SELECT m.user_id, m.generation, m.updated_at, m.ref, m.trigger_word, {model},
           (SELECT t.training_id FROM state.trainings t WHERE t.ref = m.ref) AS training_id
    FROM (
        (
            SELECT user_id, generation, activated_at AS updated_at, ref, trigger_word, model
            FROM state.user_models WHERE {models} LIMIT {limit}
        )
        UNION ALL
        (
            SELECT user_id, generation, at, ref, trigger_word, model
            FROM state.model_history w
            WHERE cause = 'withdrawal'
              AND NOT EXISTS (SELECT FROM state.model_history h
                              WHERE h.user_id = w.user_id AND h.generation > w.generation)
              AND {withdrawals} LIMIT {limit}
        )
    ) m
    ORDER BY {order} LIMIT {limit}
"""
LIST_ALL: Final = _PAGE.format(
    model=MODEL,
    models="user_id > $1 ORDER BY user_id",
    withdrawals="user_id > $1 ORDER BY user_id, generation",
    order="m.user_id",
    limit="$2",
)
LIST_CHANGED: Final = _PAGE.format(
    model=MODEL,
    models="(activated_at, user_id) > ($1, $2) AND activated_at < $3 ORDER BY activated_at, user_id",
    withdrawals="(at, user_id) > ($1, $2) AND at < $3 ORDER BY at, user_id",
    order="m.updated_at, m.user_id",
    limit="$4",
)


class Snapshots(Session):
    """Reads snapshots of all users' models."""

    async def begin_snapshot(self) -> datetime:
        """Return the time, by Postgres's clock."""
        async with acquired(self._pool) as connection:
            now: datetime = await connection.fetchval(_NOW)
            return now

    async def list_models(self, *, after: str, limit: int) -> list[UserModelView | WithdrawnView]:
        """Return a page of all users who ever had a model, by their ids, *after* a user."""
        return [_to_view(row) for row in await self._fetch(LIST_ALL, after, limit)]

    async def list_changed_models(self, *, after: Position, limit: int) -> list[UserModelView | WithdrawnView]:
        """Return a page of the users whose model changed *after* a position, and before that snapshot began."""
        rows = await self._fetch(LIST_CHANGED, after.updated_at, after.user_id, after.began_at, limit)
        return [_to_view(row) for row in rows]


def _to_view(row: Record) -> UserModelView | WithdrawnView:
    values = dict(row)
    if values["reference"] is None:
        return WithdrawnView.model_validate({**values, "withdrawn": True})
    model = ModelView.model_validate({**values, "activated_at": values["updated_at"]})
    return UserModelView.model_validate({**values, "model": model})
