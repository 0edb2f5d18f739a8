"""Postgres as commands on this machine reach it: what it refuses their login. Edge."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from services.cli.problem import Refused
from shared.runtime.postgres_errors import NotAllowed

_OWNER: Final = (
    "use the owner's login in MODELSWAP_DATABASE_URL: a process's own sees only the tables of that process; "
    "if it is the owner's, complete the restore: a grant is missing"
)


@contextmanager
def login_problems(then: str = _OWNER) -> Iterator[None]:
    """Name the login as the likely cause where Postgres refuses it something; *then* is which one to use."""
    try:
        yield
    except NotAllowed as error:
        raise Refused(str(error), then=then) from error
