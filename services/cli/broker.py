"""RabbitMQ as commands reach it: its errors, in words for the person who typed the command. Edge."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from services.cli.problem import Problem, Refused
from shared.contract.errors import DependencyDown
from shared.runtime.broker.link_errors import LINK_ERRORS, is_forbidden, is_refused, say

_REFUSED: Final = "check the user in MODELSWAP_AMQP_URL"
_FORBIDDEN: Final = f"{_REFUSED}: a process's own may do only what that process does"


@contextmanager
def broker_problems() -> Iterator[None]:
    """Translate the AMQP library's errors to problems."""
    try:
        yield
    except LINK_ERRORS as error:
        raise _problem(say(error), error) from error
    except DependencyDown as error:
        if not is_refused(error.__cause__):
            raise
        raise _problem(str(error), error.__cause__) from error


def _problem(said: str, error: BaseException | None) -> Problem:
    if is_forbidden(error):
        return Refused(said, then=_FORBIDDEN)
    return Problem(said, then=_REFUSED if is_refused(error) else "modelswap doctor")
