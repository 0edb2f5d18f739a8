"""Undo a replay: take back, user by user, the models that it set. Edge."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final
from uuid import UUID

from services.ops.replays.outcomes import model_name
from services.ops.replays.plan import UNDOABLE, SetModel
from services.ops.replays.records import NotNow, Revert
from services.ops.replays.store.session import (
    ReplaySession,
    audit_replay,
    change_letters,
    get_replay,
    lock_replay,
)
from services.ops.replays.views import ReplayView
from shared.contract.text import clean
from shared.runtime.postgres import Connection

_BEGIN: Final = "UPDATE ops.replays SET undo_status = 'undoing', undo_actor = $2, undo_reason = $3 WHERE id = $1"
_TO_UNDO: Final = """
    UPDATE ops.replay_letters SET undo = 'waiting', undo_detail = $2
    WHERE replay_id = $1 AND position > $3 AND position <= $4 AND outcome = 'swapped' AND undo IS NULL
    RETURNING letter
"""
# A range of users, so that the index is read from its begin to its end.
TO_REVERT: Final = """
    SELECT user_id, generation, model, previous FROM ops.replay_letters
    WHERE replay_id = $1 AND undo = 'waiting' AND user_id <> ALL($4::text[]) AND user_id > $3 AND user_id <= (
        SELECT max(user_id) FROM (
            SELECT DISTINCT user_id FROM ops.replay_letters
            WHERE replay_id = $1 AND undo = 'waiting' AND user_id <> ALL($4::text[]) AND user_id > $3
            ORDER BY user_id LIMIT $2
        ) AS next
    )
    ORDER BY user_id, generation DESC
"""
_GET: Final = "SELECT undo_actor, undo_reason FROM ops.replays WHERE id = $1"
UNDONE: Final = """
    UPDATE ops.replay_letters SET undo = $3, undo_detail = $4
    WHERE replay_id = $1 AND user_id = $2 AND undo = 'waiting'
"""
_END: Final = """
    UPDATE ops.replays SET undo_status = 'undone', trouble = ''
    WHERE id = $1 AND undo_status = 'undoing'
      AND NOT EXISTS (SELECT FROM ops.replay_letters WHERE replay_id = $1 AND undo = 'waiting')
    RETURNING id
"""


class Undoing(ReplaySession):
    """Take back what a replay did."""

    async def undo(self, replay_id: UUID, *, actor: str, reason: str) -> ReplayView:
        """
        Begin to take back every swap of a replay that was not taken back before.

        Raises:
            NoReplay: if it does not exist.
            NotNow: if it still sends, or has swapped nothing.

        """

        async def work(connection: Connection) -> ReplayView:
            await lock_replay(connection, replay_id, "undo", *UNDOABLE)
            if not await change_letters(connection, _TO_UNDO, replay_id, ""):
                raise NotNow(f"replay {replay_id} has swapped no model, or all was taken back before: nothing to undo")
            await connection.execute(_BEGIN, replay_id, actor, reason)
            await audit_replay(connection, replay_id, actor, "replay.undo_started", reason=reason)
            return await get_replay(connection, replay_id)

        return await self._change(work)

    async def to_revert(
        self, replay_id: UUID, *, limit: int, after: str = "", without: Sequence[str] = ()
    ) -> list[Revert]:
        """Return the next users whose models are to be taken back: above *after*, except those in *without*."""
        (undo,) = await self._fetch(_GET, replay_id)
        by_user: dict[str, list[SetModel]] = {}
        for row in await self._fetch(TO_REVERT, replay_id, limit, after, without):
            by_user.setdefault(row["user_id"], []).append(SetModel(row["generation"], row["model"], row["previous"]))
        actor, reason = undo["undo_actor"], undo["undo_reason"]
        return [Revert.of(replay_id, *each, reason=reason, actor=actor) for each in by_user.items()]

    async def remember_revert(self, revert: Revert, *, kept_because: str | None) -> None:
        """Store that a user's model was taken back, or why it was kept."""
        undo = "reverted" if kept_because is None else "kept"
        detail = f"back to {model_name(revert.to)}" if kept_because is None else kept_because
        await self._execute(UNDONE, revert.replay_id, revert.user_id, undo, clean(detail))

    async def end_undo(self, replay_id: UUID) -> None:
        """End an undo that has no user left."""

        async def work(connection: Connection) -> None:
            if await connection.fetchval(_END, replay_id) and (undo := (await get_replay(connection, replay_id)).undo):
                outcome = f"{undo.reverted} users reverted, {undo.kept} kept"
                await audit_replay(
                    connection, replay_id, undo.actor, "replay.undone", reason=undo.reason, outcome=outcome
                )

        await self._transaction(work)
