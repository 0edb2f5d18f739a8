"""The product's API: the routes, and the status of each error. Edge."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from http import HTTPStatus
from typing import Any, Final, TypeAlias

from pydantic import BaseModel

from services.state import adopting, extraction, rollback, starting
from services.state.api.models import Models
from services.state.api.overview import Overviews
from services.state.api.snapshot import Snapshots
from services.state.api.trainings import Replicate, Trainings, WebhookAddress
from services.state.overview import (
    SearchResults,
    SwapStatisticsView,
    TrainingCounts,
    UserSwapView,
    WebhookStatisticsView,
)
from services.state.registration import RegisteredOtherwise, UserDeleted
from services.state.store import Store
from services.state.streams import Watcher
from services.state.timeline import TimelineView
from services.state.views import ModelView, OutputView, SnapshotPage, SwapView, TrainingView, WithdrawalView
from shared.contract.answers import Page
from shared.contract.errors import ModelswapError
from shared.contract.idempotency import KeyReused
from shared.contract.preview import Answer
from shared.runtime.description import TOOLS
from shared.runtime.http import Api, new_api
from shared.runtime.sse import EventStream
from shared.runtime.tokens import read_token

__all__ = ["WebhookAddress", "create_api"]

#: Status by class of error. Any other error is a bug.
_STATUS: Final[Mapping[type[ModelswapError], HTTPStatus]] = {
    UserDeleted: HTTPStatus.CONFLICT,
    RegisteredOtherwise: HTTPStatus.CONFLICT,
    KeyReused: HTTPStatus.UNPROCESSABLE_ENTITY,
    starting.StartRefused: HTTPStatus.UNPROCESSABLE_ENTITY,
    starting.NotCancelable: HTTPStatus.CONFLICT,
    adopting.NotAtReplicate: HTTPStatus.NOT_FOUND,
    extraction.NoTraining: HTTPStatus.NOT_FOUND,
    extraction.NoOutput: HTTPStatus.NOT_FOUND,
    extraction.NotRetryable: HTTPStatus.CONFLICT,
    rollback.NoModel: HTTPStatus.NOT_FOUND,
    rollback.NothingToRollBackTo: HTTPStatus.CONFLICT,
    rollback.AlreadyCurrent: HTTPStatus.CONFLICT,
    rollback.NotTheirs: HTTPStatus.UNPROCESSABLE_ENTITY,
    rollback.PreconditionFailed: HTTPStatus.PRECONDITION_FAILED,
}

#: Actor in the history if the token has neither scope nor name.
_PLAIN_TOKEN: Final = "api"  # noqa: S105 (no secret)

_TRAININGS: Final = "trainings"
_MODELS: Final = "models"
_DESCRIPTION: Final = """
Each request needs a bearer token: one of `MODELSWAP_API_TOKENS`. A reader's token can change nothing.

With an `Idempotency-Key`, a write can be repeated if its answer was lost: it is done once, and answered again.
"""

#: Example in the API's description.
_EXAMPLE: Final = """\
id: 1764072000000000-042
event: progress
data: {"training_id": "zz4ibbonubfz7carwiefibzgga", "stage": "running", "progress": 42, "eta_seconds": 310, …}

"""

#: Further responses of an operation, for its description.
Responses: TypeAlias = dict[int | str, dict[str, Any]]


def create_api(
    store: Store,
    replicate: Replicate,
    watcher: Watcher,
    *,
    webhook: WebhookAddress,
    api_tokens: Sequence[str],
    ask_later: Callable[[str], None] | None = None,
) -> Api:
    """
    The API, to be mounted at ``/v1``.

    *ask_later* schedules another question to Replicate about a training; None without a token.
    """
    api = new_api(
        title="modelswap",
        summary="Start trainings, and always know a user's current model.",
        description=_DESCRIPTION,
        tags={
            _TRAININGS: "Start trainings, or register running ones, and follow them to their end.",
            _MODELS: "A user's current model, its history, and rollback to an earlier one.",
        },
        tokens=[read_token(entry, plain=_PLAIN_TOKEN) for entry in api_tokens],
        statuses=_STATUS,
    )
    trainings = Trainings(store, replicate, webhook, watcher, ask_later)
    models = Models(store)
    overviews = Overviews(store)

    def add(
        method: str,
        path: str,
        operation: Callable[..., object],
        model: type[BaseModel],
        *,
        tag: str = _TRAININGS,
        status: int = 200,
        others: Responses | None = None,
    ) -> None:
        api.add_api_route(
            path,
            operation,
            methods=[method],
            tags=[tag],
            response_model=model,
            status_code=status,
            responses=others,
            response_model_exclude_unset=True,
        )

    unknown: Responses = {202: {"model": TrainingView, "description": "It is not known yet whether Replicate runs it."}}
    first: Responses = {
        201: {"model": TrainingView, "description": "It was not registered before."},
        202: {
            "model": TrainingView,
            "description": "It was not registered before, and Replicate did not answer; it is asked again.",
        },
    }
    tagged = {"headers": {"ETag": {"description": "For If-None-Match and If-Match.", "schema": {"type": "string"}}}}
    model: Responses = {200: tagged}
    unchanged: Responses = {200: tagged, 304: {"description": "It has not changed.", **tagged}}
    stream = {"text/event-stream": {"schema": {"type": "string"}, "example": _EXAMPLE}}
    add("POST", "/trainings", trainings.start_training, TrainingView, status=201, others=unknown)
    add("PUT", "/trainings/{training_id}", trainings.register_training, TrainingView, others=first)
    add("GET", "/trainings/{training_id}", trainings.get_training, TrainingView)
    add("GET", "/trainings/{training_id}/output", trainings.get_output, OutputView)
    add("GET", "/trainings/{training_id}/timeline", overviews.get_timeline, TimelineView)
    add("POST", "/trainings/{training_id}/cancel", trainings.cancel_training, TrainingView, status=202)
    add("POST", "/trainings/{training_id}/retry-extraction", trainings.retry_extraction, TrainingView, status=202)
    api.add_api_route(
        "/trainings/{training_id}/events",
        trainings.follow_training,
        methods=["GET"],
        status_code=HTTPStatus.OK,
        response_class=EventStream,
        tags=[_TRAININGS],
        responses={
            200: {"description": "Events, until the training has ended.", "content": stream},
            204: {"description": "It has ended, and the client has got the last event."},
        },
    )
    add("POST", "/trainings/{training_id}/never-started", trainings.never_started, TrainingView, tag=TOOLS)
    add("GET", "/trainings", trainings.list_trainings, Page[TrainingView])
    add("POST", "/training-lookup", trainings.find_trainings, Page[TrainingView], tag=TOOLS)
    add("GET", "/training-counts", overviews.count_trainings, TrainingCounts)
    add("GET", "/swap-statistics", overviews.get_swap_statistics, SwapStatisticsView, tag=_MODELS)
    add("GET", "/webhook-statistics", overviews.get_webhook_statistics, WebhookStatisticsView)
    add("GET", "/swaps", overviews.list_swaps, Page[UserSwapView], tag=_MODELS)
    add("GET", "/search", overviews.search, SearchResults)
    add("GET", "/outputs", trainings.list_outputs, Page[OutputView], tag=TOOLS)
    add("GET", "/models", Snapshots(store).list_models, SnapshotPage, tag=_MODELS)
    # A user id may hold slashes. The end of the path tells the routes apart.
    add("GET", "/users/{user_id:path}/trainings", trainings.list_user_trainings, Page[TrainingView])
    add("POST", "/users/{user_id:path}/retry-extraction", trainings.retry_user_extraction, TrainingView, status=202)
    add("POST", "/users/{user_id:path}/model/rollback", models.roll_back_model, ModelView, tag=_MODELS, others=model)
    add("POST", "/users/{user_id:path}/model/withdraw", models.withdraw_model, WithdrawalView, tag=_MODELS)
    add("GET", "/users/{user_id:path}/model", models.get_model, ModelView, tag=_MODELS, others=unchanged)
    add("GET", "/users/{user_id:path}/model/history", models.list_model_history, Page[SwapView], tag=_MODELS)
    add("POST", "/preview", models.preview, Answer, tag=TOOLS)
    return api
