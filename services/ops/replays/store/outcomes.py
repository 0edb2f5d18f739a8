"""Outcomes of replayed dead letters, from events of state and from new dead letters. Edge."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Final
from uuid import UUID

from services.ops.letters.letter import ReplayMark
from services.ops.replays.outcomes import is_outcome, model_name, outcome_of
from services.ops.replays.store.send import FAIL
from services.ops.replays.store.session import ReplaySession
from shared.contract.events import ModelReverted, ReplaySettled
from shared.contract.text import clean
from shared.runtime.postgres import Connection

_LOCK_AUDIT: Final = "SELECT pg_advisory_xact_lock(hashtextextended('ops.audit', 0))"
# State reports it at least once.
_AUDIT_ONCE: Final = """
    INSERT INTO ops.audit (actor, action, target, reason, outcome)
    SELECT $1, $2, $3, $4, $5
    WHERE NOT EXISTS (SELECT FROM ops.audit WHERE target = $3 AND action = $2 AND outcome = $5)
"""

_ORIGINS: Final = """
    SELECT r.replay_id, r.letter, l.queue, l.event_type
    FROM unnest($1::uuid[], $2::bigint[]) AS m (replay_id, letter)
    JOIN ops.replay_letters r ON r.replay_id = m.replay_id AND r.letter = m.letter
    JOIN ops.letters l ON l.number = r.letter
"""
# State's outcome replaces a failure: of a dead letter that was sent twice, one copy may have failed.
_SETTLE: Final = """
    UPDATE ops.replay_letters r SET
        outcome = s.outcome, detail = s.detail, user_id = s.user_id, stage = s.stage, generation = s.generation,
        model = s.model, previous = s.previous, ended_at = clock_timestamp(),
        sent_at = coalesce(r.sent_at, clock_timestamp()), claimed_until = NULL
    FROM json_to_recordset($1::json) AS s (
        replay_id uuid, letter bigint, outcome text, detail text, user_id text, stage text, generation bigint,
        model text, previous text)
    WHERE r.replay_id = s.replay_id AND r.letter = s.letter AND r.outcome IN ('waiting', 'sent', 'failed', 'canceled')
    RETURNING r.replay_id, r.letter, r.user_id
"""
_RESOLVE: Final = """
    UPDATE ops.letters l SET status = 'resolved', user_id = coalesce(s.user_id, l.user_id)
    FROM unnest($1::uuid[], $2::bigint[], $3::text[]) AS s (replay_id, number, user_id)
    WHERE l.number = s.number AND l.replay_id = s.replay_id AND l.status IN ('replaying', 'open')
"""
_RESOLVE_GONE_ON: Final = """
    UPDATE ops.letters SET status = 'resolved'
    WHERE number = $2 AND status = 'replaying' AND replay_id = $1
    RETURNING training_id
"""
_FOLLOWING: Final = """
    SELECT max(number) FROM ops.letters WHERE number > $1 AND training_id = $2 AND headers ->> 'ce-replay' = $3
"""
_DETAIL: Final = "UPDATE ops.replay_letters SET detail = $3 WHERE replay_id = $1 AND letter = $2"


class Settling(ReplaySession):
    """Record what replayed dead letters came to."""

    async def settle(self, settled: Mapping[ReplayMark, Sequence[ReplaySettled]]) -> None:
        """Record what state says of dead letters, except for mere steps on the way to their outcome."""

        async def work(connection: Connection) -> None:
            replays, letters = [mark.replay_id for mark in settled], [mark.letter for mark in settled]
            ends = []
            for origin in await connection.fetch(_ORIGINS, replays, letters):
                said = settled[ReplayMark(origin["replay_id"], origin["letter"])]
                key = {"replay_id": str(origin["replay_id"]), "letter": origin["letter"]}
                last = [event for event in said if is_outcome(origin["queue"], origin["event_type"], event)][-1:]
                ends += [{**asdict(outcome_of(event)), **key} for event in last]
            # In one order everywhere, so that two transactions cannot block each other.
            ends.sort(key=lambda end: (end["replay_id"], end["letter"]))
            done = await connection.fetch(_SETTLE, json.dumps(ends))
            columns = ([row[name] for row in done] for name in ("replay_id", "letter", "user_id"))
            await connection.execute(_RESOLVE, *columns)

        await self._change(work)

    async def note_rollbacks(self, rollbacks: Sequence[ModelReverted]) -> None:
        """Audit rollbacks of users' models, each once even if its event comes again."""

        async def work(connection: Connection) -> None:
            await connection.execute(_LOCK_AUDIT)
            for each in rollbacks:
                outcome = f"generation {each.generation}: {model_name(each.previous)} → {model_name(each.model)}"
                action = "model.rolled_back" if each.model else "model.withdrawn"
                entry = (each.actor, action, f"user {each.user_id}", each.reason, outcome)
                await connection.execute(_AUDIT_ONCE, *map(clean, entry))

        await self._transaction(work)

    async def failed(self, connection: Connection, replay_id: UUID, letter: int, text: str) -> None:
        """
        Record, in the transaction that stores dead letters, that a replayed one failed again.

        A dead letter that came back is open again by then. If another of its training came instead, this is resolved.
        The caller calls `notify` after the commit.
        """
        if await connection.fetchval(FAIL, replay_id, letter, clean(text)) is None:
            return
        gone_on = await connection.fetchrow(_RESOLVE_GONE_ON, replay_id, letter)
        if gone_on is not None:
            new = await connection.fetchval(
                _FOLLOWING, letter, gone_on["training_id"], str(ReplayMark(replay_id, letter))
            )
            which = f"dead letter {new}" if new else "an earlier dead letter"
            detail = f"handled here, then failed further on as {which}: {text}"
            await connection.execute(_DETAIL, replay_id, letter, clean(detail))
