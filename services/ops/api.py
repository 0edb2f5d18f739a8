"""The operators' API. Edge: puts the routes of the topics together, behind the operators' tokens."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Final

from fastapi import APIRouter, FastAPI

from services.ops.letters.views import NoLetter, WrongStatus
from services.ops.reconcile.plan import LookRefused
from services.ops.replays.records import KeyReused, NoReplay, NothingSelected, NotNow, TooManySelected
from shared.contract.errors import ModelswapError
from shared.runtime.http import new_api
from shared.runtime.tokens import Token

#: What a failure of ours is answered with. Any other is a bug.
_STATUS: Final[Mapping[type[ModelswapError], HTTPStatus]] = {
    NothingSelected: HTTPStatus.UNPROCESSABLE_ENTITY,
    TooManySelected: HTTPStatus.UNPROCESSABLE_ENTITY,
    KeyReused: HTTPStatus.UNPROCESSABLE_ENTITY,
    NoReplay: HTTPStatus.NOT_FOUND,
    NotNow: HTTPStatus.CONFLICT,
    NoLetter: HTTPStatus.NOT_FOUND,
    WrongStatus: HTTPStatus.CONFLICT,
    LookRefused: HTTPStatus.CONFLICT,
}


def create_api(*routers: APIRouter, tokens: Sequence[Token]) -> FastAPI:
    """The API, to be mounted at ``/v1``."""
    api = new_api(
        title="modelswap for operators",
        summary="See what failed, repair it, and take it back.",
        tokens=tokens,
        statuses=_STATUS,
    )
    for router in routers:
        api.include_router(router)
    return api
