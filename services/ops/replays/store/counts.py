"""Keep the counts of replays at rest, so that a list of replays need not count all of their dead letters. Edge."""

from __future__ import annotations

from typing import Final

from services.ops.replays.store.session import COUNTS, ReplaySession
from shared.runtime.postgres import Connection

# Not one whose dead letters are being changed: a transaction that changed some of them holds the row, too.
_LOCK_UNCOUNTED: Final = """
    SELECT id FROM ops.replays
    WHERE counts IS NULL AND status NOT IN ('previewing', 'running') AND undo_status IS DISTINCT FROM 'undoing'
    ORDER BY number DESC LIMIT 1
    FOR UPDATE SKIP LOCKED
"""
_COUNT: Final = f"UPDATE ops.replays r SET counts = {COUNTS} WHERE id = $1"  # noqa: S608 (our own columns)


class Counting(ReplaySession):
    """What the engine needs to keep counts. The database forgets them once a dead letter of the replay changes."""

    async def keep_counts(self) -> bool:
        """Count the newest replay at rest whose counts are not kept; False if there is none."""

        async def work(connection: Connection) -> bool:
            replay_id = await connection.fetchval(_LOCK_UNCOUNTED)
            if replay_id is not None:
                # A statement of its own, which sees what was committed before the lock was had.
                await connection.execute(_COUNT, replay_id)
            return replay_id is not None

        return await self._transaction(work)
