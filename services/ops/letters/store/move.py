"""Drop and restore dead letters: one, those that are named, or all that a filter finds. Edge."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Final

from services.ops.letters.views import Changed, Filter, LetterStatus, Move, NoLetter, WrongStatus
from services.ops.letters.where import where
from services.ops.session import Session, audit, first_time
from services.ops.where import by_number
from shared.contract.answers import END
from shared.runtime.postgres import Connection, acquired

#: How many dead letters one transaction changes.
_AT_ONCE: Final = 2000

# In order of their numbers, so that two transactions cannot block each other.
_MOVE: Final = """
    WITH chosen AS (
        SELECT number FROM ops.letters WHERE {where} ORDER BY {order} LIMIT {limit} FOR NO KEY UPDATE
    )
    UPDATE ops.letters l SET status = {to} FROM chosen WHERE l.number = chosen.number RETURNING l.number
"""
# As above.
_LOCK: Final = (
    "SELECT number, status FROM ops.letters WHERE number = ANY($1::bigint[]) ORDER BY number FOR NO KEY UPDATE"
)
_MOVE_NAMED: Final = "UPDATE ops.letters SET status = $2 WHERE number = ANY($1::bigint[])"
_AUDIT_NAMED: Final = """
    INSERT INTO ops.audit (actor, action, target, reason, outcome)
    SELECT $1, $2, 'dead letter ' || number, $3, outcome FROM unnest($4::bigint[], $5::text[]) AS l (number, outcome)
"""
_COUNT_FOUND: Final = "SELECT status, count(*), max(number) AS newest FROM ops.letters WHERE {} GROUP BY status"
_MISSING: Final = """
    SELECT number FROM unnest($1::bigint[]) AS wanted (number)
    WHERE NOT EXISTS (SELECT FROM ops.letters l WHERE l.number = wanted.number)
    LIMIT 1
"""


class Moving(Session):
    """Drop open dead letters, and restore dropped ones; each change is audited."""

    async def move(self, number: int, move: Move, *, actor: str, reason: str) -> None:
        """
        Move one dead letter.

        Raises:
            NoLetter: if it does not exist.
            WrongStatus: if it has neither of the move's statuses.

        """

        async def work(connection: Connection) -> None:
            found = await _lock(connection, [number])
            if number not in found:
                raise NoLetter(number)
            if found[number] not in (move.was, move.to):
                raise WrongStatus(f"dead letter {number} is {found[number]}, not {move.was}")
            await _move(connection, found, move, actor, reason)

        await self._transaction(work)

    async def preview_move(self, wanted: Sequence[int] | Filter, move: Move, *, up_to: int | None) -> Changed:
        """
        Return what `move_many` would change.

        Raises:
            NoLetter: if one is named that does not exist.

        """
        async with acquired(self._pool) as connection:
            missing = None if isinstance(wanted, Filter) else await connection.fetchval(_MISSING, wanted)
            if missing is not None:
                raise NoLetter(missing)
            counts, newest = await _count(connection, wanted, up_to)
        return Changed(letters=counts.pop(move.was, 0), unchanged=counts, newest=newest)

    async def move_many(
        self,
        wanted: Sequence[int] | Filter,
        move: Move,
        *,
        actor: str,
        reason: str,
        up_to: int | None,
        key: str | None,
    ) -> Changed:
        """
        Move those of the *wanted* dead letters, at most numbered *up_to*, that `preview_move` counts.

        What others change meanwhile, such as a replay, is theirs, and counted as unchanged.
        Repeated with the same *key*, it audits only what it still moves.
        """
        planned = await self.preview_move(wanted, move, up_to=up_to)
        if isinstance(wanted, Filter):
            moved = await self._move_found(wanted, move, planned, actor, reason, key=key)
        else:
            moved = 0
            for begin in range(0, len(wanted), _AT_ONCE):
                moved += await self._move_named(wanted[begin : begin + _AT_ONCE], move, actor, reason, key)
        if moved == planned.letters:
            return planned
        async with acquired(self._pool) as connection:
            counts, _ = await _count(connection, wanted, planned.newest)
        return Changed(letters=moved, unchanged=Counter(counts) - Counter({move.to: moved}), newest=planned.newest)

    async def _move_named(self, numbers: Sequence[int], move: Move, actor: str, reason: str, key: str | None) -> int:
        async def work(connection: Connection) -> int:
            is_first = await first_time(connection, key, move.action, f"dead letters from {numbers[0]}")
            found = await _lock(connection, numbers)
            if not is_first:
                found = {number: status for number, status in found.items() if status == move.was}
            return await _move(connection, found, move, actor, reason)

        return await self._transaction(work)

    async def _move_found(
        self, wanted: Filter, move: Move, planned: Changed, actor: str, reason: str, *, key: str | None
    ) -> int:
        """Move some at a time, each time with its audit entry: nothing is locked for long, or changed unaudited."""
        conditions, values = where(wanted.model_copy(update={"status": move.was}))
        after, newest, limit, to = (f"${len(values) + place}" for place in range(1, 5))
        statement = _MOVE.format(
            where=f"{conditions} AND number > {after} AND number <= {newest}",
            order=by_number(wanted.text),
            limit=limit,
            to=to,
        )
        given = wanted.model_dump(exclude_none=True)
        target = "dead letters with " + ", ".join(f"{name} {value}" for name, value in given.items())
        unchanged = ", ".join(f"{count} {status}" for status, count in planned.unchanged.items())
        total = last = 0

        async def work(connection: Connection) -> list[int]:
            is_first = not total and await first_time(connection, key, move.action, target)
            # Behind the last ones, so that those that were moved are not read again.
            rows = await connection.fetch(statement, *values, last, planned.newest or 0, _AT_ONCE, move.to)
            moved = len(rows)
            outcome = f"{moved} dead {'letter' if moved == 1 else 'letters'} {move.was} to {move.to}"
            if not total and unchanged:
                outcome += f"; unchanged: {unchanged}"
            # What finds nothing changes nothing.
            if moved or (is_first and planned.newest is not None):
                await audit(connection, actor, move.action, target, reason=reason, outcome=outcome)
            return [row["number"] for row in rows]

        while numbers := await self._transaction(work):
            total, last = total + len(numbers), max(numbers)
        return total


async def _lock(connection: Connection, numbers: Sequence[int]) -> dict[int, str]:
    """Lock dead letters; return the status of each that exists."""
    return {row["number"]: row["status"] for row in await connection.fetch(_LOCK, numbers)}


async def _move(connection: Connection, locked: Mapping[int, str], move: Move, actor: str, reason: str) -> int:
    """Move the dead letters that have the move's first status; audit each; return how many were moved."""
    moved = [number for number, status in locked.items() if status == move.was]
    outcomes = [
        f"{move.was} to {move.to}" if status == move.was else f"unchanged: it is {status}" for status in locked.values()
    ]
    await connection.execute(_MOVE_NAMED, moved, move.to)
    await connection.execute(_AUDIT_NAMED, actor, move.action, reason, list(locked), outcomes)
    return len(moved)


async def _count(
    connection: Connection, wanted: Sequence[int] | Filter, up_to: int | None
) -> tuple[dict[LetterStatus, int], int | None]:
    """Return how many dead letters are *wanted*, by status, and the highest number among them."""
    conditions, values = where(wanted) if isinstance(wanted, Filter) else ("number = ANY($1::bigint[])", [wanted])
    conditions += f" AND number <= ${len(values) + 1}"
    rows = await connection.fetch(_COUNT_FOUND.format(conditions), *values, END if up_to is None else up_to)
    newest = max((row["newest"] for row in rows), default=None)
    return {LetterStatus(row["status"]): row["count"] for row in rows}, newest
