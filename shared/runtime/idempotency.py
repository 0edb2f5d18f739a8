"""Prunes idempotency keys, which state, ops and the notifier keep in tables of the same form. Edge."""

from __future__ import annotations

from datetime import timedelta
from typing import Final

from shared.runtime.postgres import Pool, acquired

_KEEP: Final = timedelta(days=1)
#: Of the schema {0}.
PRUNE_KEYS: Final = """
    DELETE FROM {0}.idempotency_keys
    WHERE key = ANY(ARRAY(SELECT key FROM {0}.idempotency_keys
                          WHERE created_at < statement_timestamp() - $1::interval LIMIT $2))
    RETURNING true
"""


async def prune_keys(pool: Pool, schema: str, *, limit: int) -> int:
    """Delete at most *limit* old keys of *schema*; return how many were deleted."""
    async with acquired(pool) as connection:
        return len(await connection.fetch(PRUNE_KEYS.format(schema), _KEEP, limit))
