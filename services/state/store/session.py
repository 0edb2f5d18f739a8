"""What all use cases of the store need: transactions, locks and idempotency keys. Edge."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from typing import Final, TypeVar
from uuid import UUID

from services.state.changes import Training
from services.state.registration import UserDeleted
from services.state.transitions import Stage
from shared.contract.idempotency import IdempotencyKey
from shared.contract.identity import ModelName, ModelRef
from shared.runtime.postgres import Connection, Pool, Record
from shared.runtime.postgres_errors import Conflict
from shared.runtime.session import BaseSession

T = TypeVar("T")

#: Locks a user, and gives the row a new version even if nothing else in it changes.
LOCK_USER: Final = """
    UPDATE state.users SET next_generation = next_generation WHERE user_id = $1
    RETURNING next_generation, deleted_at IS NOT NULL AS is_deleted
"""
_FIND_KEY: Final = "SELECT request_digest, ref, generation FROM state.idempotency_keys WHERE key = $1"
_TAKE_KEY: Final = """
    INSERT INTO state.idempotency_keys (key, request_digest, ref, generation) VALUES ($1, $2, $3, $4)
    ON CONFLICT (key) DO NOTHING
    RETURNING key
"""


class _RolledBack(Exception):
    """Ends a transaction without a commit."""


class Session(BaseSession):
    """Base of the use cases."""

    def __init__(self, pool: Pool) -> None:
        super().__init__(pool)
        #: Set whenever this process has committed an event to publish.
        self.outbox_filled = asyncio.Event()

    async def _dry_run(self, work: Callable[[Connection], Awaitable[T]]) -> T:
        """Do *work*, check what a commit would check, and roll back; return the result of *work*."""
        results: list[T] = []

        async def work_and_roll_back(connection: Connection) -> None:
            results.append(await work(connection))
            await connection.execute("SET CONSTRAINTS ALL IMMEDIATE")
            raise _RolledBack

        with contextlib.suppress(_RolledBack):
            await self._transaction(work_and_roll_back)
        return results[-1]


async def lock_user(connection: Connection, user_id: str) -> int | None:
    """Lock a user; return the generation to draw next. None if there is no such user: nothing is locked then."""
    user = await connection.fetchrow(LOCK_USER, user_id)
    if user is None:
        return None
    if user["is_deleted"]:
        raise UserDeleted(f"user {user_id} was deleted")
    generation: int = user["next_generation"]
    return generation


async def find_key(connection: Connection, key: IdempotencyKey | None) -> Record | None:
    """Return the row of *key* if it was used for the same request before."""
    used = await connection.fetchrow(_FIND_KEY, key.key) if key else None
    if key and used:
        key.check(used["request_digest"])
    return used


async def take_key(
    connection: Connection, key: IdempotencyKey | None, ref: UUID, generation: int | None = None
) -> None:
    """Store what *key* is used for."""
    if key and not await connection.fetchval(_TAKE_KEY, key.key, key.digest, ref, generation):
        raise Conflict(f"the Idempotency-Key {key.key} was used just now")


def to_training(row: Record) -> Training:
    return Training(
        ref=row["ref"],
        training_id=row["training_id"],
        user_id=row["user_id"],
        generation=row["generation"],
        destination=to_model_name(row["destination"]),
        trigger_word=row["trigger_word"],
        stage=Stage(row["stage"]),
        output=row["output"],
        trainer_version=row["trainer_version"],
        started_at=row["started_at"],
        reported_at=row["reported_at"],
    )


def to_model_name(text: str) -> ModelName:
    owner, _, name = text.partition("/")
    return ModelName(owner, name)


def to_model_ref(text: str) -> ModelRef:
    name, _, version = text.rpartition(":")
    return ModelRef(*to_model_name(name), version)
