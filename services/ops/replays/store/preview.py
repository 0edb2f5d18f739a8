"""Dry runs: the dead letters without a prediction, and the predictions. Edge."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Final
from uuid import UUID

from services.ops.replays.letter_outcome import LetterOutcome
from services.ops.replays.messages import StoredLetter
from services.ops.replays.plan import Outcome, Status
from services.ops.replays.store.send import BATCH_BYTES, NEXT_LETTERS
from services.ops.replays.store.session import ReplaySession, find_status, to_stored_letter
from shared.contract.text import clean
from shared.runtime.postgres import Connection

# A dry run that was started keeps its predictions. By position, so that those before are not read again each time.
NEXT_UNPREDICTED: Final = NEXT_LETTERS.format(
    """ AND r.predicted IS NULL AND r.letter <> ALL($6::bigint[])
              AND r.position > coalesce((SELECT position FROM ops.replay_letters
                                         WHERE replay_id = $1 AND letter = $5::bigint), 0)"""
)
_PREDICT: Final = """
    UPDATE ops.replay_letters r SET
        predicted = p.outcome, predicted_detail = p.detail, user_id = coalesce(p.user_id, r.user_id), stage = p.stage,
        generation = p.generation, model = p.model, previous = p.previous
    FROM json_to_recordset($2::json) AS p (
        letter bigint, outcome text, detail text, user_id text, stage text, generation bigint, model text,
        previous text)
    WHERE r.replay_id = $1 AND r.letter = p.letter AND r.outcome = 'planned'
"""
_END: Final = "UPDATE ops.replays SET status = 'previewed', trouble = '' WHERE id = $1"


class Previews(ReplaySession):
    """What the engine needs for dry runs."""

    async def to_preview(
        self, replay_id: UUID, *, limit: int, after: int = 0, without: Sequence[int]
    ) -> list[StoredLetter]:
        """Return the next dead letters of a dry run behind the dead letter *after*, except those in *without*."""
        rows = await self._fetch(NEXT_UNPREDICTED, replay_id, limit, Outcome.PLANNED, BATCH_BYTES, after, without)
        return [to_stored_letter(row) for row in rows]

    async def remember_predictions(self, replay_id: UUID, predictions: Mapping[int, LetterOutcome]) -> None:
        """Store predictions, by the dead letters' numbers."""
        rows = [
            {**asdict(each), "letter": letter, "detail": clean(each.detail)} for letter, each in predictions.items()
        ]
        await self._execute(_PREDICT, replay_id, json.dumps(rows))

    async def end_preview(self, replay_id: UUID) -> None:
        """Set a dry run to previewed: every dead letter has its prediction."""

        async def work(connection: Connection) -> None:
            if await find_status(connection, replay_id) is Status.PREVIEWING:
                await connection.execute(_END, replay_id)

        await self._transaction(work)
