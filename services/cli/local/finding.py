"""One check of the doctor: what was seen, and what to do about it."""

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
#: What takes longer hangs.
_DEADLINE_SECONDS: Final = 15.0


@dataclass(frozen=True, slots=True)
class Finding:
    """What one check found."""

    check: str
    status: str
    detail: str
    #: What to do about it.
    then: str = ""


class Wrong(Exception):  # noqa: N818 (a result of a check, not a failure of ours)
    """Something is to be put right; *then* is how, if not as usual."""

    def __init__(self, detail: str, then: str = "") -> None:
        super().__init__(detail)
        self.then = then


class NotKnown(Exception):  # noqa: N818 (likewise)
    """The process that could tell does not answer, or refuses to; *then* is what to do about that."""

    def __init__(self, problem: Problem, then: str) -> None:
        super().__init__(f"not known: {problem}")
        self.then = then


async def check(
    name: str, look: Callable[[Environment], Awaitable[str]], environment: Environment, then: str, *, after: str = ""
) -> Finding:
    """
    Run one check; every way it can end is a finding.

    *then* is what to do if something is wrong. *after* names what this check depends on and an earlier one looks at.
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
            return Finding(name, WARNING, f"not known: {error}", f"put {after} right first")
        case ModelswapError():
            return Finding(name, WRONG, str(error), remedy(error, otherwise=then))
    return Finding(name, WRONG, str(error), then)


def mistakes(error: SettingsError) -> list[str]:
    """Return each mistake that *error* lists."""
    return [line.strip() for line in str(error).splitlines()[1:]]


def how_to_ask_ops(problem: Problem) -> str:
    """What to do where ops does not tell us something."""
    match problem:
        case NoAnswer():
            return "modelswap serve ops"
        case NotNow():
            return "see what the process ops says above, and its log"
    return problem.then
