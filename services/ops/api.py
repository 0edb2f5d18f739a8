"""The operators' API. Edge: puts the routes of the topics together, behind the operators' tokens."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Final

from services.ops.endpoints.views import EndpointRefused
from services.ops.letters.views import NoLetter, WrongStatus
from services.ops.reconcile.trainings import RetryRefused
from services.ops.replays.messages import EditRefused
from services.ops.replays.records import NoReplay, NothingSelected, NotNow, TooManySelected
from services.ops.sign_in.codes import PATH as SIGN_IN_CODES
from services.ops.sign_in.codes import NotAPersons
from services.ops.subscriptions.views import NoManagement, NoSubscription
from shared.contract.errors import ModelswapError
from shared.contract.idempotency import KeyReused
from shared.runtime.http import Api, Router, new_api
from shared.runtime.management import Inequivalent, ManagementRefused
from shared.runtime.tokens import Token

#: HTTP status by error. Any other error is a bug.
_STATUS: Final[Mapping[type[ModelswapError], HTTPStatus]] = {
    EditRefused: HTTPStatus.UNPROCESSABLE_ENTITY,
    NothingSelected: HTTPStatus.UNPROCESSABLE_ENTITY,
    TooManySelected: HTTPStatus.UNPROCESSABLE_ENTITY,
    KeyReused: HTTPStatus.UNPROCESSABLE_ENTITY,
    NoReplay: HTTPStatus.NOT_FOUND,
    NotNow: HTTPStatus.CONFLICT,
    NoLetter: HTTPStatus.NOT_FOUND,
    WrongStatus: HTTPStatus.CONFLICT,
    RetryRefused: HTTPStatus.CONFLICT,
    EndpointRefused: HTTPStatus.CONFLICT,
    NoSubscription: HTTPStatus.NOT_FOUND,
    NoManagement: HTTPStatus.CONFLICT,
    ManagementRefused: HTTPStatus.CONFLICT,
    Inequivalent: HTTPStatus.CONFLICT,
    NotAPersons: HTTPStatus.FORBIDDEN,
}
#: Descriptions of the routers' tags.
_TAGS: Final[Mapping[str, str]] = {
    "dead letters": "Messages that failed for good, in groups that most likely have one cause. They are kept, whole.",
    "replays": "Send dead letters again, step by step, after a dry run; and undo that.",
    "reconciliation": "Trainings that are overdue because no webhook came, and retries of extractions.",
    "subscriptions": "Queues of services that consume our events. None of them can delay us or another service.",
    "webhook endpoints": "Change an endpoint, and send its deliveries again. The notifier's API has the rest.",
    "processes": "The state of the processes, and of the queues between them.",
    "console": "One-time links that sign in to the console.",
    "audit": "Who did what, why, and with which outcome.",
}
_DESCRIPTION: Final = (
    "Each request needs a bearer token: one of `MODELSWAP_OPS_TOKENS`. A reader's may look, and change nothing."
)


def create_api(*routers: Router, tokens: Sequence[Token]) -> Api:
    """The API, to be mounted at ``/v1``."""
    api = new_api(
        title="modelswap for operators",
        summary="See what failed, repair it, and take it back.",
        description=_DESCRIPTION,
        tags=_TAGS,
        tokens=tokens,
        statuses=_STATUS,
        readers_write=(SIGN_IN_CODES,),
    )
    for router in routers:
        api.take(router)
    return api
