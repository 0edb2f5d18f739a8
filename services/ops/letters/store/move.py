"""Drop and restore dead letters: one, those that are named, or all that a filter finds. Edge."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from services.ops.letters.views import Changed, Filter, LetterStatus, NoLetter, WrongStatus
from services.ops.letters.where import by_number, where
from services.ops.session import END, Session, audit
from shared.runtime.postgres import Connection, acquired

#: How many letters one transaction changes.
_AT_ONCE: Final = 2000

# In order of their numbers, so that two transactions can not block each other.
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
    SELECT $1, $2, 'letter ' || number, $3, outcome FROM unnest($4::bigint[], $5::text[]) AS l (number, outcome)
"""
_COUNT_FOUND: Final = "SELECT status, count(*), max(number) AS newest FROM ops.letters WHERE {} GROUP BY status"
_MISSING: Final = """
    SELECT number FROM unnest($1::bigint[]) AS wanted (number)
    WHERE NOT EXISTS (SELECT FROM ops.letters l WHERE l.number = wanted.number)
    LIMIT 1
"""


@dataclass(frozen=True, slots=True)
class _Move:
    """From one status to another, because an operator says so."""

    was: LetterStatus
    to: LetterStatus
    action: str
    actor: str
    reason: str

    @classmethod
    def drop(cls, actor: str, reason: str) -> _Move:
        return cls(LetterStatus.OPEN, LetterStatus.DROPPED, "letter.dropped", actor, reason)

    @classmethod
    def restore(cls, actor: str, reason: str) -> _Move:
        return cls(LetterStatus.DROPPED, LetterStatus.OPEN, "letter.restored", actor, reason)


class Moving(Session):
    """Drop open letters, and restore dropped ones; each change is audited."""

    async def drop(self, number: int, *, actor: str, reason: str) -> bool:
        """
        Set an open letter aside; False if there is none of that number.

        Raises:
            WrongStatus: if a replay has it, or it is resolved.

        """
        return await self._move_one(number, _Move.drop(actor, reason))

    async def restore(self, number: int, *, actor: str, reason: str) -> bool:
        """
        Open a dropped letter again; False if there is none of that number.

        Raises:
            WrongStatus: if it is not dropped.

        """
        return await self._move_one(number, _Move.restore(actor, reason))

    async def preview_move(self, wanted: Sequence[int] | Filter, was: LetterStatus, *, up_to: int | None) -> Changed:
        """
        What would become of the *wanted* letters *up_to* that number, if those with status *was* were moved.

        Raises:
            NoLetter: if one is named that is not there.

        """
        async with acquired(self._pool) as connection:
            counts, newest = await _count(connection, wanted, up_to)
        return Changed(letters=counts.pop(was, 0), unchanged=counts, newest=newest)

    async def drop_many(
        self, wanted: Sequence[int] | Filter, *, actor: str, reason: str, up_to: int | None = None
    ) -> Changed:
        """Set aside every open letter that is *wanted* and here now, as `preview_move` says."""
        return await self._move_all(wanted, _Move.drop(actor, reason), up_to)

    async def restore_many(
        self, wanted: Sequence[int] | Filter, *, actor: str, reason: str, up_to: int | None = None
    ) -> Changed:
        """Open every dropped letter again that is *wanted* and here now, as `preview_move` says."""
        return await self._move_all(wanted, _Move.restore(actor, reason), up_to)

    async def _move_all(self, wanted: Sequence[int] | Filter, move: _Move, up_to: int | None) -> Changed:
        planned = await self.preview_move(wanted, move.was, up_to=up_to)
        if isinstance(wanted, Filter):
            moved = await self._move_found(wanted, move, planned)
        else:
            some = [wanted[begin : begin + _AT_ONCE] for begin in range(0, len(wanted), _AT_ONCE)]
            moved = sum([await self._move_named(each, move) for each in some])
        return planned.model_copy(update={"letters": moved})

    async def _move_one(self, number: int, move: _Move) -> bool:
        async def work(connection: Connection) -> bool:
            found = await _lock(connection, [number])
            if number not in found:
                return False
            if found[number] not in (move.was, move.to):
                raise WrongStatus(f"letter {number} is {found[number]}, not {move.was}")
            await _move(connection, found, move)
            return True

        return await self._transaction(work)

    async def _move_named(self, numbers: Sequence[int], move: _Move) -> int:
        async def work(connection: Connection) -> int:
            return await _move(connection, await _lock(connection, numbers), move)

        return await self._transaction(work)

    async def _move_found(self, wanted: Filter, move: _Move, planned: Changed) -> int:
        """Some at a time, each time with its line in the audit: nothing is locked for long, or done without a word."""
        conditions, values = where(wanted.model_copy(update={"status": move.was}))
        places = [f"${len(values) + place}" for place in range(1, 4)]
        statement = _MOVE.format(
            where=f"{conditions} AND number <= {places[0]}", order=by_number(wanted), limit=places[1], to=places[2]
        )
        target = "letters with " + ", ".join(
            f"{name} {value}" for name, value in wanted.model_dump(exclude_none=True).items()
        )
        total = 0

        async def work(connection: Connection) -> int:
            moved = await connection.fetch(statement, *values, planned.newest or 0, _AT_ONCE, move.to)
            said = f"{len(moved)} {'letter' if len(moved) == 1 else 'letters'} {move.was} to {move.to}"
            if not total and planned.unchanged:
                said += "; unchanged: " + ", ".join(f"{count} {status}" for status, count in planned.unchanged.items())
            if moved or not total:
                await audit(connection, move.actor, move.action, target, reason=move.reason, outcome=said)
            return len(moved)

        while moved := await self._transaction(work):
            total += moved
        return total


async def _lock(connection: Connection, numbers: Sequence[int]) -> dict[int, str]:
    """Lock letters; the status of each that is there."""
    return {row["number"]: row["status"] for row in await connection.fetch(_LOCK, numbers)}


async def _move(connection: Connection, locked: Mapping[int, str], move: _Move) -> int:
    """Move those that can be; how many. The audit says of each what came of it."""
    moved = [number for number, status in locked.items() if status == move.was]
    said = [
        f"{move.was} to {move.to}" if status == move.was else f"unchanged: it is {status}" for status in locked.values()
    ]
    await connection.execute(_MOVE_NAMED, moved, move.to)
    await connection.execute(_AUDIT_NAMED, move.actor, move.action, move.reason, list(locked), said)
    return len(moved)


async def _count(
    connection: Connection, wanted: Sequence[int] | Filter, up_to: int | None
) -> tuple[dict[LetterStatus, int], int | None]:
    """How many letters are *wanted*, by status, and the highest number among them."""
    if isinstance(wanted, Filter):
        conditions, values = where(wanted)
    else:
        conditions, values = "number = ANY($1::bigint[])", [wanted]
        missing = await connection.fetchval(_MISSING, wanted)
        if missing is not None:
            raise NoLetter(f"there is no letter {missing}")
    conditions += f" AND number <= ${len(values) + 1}"
    rows = await connection.fetch(_COUNT_FOUND.format(conditions), *values, END if up_to is None else up_to)
    newest = max((row["newest"] for row in rows), default=None)
    return {LetterStatus(row["status"]): row["count"] for row in rows}, newest
