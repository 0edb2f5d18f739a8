"""The rows of a training's timeline. Never writes. Edge."""

from __future__ import annotations

from typing import Final
from uuid import UUID

from services.state.store.queries import find_training
from services.state.store.session import Session, to_model_ref
from services.state.timeline import AppliedRow, LineRow, Rows, StoredRow, TimelineView, published_ids, timeline
from services.state.views import SwapView
from shared.contract.values import Cause
from shared.runtime.postgres import Record, acquired

#: Most rows of each kind. Few trainings have more than ten.
_LIMIT: Final = 200

_APPLIED: Final = """
    SELECT event_id, event, occurred_at, received_at, stage, detail
    FROM state.inbox
    WHERE ref = $1
    ORDER BY received_at
    LIMIT $2
"""
_LINES: Final = """
    SELECT h.generation, h.model::text AS reference, h.previous_model::text AS previous_reference, h.ref,
           h.trigger_word, h.cause, h.actor, h.reason, h.at, n.at AS next_at, n.cause AS next_cause,
           n.model::text AS next_model
    FROM state.model_history h
    LEFT JOIN LATERAL (
        SELECT * FROM state.model_history WHERE user_id = h.user_id AND generation > h.generation
        ORDER BY generation LIMIT 1
    ) n ON true
    WHERE h.user_id = $1 AND h.ref = $2
    ORDER BY h.generation
    LIMIT $3
"""
_STORED: Final = """
    (SELECT event_id, routing_key AS event, created_at, published_at, set_aside_reason
     FROM state.outbox WHERE event_id = ANY($1::text[]))
    UNION ALL
    (SELECT event_id, routing_key, created_at, published_at, set_aside_reason
     FROM state.outbox WHERE training_id = $2 AND routing_key = 'extraction.requested.v1' LIMIT $3)
"""


class Timelines(Session):
    """Timelines of trainings."""

    async def find_timeline(self, name: str | UUID) -> TimelineView | None:
        """Return the timeline of a training by Replicate's id (text) or by our ref."""
        async with acquired(self._pool) as connection:
            training = await find_training(connection, name)
            if training is None:
                return None
            applied = await connection.fetch(_APPLIED, training.ref, _LIMIT)
            found = await connection.fetch(_LINES, training.user_id, training.ref, _LIMIT)
            lines = [_to_line(row, training.training_id) for row in found]
            stored = await connection.fetch(_STORED, published_ids(training, lines), training.training_id, _LIMIT)
        rows = Rows(
            applied=[AppliedRow(**row) for row in applied], lines=lines, stored=[StoredRow(**row) for row in stored]
        )
        return timeline(training, rows, limit=_LIMIT)


def _to_line(row: Record, training_id: str | None) -> LineRow:
    return LineRow(
        line=SwapView.model_validate({**row, "training_id": training_id}),
        next_at=row["next_at"],
        next_cause=None if row["next_cause"] is None else Cause(row["next_cause"]),
        next_model=None if row["next_model"] is None else to_model_ref(row["next_model"]),
    )
