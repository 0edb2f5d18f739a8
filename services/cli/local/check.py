"""One check of the doctor: its result, and what to do about it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final

from services.cli.local.stack import Environment
from services.cli.problem import NoAnswer, NotNow, Problem, remedy
from shared.contract.errors import DependencyDown, ModelswapError
from shared.runtime.settings import SettingsError

OK: Final = "ok"
WARNING: Final = "warning"
WRONG: Final = "wrong"

SET: Final = "set it in the environment; `modelswap config show` lists every setting"
#: A check that takes longer hangs.
_DEADLINE_SECONDS: Final = 15.0


@dataclass(frozen=True, slots=True)
class Finding:
    """The result of one check."""

    check: str
    status: str
    detail: str
    #: What to do about it.
    then: str = ""


class Wrong(Exception):  # noqa: N818 (a result of a check, not a failure of ours)
    """Something must be fixed; *then* is how, if not the default."""

    def __init__(self, detail: str, then: str = "") -> None:
        super().__init__(detail)
        self.then = then


class NotKnown(Exception):  # noqa: N818 (likewise)
    """The process to ask does not answer, or refuses; *then* is what to do about that."""

    def __init__(self, problem: Problem, then: str) -> None:
        super().__init__(f"not known: {problem}")
        self.then = then


async def check(
    name: str, look: Callable[[Environment], Awaitable[str]], environment: Environment, then: str, *, after: str = ""
) -> Finding:
    """
    Run one check; return a finding however it ends.

    *then* is what to do if something is wrong. *after* names a dependency that has a check of its own.
    """
    try:
        async with asyncio.timeout(_DEADLINE_SECONDS):
            detail = await look(environment)
    except TimeoutError:
        return Finding(name, WRONG, f"no answer within {_DEADLINE_SECONDS:g} s: it hangs", then)
    except (Wrong, NotKnown, ModelswapError) as error:
        return _failed(name, error, then, after)
    return Finding(name, OK, detail)


def _failed(name: str, error: Exception, then: str, after: str) -> Finding:
    match error:
        case SettingsError():
            return Finding(name, WRONG, mistakes(error)[0], SET)
        case NotKnown():
            return Finding(name, WARNING, str(error), error.then)
        case Wrong():
            return Finding(name, WRONG, str(error), error.then or then)
        case Problem() | DependencyDown() if after:
            return Finding(name, WARNING, f"not known: {error}", f"fix {after} first")
        case ModelswapError():
            return Finding(name, WRONG, str(error), remedy(error, otherwise=then))
    return Finding(name, WRONG, str(error), then)


def mistakes(error: SettingsError) -> list[str]:
    """Return each mistake that *error* lists."""
    return [line.strip() for line in str(error).splitlines()[1:]]


def how_to_ask_ops(problem: Problem) -> str:
    """Return what to do if ops cannot be asked."""
    match problem:
        case NoAnswer():
            return "modelswap serve ops"
        case NotNow():
            return "read the log of ops"
    return problem.then
