"""What the API shows of replays. Edge."""

from __future__ import annotations

from typing import Final
from uuid import UUID

from services.ops.replays.messages import StoredLetter
from services.ops.replays.plan import Outcome
from services.ops.replays.store.session import GET_REPLAY, SELECT_REPLAY, ReplaySession, to_stored_letter
from services.ops.replays.views import ReplayedLetterView, ReplayView
from services.ops.session import END

_LIST: Final = SELECT_REPLAY.format("r.number < $1 ORDER BY r.number DESC LIMIT $2")
_LIST_LETTERS: Final = """
    SELECT letter, position, training_id, user_id, outcome, detail, stage, generation, model, previous, predicted,
           predicted_detail, edited_body IS NOT NULL AS edited, sent_at, ended_at, undo, undo_detail
    FROM ops.replay_letters
    WHERE replay_id = $1 AND position > $2::bigint AND ($4::text IS NULL OR outcome = $4)
    ORDER BY position
    LIMIT $3
"""
_FIND_LETTER: Final = """
    SELECT number, queue, headers, content_type, body, event_type, training_id, error_code, first_failed_at
    FROM ops.letters WHERE number = $1
"""


class Queries(ReplaySession):
    """Reads only."""

    async def find(self, replay_id: UUID) -> ReplayView | None:
        rows = await self._fetch(GET_REPLAY, replay_id)
        return ReplayView.model_validate_json(rows[0][0]) if rows else None

    async def list_replays(self, *, before: int | None, limit: int) -> list[ReplayView]:
        """Return at most *limit* replays numbered below *before*, newest first."""
        rows = await self._fetch(_LIST, END if before is None else before, limit)
        return [ReplayView.model_validate_json(row[0]) for row in rows]

    async def list_letters(
        self, replay_id: UUID, *, outcome: Outcome | None, after: int | None, limit: int
    ) -> list[ReplayedLetterView]:
        """Return at most *limit* dead letters of a replay behind position *after*, in the order of sending."""
        rows = await self._fetch(_LIST_LETTERS, replay_id, after or 0, limit, outcome)
        return [ReplayedLetterView(**row) for row in rows]

    async def find_letter(self, number: int) -> StoredLetter | None:
        rows = await self._fetch(_FIND_LETTER, number)
        return to_stored_letter(rows[0]) if rows else None
