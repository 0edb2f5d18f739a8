"""Start a dry run's dead letters, pause, resume and cancel. Edge."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias
from uuid import UUID

from services.ops.replays.plan import Status, why_not_open
from services.ops.replays.records import NothingSelected, NotNow
from services.ops.replays.store.session import (
    ReplaySession,
    change_letters,
    get_replay,
    lock_replay,
    reopen_letters,
    set_status,
    take_letters,
)
from services.ops.replays.views import ReplayView
from services.ops.session import slices
from shared.runtime.postgres import Connection

#: Changes the dead letters of a replay that had this status; returns the outcome for the audit.
Steer: TypeAlias = Callable[[Connection, Status], Awaitable[str]]

_PLANNED: Final = """
    SELECT p.letter, p.position, l.status, l.replay_id
    FROM ops.replay_letters p JOIN ops.letters l ON l.number = p.letter
    WHERE p.replay_id = $1 AND p.outcome = 'planned'
    ORDER BY l.number
    FOR NO KEY UPDATE OF l
"""
_START_PLANNED: Final = """
    UPDATE ops.replay_letters SET outcome = 'waiting', stage = NULL, generation = NULL, model = NULL, previous = NULL
    WHERE replay_id = $1 AND letter = ANY($2::bigint[])
"""
_SKIP_PLANNED: Final = """
    UPDATE ops.replay_letters r SET outcome = 'skipped', detail = s.detail, ended_at = clock_timestamp()
    FROM json_to_recordset($2::json) AS s (letter bigint, detail text)
    WHERE r.replay_id = $1 AND r.letter = s.letter
"""
# Purged since the dry run.
_SKIP_FORGOTTEN: Final = """
    UPDATE ops.replay_letters SET outcome = 'skipped', detail = 'it was purged', ended_at = clock_timestamp()
    WHERE replay_id = $1 AND outcome = 'planned'
    RETURNING letter
"""
_FORGIVE: Final = """
    UPDATE ops.replays SET
        forgiven_ended = c.ended, forgiven_failed = c.failed
    FROM (
        SELECT count(*) FILTER (WHERE ended_at IS NOT NULL AND outcome <> 'skipped') AS ended,
               count(*) FILTER (WHERE outcome = 'failed') AS failed
        FROM ops.replay_letters WHERE replay_id = $1
    ) c
    WHERE id = $1
"""
# They are being published now: whether they went is known when the sender records it.
_KEEP_CLAIMED: Final = """
    UPDATE ops.replay_letters SET outcome = 'sent', sent_at = clock_timestamp()
    WHERE replay_id = $1 AND outcome = 'waiting' AND claimed_until > clock_timestamp()
"""
_CANCEL_WAITING: Final = """
    UPDATE ops.replay_letters SET
        outcome = 'canceled', detail = $2, ended_at = clock_timestamp(), claimed_until = NULL
    WHERE replay_id = $1 AND position > $3 AND position <= $4 AND outcome IN ('waiting', 'planned')
    RETURNING letter
"""
_GIVE_UP_SENT: Final = """
    UPDATE ops.replay_letters SET outcome = 'failed', detail = $2, ended_at = clock_timestamp(), claimed_until = NULL
    WHERE replay_id = $1 AND position > $3 AND position <= $4 AND outcome = 'sent'
    RETURNING letter
"""


@dataclass(frozen=True, slots=True)
class _Verb:
    name: str
    status: Status
    action: str
    allowed: Sequence[Status]


_START: Final = _Verb("start", Status.RUNNING, "replay.started", (Status.PREVIEWED, Status.PREVIEWING))
_PAUSE: Final = _Verb("pause", Status.PAUSED, "replay.paused", (Status.RUNNING,))
_RESUME: Final = _Verb("resume", Status.RUNNING, "replay.resumed", (Status.PAUSED, Status.STOPPED))
_CANCEL: Final = _Verb(
    "cancel", Status.CANCELED, "replay.canceled", [each for each in Status if each is not Status.DONE]
)


class Steering(ReplaySession):
    """Change the status of a replay as an operator asks; each change is audited, and raises `NoReplay` or `NotNow`."""

    async def start(self, replay_id: UUID, *, actor: str, reason: str) -> ReplayView:
        """
        Send the dead letters of a dry run; those that are not open any more are skipped.

        Raises:
            NothingSelected: if none of its dead letters is open.

        """

        async def work(connection: Connection, _: Status) -> str:
            skipped, taken = [], []
            for row in await connection.fetch(_PLANNED, replay_id):
                why = why_not_open(row["status"], row["replay_id"])
                if why is None:
                    taken.append(row["letter"])
                else:
                    skipped.append({"letter": row["letter"], "detail": why})
            if not taken:
                raise NothingSelected("none of its dead letters is still open")
            await connection.execute(_SKIP_PLANNED, replay_id, json.dumps(skipped))
            for some in slices(taken):
                await connection.execute(_START_PLANNED, replay_id, some)
            forgotten = await connection.fetch(_SKIP_FORGOTTEN, replay_id)
            await take_letters(connection, replay_id, taken)
            return f"{len(taken)} dead letters, {len(skipped) + len(forgotten)} skipped"

        return await self._steer(replay_id, _START, actor, reason, work)

    async def pause(self, replay_id: UUID, *, actor: str, reason: str) -> ReplayView:
        """Send no more for now. Outcomes of sent dead letters still arrive."""
        return await self._steer(replay_id, _PAUSE, actor, reason)

    async def resume(self, replay_id: UUID, *, actor: str, reason: str) -> ReplayView:
        """Send again. Failures so far do not stop it any more."""

        async def work(connection: Connection, _: Status) -> str:
            await connection.execute(_FORGIVE, replay_id)
            return ""

        return await self._steer(replay_id, _RESUME, actor, reason, work)

    async def cancel(self, replay_id: UUID, *, actor: str, reason: str) -> ReplayView:
        """
        Send no more at all, and reopen the dead letters that were not sent.

        Of a canceled replay: give up, and reopen, the dead letters that were sent and have no outcome.
        """

        async def work(connection: Connection, was: Status) -> str:
            if was is Status.CANCELED:
                why = f"given up by {actor}: no outcome arrived"
                back = await change_letters(connection, _GIVE_UP_SENT, replay_id, why)
                if not back:
                    raise NotNow(f"replay {replay_id} is canceled, and nothing of it is underway")
            else:
                await connection.execute(_KEEP_CLAIMED, replay_id)
                back = await change_letters(connection, _CANCEL_WAITING, replay_id, f"canceled by {actor}")
            await reopen_letters(connection, replay_id, back)
            return f"{len(back)} dead letters {'are given up' if was is Status.CANCELED else 'were not sent'}"

        return await self._steer(replay_id, _CANCEL, actor, reason, work)

    async def _steer(
        self, replay_id: UUID, verb: _Verb, actor: str, reason: str, work: Steer | None = None
    ) -> ReplayView:
        async def steered(connection: Connection) -> ReplayView:
            was = await lock_replay(connection, replay_id, verb.name, *verb.allowed)
            outcome = await work(connection, was) if work else ""
            await set_status(connection, replay_id, verb.status, actor, verb.action, reason=reason, outcome=outcome)
            return await get_replay(connection, replay_id)

        return await self._change(steered)
