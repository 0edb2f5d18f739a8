"""What the API shows of the users of a replay: their models before and after it, and what an undo would do. Edge."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Final
from uuid import UUID

from services.ops.replays.plan import Outcome, SetModel, model_before
from services.ops.replays.records import Revert
from services.ops.replays.store.session import ReplaySession
from services.ops.replays.views import ReplayedUserView
from shared.runtime.postgres import Record

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


class Users(ReplaySession):
    """Reads only."""

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
