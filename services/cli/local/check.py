"""One check of the doctor: its result, and what to do about it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final

from services.cli.local.stack import Environment
from services.cli.problem import Problem, Refused, remedy
from shared.contract.errors import DependencyDown, ModelswapError
from shared.runtime.postgres_errors import NotReady
from shared.runtime.settings_base import SettingsError

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
    #: The setting that is missing, if that is what is wrong.
    missing: str = ""


class Wrong(Problem):
    """Something must be fixed; *then* is how, if not as the check says."""

    def __init__(self, detail: str, then: str = "") -> None:
        super().__init__(detail, then=then)


class Doubtful(Problem):
    """Something may need work, or could not be checked."""


async def check(
    name: str, look: Callable[[Environment], Awaitable[str]], environment: Environment, then: str, *, after: str = ""
) -> Finding:
    """
    Run one check; return a finding however it ends.

    *then* is what to do if something is wrong. *after* names a dependency that has a check of its own.
    """
    try:
        async with asyncio.timeout(_DEADLINE_SECONDS):
            return Finding(name, OK, await look(environment))
    except TimeoutError:
        return Finding(name, WRONG, f"no answer within {_DEADLINE_SECONDS:g} s: it hangs", then)
    except SettingsError as error:
        return settings_findings(name, error)[0]
    except ModelswapError as error:
        return Finding(name, *_failed(error, then, after))


def _failed(error: ModelswapError, then: str, after: str) -> tuple[str, str, str]:
    match error:
        case Doubtful():
            return WARNING, str(error), error.then
        case Wrong():
            return WRONG, str(error), error.then or then
        case Refused() if after:
            return WARNING, f"not known here: {error}", error.then
        # A database that lacks something answers: nothing else says what is wrong.
        case Problem() | DependencyDown() if after and not isinstance(error, NotReady):
            return WARNING, f"not known: {error}", f"fix {after} first"
        case Problem():
            return WRONG, str(error), then
    return WRONG, str(error), remedy(error, otherwise=then)


def settings_findings(name: str, error: SettingsError) -> list[Finding]:
    return [Finding(name, WRONG, each.said, SET, each.setting if each.is_missing else "") for each in error.mistakes]
