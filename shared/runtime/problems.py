"""The response of a failed request: a problem (RFC 9457). Edge."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from starlette.responses import JSONResponse, Response

from shared.contract.answers import KIND_PREFIX, Mistake, Problem
from shared.runtime.description import PROBLEM_JSON


def problem(
    status: int, kind: str, detail: str, *, errors: Sequence[Mistake] = (), headers: Mapping[str, str] | None = None
) -> Response:
    """Return the response of the problem *kind*."""
    body = Problem(type=KIND_PREFIX + kind, title=kind, status=status, detail=detail, errors=errors)
    return JSONResponse(
        body.model_dump(exclude_defaults=True), status_code=status, media_type=PROBLEM_JSON, headers=headers
    )
