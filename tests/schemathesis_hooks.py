"""What schemathesis is told of our APIs that their descriptions can not say."""

from __future__ import annotations

from typing import Any

from schemathesis import Case, HookContext, Response, hook
from schemathesis.openapi.checks import RejectedPositiveData

#: What no pattern says that all languages read: which characters can be printed. And how two values compare.
_NOT_SAID = {"must consist of printable characters", "must not be blank", "must not be before `since`"}


@hook
def filter_failure(_: HookContext, failure: Exception, __: Case[Any], response: Response) -> bool:
    """
    Keep a failure, but for a request that fits the description and is refused for what is there.

    Such a 422 has a type of its own, like ``nothing-selected``; a request that makes no sense is ``invalid``.
    """
    if not isinstance(failure, RejectedPositiveData):
        return True
    problem = response.json()
    details = {mistake["detail"] for mistake in problem.get("errors", ())}
    return problem["title"] == "invalid" and not (details and details <= _NOT_SAID)
