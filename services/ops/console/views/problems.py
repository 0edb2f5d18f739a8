"""A problem as a page shows it: what happened, and what to do. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from shared.contract.answers import KIND_PREFIX, Mistake, Problem

_TITLES: Final = {
    400: "The request cannot be read",
    401: "Sign in first",
    403: "Not allowed",
    404: "Not found",
    405: "Not possible here",
    409: "Not possible now",
    412: "Changed meanwhile",
    413: "Too large",
    422: "Something must be corrected",
    429: "Too many attempts",
    500: "This is a bug",
    503: "Not reachable now",
}
_ADVICE: Final = {
    400: "Go back, reload the page and try again.",
    403: "A reader may look at everything and change nothing. To change something, sign in with an operator's token.",
    404: "It may have been deleted, or the address is mistyped. The search finds trainings, users and models.",
    409: "Reload the page to see the present state.",
    412: "Somebody else changed it. Reload the page, look at it, and decide again.",
    413: "Use the command line for bodies of this size.",
    422: "Go back and correct what is named.",
    500: "The log of services.ops has the details. Nothing was lost: what was accepted is kept.",
    503: "Reload in a moment. The screen Queues shows which process is away.",
}


@dataclass(frozen=True, slots=True)
class ProblemView:
    """What a page says about a problem."""

    status: int
    title: str
    kind: str
    detail: str
    errors: Sequence[Mistake]
    advice: str


def problem_view(problem: Problem) -> ProblemView:
    return ProblemView(
        status=problem.status,
        title=_TITLES.get(problem.status, problem.title),
        kind=problem.type.removeprefix(KIND_PREFIX),
        detail=_sentence(problem.detail),
        errors=problem.errors,
        advice=_ADVICE.get(problem.status, ""),
    )


def _sentence(text: str) -> str:
    text = text.strip()
    if not text:
        return ""
    text = text[0].upper() + text[1:]
    return text if text[-1] in ".!?…" else f"{text}."
