"""
Errors of commands, with the command to try next. Pure.

Functions of commands may raise a `Problem`, which `main` prints; docstrings name it only where a caller handles it.
"""

from __future__ import annotations

from typing import Final

from shared.contract.errors import ModelswapError

_EXIT_SETTINGS: Final = 2
_NEXT: Final = {
    "settings": "modelswap config show, or modelswap up --embedded, which needs no settings",
    "topology_mismatch": "modelswap topology diff",
    "migration_refused": "modelswap db status",
    "database_not_ready": "modelswap db migrate; if all are applied, complete the restore: a table or grant is missing",
    "database_too_old": "an empty database, then modelswap db migrate (docker compose down --volumes deletes all data; "
    "for modelswap up --embedded, another folder for --state)",
}


class Problem(ModelswapError):
    """A command cannot do its work; *then* is what to do about it."""

    code = "problem"

    def __init__(self, message: str, *, then: str) -> None:
        super().__init__(message)
        self.then = then


class NoAnswer(Problem):
    """Nothing listens at the address."""

    code = "no_answer"


class Refused(Problem):
    """A server refuses the login, or what it asks for."""

    code = "refused"


class NotNow(Problem):
    """The server cannot answer now: it hangs, or a dependency is down."""

    code = "not_now"


def remedy(error: ModelswapError, *, otherwise: str) -> str:
    """Return what to do about *error*; *otherwise* if the error does not say."""
    return error.then if isinstance(error, Problem) else _NEXT.get(error.code, otherwise)


def explain(error: ModelswapError) -> str:
    """Return the text for standard error: what happened, then what to do."""
    return f"modelswap: {error}\nNext: {remedy(error, otherwise='modelswap doctor')}\n"


def exit_code(error: ModelswapError) -> int:
    return _EXIT_SETTINGS if error.code == "settings" else 1
