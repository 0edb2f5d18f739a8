"""
Translates asyncpg's errors of statements; `postgres` does those of connecting.

    Conflict           40001 40P01 0A000            conflicting transactions, or a stale plan: retry at once
    Locked             55P03                        waited too long for a lock: a Conflict
    DependencyDown     08 53 57P0x 25006 25P02 25P03 28 3D, a lost connection, OSError, TimeoutError
    TooSlow            57014                        a statement took longer than it may: a DependencyDown
    MixedUp            26 34 42P03 42P05, and 22P03 54000 while our parameters are read: a DependencyDown
    NotAllowed         42501                        a grant is missing, or the login is another process's: a NotReady
    NotReady           3F, other 42                 the tables are not what our statement needs: a DependencyDown
    Damaged            58 XX001 XX002               its files, or a page of them, cannot be used: a DependencyDown
    PermanentError     22 23 54                     can never be stored
    TransientError     any other                    unknown: retry later, a few times
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final, TypeAlias

import asyncpg
from asyncpg.pool import PoolConnectionProxy

from shared.contract.errors import DependencyDown, ModelswapError, PermanentError, TransientError
from shared.contract.health import POSTGRES_AWAY

_Connection: TypeAlias = "asyncpg.Connection[asyncpg.Record] | PoolConnectionProxy[asyncpg.Record]"

_DOWN: Final = ("08", "53", "57P0", "25006", "25P02", "25P03", "28", "3D")
_MIXED_UP: Final = ("26", "34", "42P03", "42P05")
#: Raised while Postgres decodes parameters, which the library encoded for the statement that it prepared.
_UNREADABLE: Final = ("22P03", "54000")
_PERMANENT: Final = ("22", "23", "54")
#: What the library raises.
ERRORS: Final = (asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError, OSError)


class Conflict(TransientError):
    """A conflict with another transaction. A retry most likely succeeds."""

    code = "database_conflict"


class Locked(Conflict):
    """Another transaction held a lock for longer than we wait."""


class UnusableAddress(PermanentError):
    """The database's URL cannot be used, so retrying does not help."""

    code = "database_address"


class TooSlow(DependencyDown):
    """A statement, or a lock, took too long: Postgres is overloaded or locked, or the delivery is the cause."""

    code = "database_too_slow"
    may_concern_one = True


class MixedUp(DependencyDown):
    """The session is not the one in which our statement was prepared; the delivery's content is not the cause."""

    code = "database_mixed_up"
    may_concern_one = True


class NotReady(DependencyDown):
    """The database is being restored, or lacks a migration or a grant; the delivery's content is not the cause."""

    code = "database_not_ready"
    may_concern_one = True


class NotAllowed(NotReady):
    """Our login may not do that: a grant is missing, or it is another's login."""


class Damaged(DependencyDown):
    """Postgres cannot read or write its files: its disk fails, or a page of a table or an index is broken."""

    code = "database_damaged"
    may_concern_one = True


#: Classes by the beginning of the SQLSTATE; each has one code.
_BY_STATE: Final[tuple[tuple[tuple[str, ...], type[ModelswapError]], ...]] = (
    (("40001", "40P01", "0A000"), Conflict),
    (("55P03",), Locked),
    (("57014",), TooSlow),
    (("42501",), NotAllowed),
    # While a database is restored, first tables are missing, then keys, functions and grants.
    (("3F", "42"), NotReady),
    (("58", "XX001", "XX002"), Damaged),
)


@contextmanager
def translated_errors(connection: _Connection | None = None) -> Iterator[None]:
    """Translate the database's errors; *connection* is the one they occur on, if there is one."""
    try:
        yield
    except ERRORS as error:
        raise classify(error, connection) from error


def classify(error: Exception, connection: _Connection | None = None) -> ModelswapError:
    """Map *error*, raised on *connection*, to one of our errors."""
    said = say(error)
    match error:
        case asyncpg.PostgresError(sqlstate=state) if _is_mixed_up(error, state or ""):
            return MixedUp(f"Postgres said {state} {said}")
        case asyncpg.PostgresError(sqlstate=state):
            return _by_state(state or "", f"Postgres said {state} {said}")
        case asyncpg.InterfaceError() | asyncpg.InternalClientError() if _is_open(connection):
            return TransientError(f"the database was used wrongly: {said}", code="database_error")
    return DependencyDown(f"{POSTGRES_AWAY}: {said}", code="database_down")


def _is_open(connection: _Connection | None) -> bool:
    try:
        return connection is not None and not connection.is_closed()
    except asyncpg.InterfaceError:
        # The pool took the lost connection back from its borrower.
        return False


def say(error: Exception) -> str:
    """Return what *error* is, and what it says."""
    return f"{type(error).__name__}: {error}"


def _is_mixed_up(error: asyncpg.PostgresError, state: str) -> bool:
    reading = (getattr(error, "server_source_function", None) or "").endswith("_recv")
    return state.startswith(_MIXED_UP) or (reading and state in _UNREADABLE)


def _by_state(state: str, message: str) -> ModelswapError:
    for states, kind in _BY_STATE:
        if state.startswith(states):
            return kind(message)
    if state.startswith(_DOWN):
        return DependencyDown(message, code="database_down")
    if state.startswith(_PERMANENT):
        return PermanentError(message, code=f"database_{state.lower()}")
    return TransientError(message, code="database_error")
