"""RabbitMQ as commands reach it: its errors, in words for the person who typed the command. Edge."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from services.cli.problem import Problem, Refused
from shared.contract.errors import DependencyDown
from shared.runtime.broker.link_errors import LINK_ERRORS, is_refused, say

_REFUSED: Final = "check the user in MODELSWAP_AMQP_URL: a process's own may do only what that process does"


@contextmanager
def broker_problems() -> Iterator[None]:
    """Translate the AMQP library's errors to problems."""
    try:
        yield
    except LINK_ERRORS as error:
        if is_refused(error):
            raise Refused(say(error), then=_REFUSED) from error
        raise Problem(say(error), then="modelswap doctor") from error
    except DependencyDown as error:
        if not is_refused(error.__cause__):
            raise
        raise Refused(str(error), then=_REFUSED) from error
