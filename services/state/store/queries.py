"""Queries for the API. They never write. Edge."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from datetime import datetime
from typing import Final
from uuid import UUID

from services.state.estimate import DurationStats, Run, progress
from services.state.store.session import Session
from services.state.transitions import Stage
from services.state.views import (
    ModelView,
    OutputRow,
    OutputView,
    SwapView,
    TrainingRow,
    WithdrawalView,
)
from shared.contract.answers import END
from shared.contract.values import ProgressSource
from shared.runtime.postgres import Connection, Record, acquired
from shared.runtime.postgres_errors import Conflict

# Time is Postgres's, so that the clocks of several processes make no estimate fall.
# What belongs to a training is read by subqueries, never joined: a plan made while those tables were small may read all
# of them.
_TRAINING: Final = """
    SELECT t.number, t.ref, t.training_id, t.user_id, t.generation, t.stage, t.destination::text, t.trainer,
           t.trigger_word, t.step, t.total_steps, t.model::text AS reference, t.failure_code, t.failure_reason,
           t.requested_at, t.started_at, t.completed_at, t.updated_at,
           coalesce((SELECT m.ref = t.ref FROM state.user_models m WHERE m.user_id = t.user_id), false) AS current,
           -- Few trainings have a model, so the history is read for few.
           CASE WHEN t.model IS NOT NULL THEN
               (SELECT max(h.generation) FROM state.model_history h
                WHERE h.user_id = t.user_id AND h.ref = t.ref AND h.model IS NOT NULL)
           END AS activated_generation,
           t.progress AS log_percent, t.progress_source AS log_source, t.progress_at AS log_at, t.expected_seconds,
           t.estimated_until, statement_timestamp() AS read_at,
           (SELECT ARRAY[d.low_seconds, d.median_seconds, d.high_seconds]
            FROM state.trainer_durations d WHERE d.trainer = split_part(t.trainer, ':', 1)) AS stats
    FROM state.trainings t
"""
_FIND_BY_ID: Final = _TRAINING + "WHERE t.training_id = $1"
_FIND_BY_REF: Final = _TRAINING + "WHERE t.ref = $1"
_FIND_TRAININGS: Final = _TRAINING + "WHERE t.ref = ANY($1::uuid[])"
_FIND_TRAININGS_BY_ID: Final = _TRAINING + "WHERE t.training_id = ANY($1::text[])"
_NEWEST_FIRST: Final = " ORDER BY t.number DESC LIMIT $2"
#: By whether a user and a stage are given. Each statement has an index of its own.
LIST_TRAININGS: Final = {
    (False, False): _TRAINING + "WHERE t.number < $1" + _NEWEST_FIRST,
    # Not "of this stage": few trainings may be in it, and all could be read to find them, by number.
    (False, True): _TRAINING
    + "WHERE (t.stage, t.number) < ($3, $1) AND t.stage >= $3 ORDER BY t.stage DESC, t.number DESC LIMIT $2",
    (True, False): _TRAINING + "WHERE t.number < $1 AND t.user_id = $3" + _NEWEST_FIRST,
    (True, True): _TRAINING + "WHERE t.number < $1 AND t.user_id = $3 AND t.stage = $4" + _NEWEST_FIRST,
}

_OUTPUT: Final = """
    SELECT number, ref, training_id, user_id, stage, destination::text, trainer, trainer_version,
           model::text AS reference, output
    FROM state.trainings
"""
_FIND_OUTPUT: Final = _OUTPUT + "WHERE ref = $1"
# The oldest number is found by the time of the request, so that pages are read by number.
_OLDEST: Final = "(SELECT number FROM state.trainings WHERE requested_at >= $1 ORDER BY requested_at LIMIT 1)"
_HAS_OUTPUT: Final = "output IS NOT NULL AND training_id IS NOT NULL"
#: By whether a stage is given. Each statement has an index of its own.
LIST_OUTPUTS: Final = {
    False: f"{_OUTPUT} WHERE number >= {_OLDEST} AND number < $2 AND {_HAS_OUTPUT} ORDER BY number DESC LIMIT $3",
    # As in `LIST_TRAININGS`.
    True: f"""{_OUTPUT}
    WHERE (stage, number) >= ($4, {_OLDEST}) AND (stage, number) < ($4, $2) AND {_HAS_OUTPUT}
    ORDER BY stage DESC, number DESC
    LIMIT $3
    """,
}
#: The parts of the model of a row m.
MODEL: Final = """
           m.model::text AS reference, split_part(m.model, '/', 1) AS owner,
           split_part(split_part(m.model, ':', 1), '/', 2) AS name, split_part(m.model, ':', 2) AS version
"""
_MODEL: Final = MODEL + ", m.user_id, m.generation, t.training_id, m.ref, m.trigger_word"
_FIND_MODEL: Final = f"""
    SELECT {_MODEL}, m.activated_at FROM state.user_models m JOIN state.trainings t USING (ref) WHERE m.user_id = $1
"""  # noqa: S608 (constants)
_GET_SWAPPED_MODEL: Final = f"""
    SELECT {_MODEL}, m.at AS activated_at FROM state.model_history m JOIN state.trainings t USING (ref)
    WHERE m.user_id = $1 AND m.generation = $2
"""  # noqa: S608 (constants)
_HISTORY: Final = """
    SELECT h.generation, h.model::text AS reference, h.previous_model::text AS previous_reference, t.training_id, h.ref,
           h.trigger_word, h.cause, h.actor, h.reason, h.at
    FROM state.model_history h JOIN state.trainings t USING (ref)
"""
_GET_LINE: Final = _HISTORY + "WHERE h.user_id = $1 AND h.generation = $2"
_LIST_HISTORY: Final = _HISTORY + "WHERE h.user_id = $1 AND h.generation < $2 ORDER BY h.generation DESC LIMIT $3"


class Queries(Session):
    """Answers the API's questions. Pages end *before* a number and hold at most *limit* rows, newest first."""

    async def find_training(self, name: str | UUID) -> TrainingRow | None:
        """Return a training by Replicate's id (text) or by our ref."""
        async with acquired(self._pool) as connection:
            return await find_training(connection, name)

    async def find_trainings(self, refs: Sequence[UUID]) -> list[TrainingRow]:
        """Return the registered trainings among *refs*."""
        return [_to_training(row) for row in await self._fetch(_FIND_TRAININGS, refs)]

    async def find_trainings_by_id(self, training_ids: Sequence[str]) -> list[TrainingRow]:
        """Return the registered trainings with these ids of Replicate's."""
        return [_to_training(row) for row in await self._fetch(_FIND_TRAININGS_BY_ID, training_ids)]

    async def list_trainings(
        self, *, user_id: str | None, stage: Stage | None, before: int = END, limit: int
    ) -> list[TrainingRow]:
        """Return a page of trainings by the number of their registration."""
        statement = LIST_TRAININGS[user_id is not None, stage is not None]
        wanted = [value for value in (user_id, stage) if value is not None]
        return [_to_training(row) for row in await self._fetch(statement, before, limit, *wanted)]

    async def find_output(self, ref: UUID) -> OutputView | None:
        """Return the output of a training; None if it has none."""
        rows = await self._fetch(_FIND_OUTPUT, ref)
        return _to_output(rows[0]) if rows and rows[0]["output"] is not None else None

    async def list_outputs(
        self, *, since: datetime, stage: Stage | None = None, before: int = END, limit: int
    ) -> list[OutputRow]:
        """Return a page of the outputs of trainings requested *since* then."""
        wanted = () if stage is None else (stage,)
        rows = await self._fetch(LIST_OUTPUTS[stage is not None], since, before, limit, *wanted)
        return [_to_output(row) for row in rows]

    async def find_model(self, user_id: str) -> ModelView | None:
        """Return a user's current model."""
        rows = await self._fetch(_FIND_MODEL, user_id)
        return ModelView.model_validate(dict(rows[0])) if rows else None

    async def list_history(self, user_id: str, *, before: int = END, limit: int) -> list[SwapView]:
        """Return a page of the changes of a user's model, by generation."""
        rows = await self._fetch(_LIST_HISTORY, user_id, before, limit)
        return [SwapView.model_validate(dict(row)) for row in rows]


async def find_training(connection: Connection, name: str | UUID) -> TrainingRow | None:
    """Return a training by Replicate's id (text) or by our ref."""
    row = await connection.fetchrow(_FIND_BY_REF if isinstance(name, UUID) else _FIND_BY_ID, name)
    return _to_training(row) if row else None


async def get_training(connection: Connection, ref: UUID) -> TrainingRow:
    """Return a registered training."""
    found = await find_training(connection, ref)
    if found is None:
        raise Conflict(f"training {ref} is gone")
    return found


async def get_swapped_model(connection: Connection, user_id: str, generation: int) -> ModelView:
    """Return the model that became current with *generation*."""
    return ModelView.model_validate(await _get(connection, _GET_SWAPPED_MODEL, user_id, generation))


async def get_withdrawal(connection: Connection, user_id: str, generation: int) -> WithdrawalView:
    """Return the withdrawal of *generation*."""
    return WithdrawalView.model_validate(await _get(connection, _GET_LINE, user_id, generation))


async def _get(connection: Connection, statement: str, user_id: str, generation: int) -> dict[str, object]:
    row = await connection.fetchrow(statement, user_id, generation)
    if row is None:
        raise Conflict(f"generation {generation} of user {user_id} is gone")
    return dict(row)


def _to_training(row: Record) -> TrainingRow:
    run = Run(
        stage=Stage(row["stage"]),
        requested_at=row["requested_at"],
        started_at=row["started_at"],
        log_percent=row["log_percent"],
        log_source=ProgressSource(row["log_source"]) if row["log_source"] else None,
        log_at=row["log_at"],
        estimated_until=row["estimated_until"],
        stats_at_start=DurationStats(*row["expected_seconds"]) if row["expected_seconds"] else None,
        stats=DurationStats(*row["stats"]) if row["stats"] else None,
    )
    code = row["failure_code"]
    failure = None if code is None else {"code": code, "reason": row["failure_reason"]}
    return TrainingRow.model_validate({**row, **asdict(progress(run, now=row["read_at"])), "failure": failure})


def _to_output(row: Record) -> OutputRow:
    return OutputRow.model_validate({**row, "output": json.loads(row["output"])})
