"""Spans of SQL statements, named after what they do to which tables: neither text nor parameters are in them. Edge."""

from __future__ import annotations

import re
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final

from shared.runtime import tracing

if TYPE_CHECKING:
    from asyncpg import Connection
    from asyncpg.connection import LoggedQuery

#: Names without a schema are parts of the statement itself.
_TABLE: Final = re.compile(r"\b(INSERT INTO|UPDATE|DELETE FROM|(?<!DISTINCT )FROM|JOIN)\s+(?!pg_catalog\.)(\w+\.\w+)")
_READS: Final = ("FROM", "JOIN")
_TRANSACTION: Final = ("BEGIN", "COMMIT", "ROLLBACK")
_CHARACTERS: Final = 255


async def trace_statements(connection: Connection[Any]) -> None:
    """Record each statement of *connection*, which is new, as a span within the current one."""
    if tracing.is_on():
        connection.add_query_logger(_record)


def _record(ended: LoggedQuery) -> None:
    summary = summarize(ended.query)
    if summary is not None:
        error = None if ended.exception is None else type(ended.exception).__name__
        tracing.ended(
            summary, ended.elapsed, {"db.system.name": "postgresql", "db.query.summary": summary}, error=error
        )


@lru_cache(maxsize=512)
def summarize(statement: str) -> str | None:
    """
    Return what a statement does to which tables, such as ``UPDATE state.users INSERT state.inbox``.

    None if there are none: then it is mostly one of the library's own, of a new connection.
    """
    word = statement.strip("; \n")
    if word in _TRANSACTION:
        return word
    words = [f"{'SELECT' if verb in _READS else verb.split()[0]} {table}" for verb, table in _TABLE.findall(statement)]
    return " ".join(dict.fromkeys(words))[:_CHARACTERS] or None
