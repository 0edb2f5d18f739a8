"""What the API shows of replays, of their dead letters and of the users of these. Edge."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from datetime import datetime
from typing import Final
from uuid import UUID

from services.ops.replays.messages import StoredLetter
from services.ops.replays.plan import Outcome, SetModel, Status, model_before
from services.ops.replays.records import Ended, Revert
from services.ops.replays.store.session import GET_REPLAY, ReplaySession, select_replays, to_stored_letter
from services.ops.replays.views import ReplayedLetterView, ReplayedUserView, ReplayOfLetterView, ReplayView
from shared.contract.answers import END
from shared.runtime.postgres import Record

LIST_REPLAYS: Final = select_replays("r.number < $1 ORDER BY r.number DESC LIMIT $2")
_LETTER: Final = """
    letter, position, training_id, user_id, outcome, detail, stage, generation, model, previous, predicted,
    predicted_detail, edited_body IS NOT NULL AS edited, sent_at, ended_at, undo, undo_detail
"""
_LIST_LETTERS: Final = f"""
    SELECT {_LETTER} FROM ops.replay_letters
    WHERE replay_id = $1 AND position > $2::bigint AND ($4::text IS NULL OR outcome = $4)
      AND ($5::text IS NULL OR predicted = $5)
    ORDER BY position
    LIMIT $3
"""  # noqa: S608 (our own columns)
_LIST_ENDED: Final = """
    SELECT letter, ended_at FROM ops.replay_letters
    WHERE replay_id = $1 AND ended_at >= $2
    ORDER BY ended_at DESC
    LIMIT $3
"""
_LIST_LAST_ENDED: Final = f"""
    SELECT {_LETTER} FROM ops.replay_letters
    WHERE replay_id = $1 AND ended_at IS NOT NULL
    ORDER BY ended_at DESC
    LIMIT $2
"""  # noqa: S608 (our own columns)
_LIST_REPLAYS_OF: Final = """
    SELECT r.number, r.id AS replay_id, r.status, r.actor, r.reason, r.created_at, l.outcome, l.detail, l.predicted,
           l.predicted_detail, l.sent_at, l.ended_at, convert_from(l.edited_body, 'UTF8') AS edited_body
    FROM ops.replay_letters l JOIN ops.replays r ON r.id = l.replay_id
    WHERE l.letter = $1 AND r.number < $2
    ORDER BY r.number DESC
    LIMIT $3
"""
_COUNT_OPEN: Final = "SELECT status, count(*) FROM ops.replays WHERE ended_at IS NULL GROUP BY status"
_COUNT_RUNNING_LETTERS: Final = """
    SELECT outcome, count(*) FROM ops.replay_letters
    WHERE replay_id = ANY(ARRAY(SELECT id FROM ops.replays WHERE status = 'running'))
    GROUP BY outcome
"""
_FIND_LETTER: Final = """
    SELECT number, queue, headers, content_type, body, event_type, training_id, error_code, first_failed_at
    FROM ops.letters WHERE number = $1
"""
#: The outcome, or, of a dead letter in a dry run, its prediction.
_OUTCOME: Final = "CASE WHEN outcome = 'planned' THEN coalesce(predicted, outcome) ELSE outcome END"
# A replay is read as a whole for each page: at most 100,000 rows.
_LIST_USERS: Final = f"""
    SELECT user_id, min(position) AS position
    FROM ops.replay_letters
    WHERE replay_id = $1 AND user_id IS NOT NULL AND outcome <> 'skipped'
    GROUP BY user_id
    HAVING min(position) > $2::bigint AND ($4::text IS NULL OR bool_or({_OUTCOME} = $4))
    ORDER BY min(position)
    LIMIT $3
"""  # noqa: S608 (our own columns)
# Of dead letters that change nothing, the model that the user keeps.
_COUNT_OUTCOMES: Final = f"""
    SELECT user_id, {_OUTCOME} AS outcome, count(*) AS letters, max(model) AS model
    FROM ops.replay_letters
    WHERE replay_id = $1 AND user_id = ANY($2::text[]) AND outcome <> 'skipped'
    GROUP BY 1, 2
"""  # noqa: S608 (as above)
_LIST_MODELS: Final = f"""
    SELECT user_id, generation, model, previous, outcome = 'planned' AS is_predicted
    FROM ops.replay_letters
    WHERE replay_id = $1 AND user_id = ANY($2::text[]) AND {_OUTCOME} = 'swapped'
    ORDER BY user_id, generation DESC
"""  # noqa: S608 (as above)
_LIST_TO_UNDO: Final = """
    SELECT user_id, generation, model, previous, min(position) OVER (PARTITION BY user_id) AS position
    FROM ops.replay_letters
    WHERE replay_id = $1 AND outcome = 'swapped' AND undo IS NULL AND user_id = ANY(ARRAY(
        SELECT user_id FROM ops.replay_letters
        WHERE replay_id = $1 AND outcome = 'swapped' AND undo IS NULL
        GROUP BY user_id
        HAVING min(position) > $2::bigint
        ORDER BY min(position)
        LIMIT $3
    ))
    ORDER BY position, generation DESC
"""


class Queries(ReplaySession):
    """Reads only."""

    async def find(self, replay_id: UUID) -> ReplayView | None:
        rows = await self._fetch(GET_REPLAY, replay_id)
        return ReplayView.model_validate_json(rows[0][0]) if rows else None

    async def list_replays(self, *, before: int = END, limit: int) -> list[ReplayView]:
        """Return at most *limit* replays numbered below *before*, newest first."""
        rows = await self._fetch(LIST_REPLAYS, before, limit)
        return [ReplayView.model_validate_json(row[0]) for row in rows]

    async def count_open(self) -> dict[Status, int]:
        """Count the replays that have not ended, by status."""
        return {Status(row["status"]): row["count"] for row in await self._fetch(_COUNT_OPEN)}

    async def count_running_letters(self) -> dict[Outcome, int]:
        """Count the dead letters of running replays, by outcome. The engine counts them each second."""
        return {Outcome(row["outcome"]): row["count"] for row in await self._fetch(_COUNT_RUNNING_LETTERS)}

    async def list_letters(
        self,
        replay_id: UUID,
        *,
        outcome: Outcome | None,
        predicted: Outcome | None = None,
        after: int = 0,
        limit: int,
    ) -> list[ReplayedLetterView]:
        """Return at most *limit* dead letters of a replay behind position *after*, in the order of sending."""
        rows = await self._fetch(_LIST_LETTERS, replay_id, after, limit, outcome, predicted)
        return [ReplayedLetterView(**row) for row in rows]

    async def list_ended(self, replay_id: UUID, *, since: datetime, limit: int) -> list[Ended]:
        """Return the last *limit* dead letters of a replay that have their outcome since then."""
        return [Ended(*row) for row in await self._fetch(_LIST_ENDED, replay_id, since, limit)]

    async def list_last_ended(self, replay_id: UUID, *, limit: int) -> list[ReplayedLetterView]:
        """Return the last *limit* dead letters of a replay that have their outcome, whole, the latest last."""
        rows = await self._fetch(_LIST_LAST_ENDED, replay_id, limit)
        return [ReplayedLetterView(**row) for row in reversed(rows)]

    async def list_replays_of(self, letter: int, *, before: int, limit: int) -> list[ReplayOfLetterView]:
        """Return at most *limit* replays numbered below *before* that had this dead letter, newest first."""
        rows = await self._fetch(_LIST_REPLAYS_OF, letter, before, limit)
        return [ReplayOfLetterView(**row) for row in rows]

    async def find_letter(self, number: int) -> StoredLetter | None:
        rows = await self._fetch(_FIND_LETTER, number)
        return to_stored_letter(rows[0]) if rows else None

    async def list_users(
        self, replay_id: UUID, *, outcome: Outcome | None, after: int, limit: int
    ) -> list[ReplayedUserView]:
        """Return at most *limit* users whose first dead letter is behind position *after*, in the order of sending."""
        users = await self._fetch(_LIST_USERS, replay_id, after, limit, outcome)
        ids = [row["user_id"] for row in users]
        outcomes, models = defaultdict(list), defaultdict(list)
        for row in await self._fetch(_COUNT_OUTCOMES, replay_id, ids):
            outcomes[row["user_id"]].append(row)
        for row in await self._fetch(_LIST_MODELS, replay_id, ids):
            models[row["user_id"]].append(row)
        return [
            _user(row["user_id"], row["position"], outcomes[row["user_id"]], models[row["user_id"]]) for row in users
        ]

    async def list_to_undo(self, replay_id: UUID, *, after: int, limit: int) -> list[tuple[int, Revert]]:
        """Return what an undo would take back of at most *limit* users, with their positions as in `list_users`."""
        by_user: dict[tuple[int, str], list[SetModel]] = defaultdict(list)
        for row in await self._fetch(_LIST_TO_UNDO, replay_id, after, limit):
            models = by_user[row["position"], row["user_id"]]
            models.append(SetModel(row["generation"], row["model"], row["previous"]))
        return [(position, Revert.of(replay_id, user_id, models)) for (position, user_id), models in by_user.items()]


def _user(user_id: str, position: int, outcomes: Sequence[Record], models: Sequence[Record]) -> ReplayedUserView:
    counts = {Outcome(row["outcome"]): row["letters"] for row in outcomes}
    kept = next((row["model"] for row in outcomes if row["model"] is not None), None)
    set_models = [SetModel(row["generation"], row["model"], row["previous"]) for row in models]
    before, after = kept, kept
    if set_models:
        # Each prediction is made against the present state; real swaps follow one another.
        before = set_models[0].previous if models[0]["is_predicted"] else model_before(set_models)
        after = set_models[0].model
    return ReplayedUserView(
        position=position,
        user_id=user_id,
        letters=sum(counts.values()),
        outcomes=counts,
        changes=bool(set_models),
        before=before,
        after=after,
    )
