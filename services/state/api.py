"""
The product's API. Edge: HTTP in, one question or one transaction of the store, JSON out.

Every request needs a bearer token. Whatever goes wrong is answered as a problem (RFC 9457), never with internals.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Annotated, Any, Final, Protocol
from uuid import UUID, uuid4

import structlog
from fastapi import FastAPI, Header, Path, Query, Request, Response, Security
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from fastapi.security import HTTPBearer
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from services.state.records import (
    HistoryRecord,
    IdempotencyKey,
    KeyReused,
    ModelRecord,
    RegisteredOtherwise,
    Registration,
    TrainingRecord,
    UserDeleted,
)
from services.state.starting import Replicate, StartRefused, Trainings, start
from services.state.swap import Changes
from services.state.transitions import Stage
from services.state.views import (
    Mistake,
    ModelView,
    Page,
    Problem,
    RegisterTraining,
    StartTraining,
    SwapView,
    TrainingView,
    model_view,
    swap_view,
    training_view,
)
from shared.contract.envelope import Envelope
from shared.contract.errors import DependencyDown, ModelswapError, TransientError
from shared.contract.identity import TrainingId, UserId
from shared.contract.preview import Answer, Refusal
from shared.contract.preview import Message as EventMessage
from shared.replicate.progress import configured_steps
from shared.replicate.webhook_url import Claim, webhook_url

log = structlog.get_logger()

#: Training input may hold archives as data URIs.
MAX_BODY_BYTES: Final = 4 * 1024 * 1024
_OPENAPI: Final = "/openapi.json"
_PROBLEM_JSON: Final = "application/problem+json"
_RETRY_AFTER_SECONDS: Final = 5
_NUMBERS_END: Final = 2**63

#: What a failure of ours is answered with. Any other is a bug.
_STATUS: Final[Mapping[type[ModelswapError], HTTPStatus]] = {
    UserDeleted: HTTPStatus.CONFLICT,
    RegisteredOtherwise: HTTPStatus.CONFLICT,
    KeyReused: HTTPStatus.UNPROCESSABLE_ENTITY,
    StartRefused: HTTPStatus.UNPROCESSABLE_ENTITY,
}

#: Not the phrases of `HTTPStatus`, which are others in a newer Python.
_HTTP_KINDS: Final = {400: "bad-request", 404: "not-found", 405: "method-not-allowed", 413: "too-large"}

_DOCUMENTED: Final[dict[int | str, dict[str, Any]]] = {
    int(status): {"description": status.phrase, "content": {_PROBLEM_JSON: {"schema": Problem.model_json_schema()}}}
    for status in (
        HTTPStatus.BAD_REQUEST,
        HTTPStatus.UNAUTHORIZED,
        HTTPStatus.NOT_FOUND,
        HTTPStatus.CONFLICT,
        HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
        HTTPStatus.UNPROCESSABLE_ENTITY,
        HTTPStatus.SERVICE_UNAVAILABLE,
    )
}

Limit = Annotated[int, Query(ge=1, le=200)]
Cursor = Annotated[str | None, Query(max_length=100)]
Key = Annotated[str | None, Header(alias="Idempotency-Key", min_length=1, max_length=255, pattern=r"^[\x21-\x7e]+$")]


class NotFound(Exception):  # noqa: N818 (it is an answer)
    """There is nothing to show; *kind* says of what."""

    def __init__(self, kind: str, detail: str) -> None:
        super().__init__(detail)
        self.kind = kind


class Invalid(Exception):  # noqa: N818 (it is an answer)
    """One part of the request makes no sense."""

    def __init__(self, pointer: str, detail: str) -> None:
        super().__init__(detail)
        self.mistake = Mistake(pointer=pointer, detail=detail)


class Store(Trainings, Protocol):
    """Where trainings and models are kept."""

    async def register(
        self, registration: Registration, key: IdempotencyKey | None = None
    ) -> tuple[TrainingRecord, bool]: ...

    async def adopt(self, registration: Registration) -> tuple[TrainingRecord, bool]: ...

    async def find_training(self, training_id: str | None, ref: UUID | None) -> TrainingRecord | None: ...

    async def list_trainings(
        self, *, user_id: str | None, stage: Stage | None, before: int | None, limit: int
    ) -> list[TrainingRecord]: ...

    async def find_model(self, user_id: str) -> ModelRecord | None: ...

    async def list_history(self, user_id: str, *, before: int | None, limit: int) -> list[HistoryRecord]: ...

    async def preview(self, envelope: Envelope) -> Changes: ...


@dataclass(frozen=True, slots=True)
class WebhookAddress:
    """How the address is made that Replicate posts to."""

    public_url: str
    secrets: Sequence[str] = field(repr=False)

    def of(self, record: TrainingRecord) -> str:
        return webhook_url(self.public_url, Claim(record.ref, record.destination, record.total_steps), self.secrets)


def create_api(store: Store, replicate: Replicate, *, webhook: WebhookAddress, api_tokens: Sequence[str]) -> FastAPI:
    """The API, to be mounted at ``/v1``."""
    api = FastAPI(
        title="modelswap",
        summary="Start trainings, and always know which model a user may use.",
        version="1",
        docs_url=None,
        redoc_url=None,
        openapi_url=_OPENAPI,
        redirect_slashes=False,
        generate_unique_id_function=lambda route: route.name,
        responses=_DOCUMENTED,
        # For the document; `RequireToken` checks it, before a body is read.
        dependencies=[Security(HTTPBearer(auto_error=False))],
        exception_handlers=dict.fromkeys(
            (RequestValidationError, Invalid, NotFound, ModelswapError, HTTPException, Exception), answer
        ),
    )
    api.add_middleware(LimitBody)
    api.add_middleware(RequireToken, tokens=api_tokens)
    trainings = _Trainings(store, replicate, webhook)
    models = _Models(store)

    def add(method: str, path: str, operation: Callable[..., Any], model: Any, *, status: int = 200) -> None:
        api.add_api_route(
            path,
            operation,
            methods=[method],
            response_model=model,
            status_code=status,
            response_model_exclude_unset=True,
        )

    add("POST", "/trainings", trainings.start_training, TrainingView, status=201)
    add("PUT", "/trainings/{training_id}", trainings.register_training, TrainingView)
    add("GET", "/trainings/{training_id}", trainings.get_training, TrainingView)
    add("GET", "/trainings", trainings.list_trainings, Page[TrainingView])
    # A user id may hold slashes. The end of the path tells the routes apart.
    add("GET", "/users/{user_id:path}/trainings", trainings.list_user_trainings, Page[TrainingView])
    add("GET", "/users/{user_id:path}/model", models.get_model, ModelView)
    add("GET", "/users/{user_id:path}/model/history", models.list_model_history, Page[SwapView])
    add("POST", "/preview", models.preview, Answer)
    return api


@dataclass(frozen=True, slots=True)
class _Trainings:
    store: Store
    replicate: Replicate
    webhook: WebhookAddress

    async def start_training(self, body: StartTraining, response: Response, key: Key = None) -> TrainingView:
        """
        Write a training down and have Replicate run it. The user's current model stays in use until the new one works.

        202 where it is not known yet whether Replicate runs it. The same Idempotency-Key finds the same training.
        """
        if body.start and body.trainer is None:
            raise Invalid("#/trainer", "is needed where modelswap starts the training")
        idempotency = IdempotencyKey(key, _digest(body)) if key else None
        record, is_new = await self.store.register(
            _registration(body, total_steps=body.total_steps or configured_steps(body.input)), idempotency
        )
        if not body.start:
            return training_view(record, webhook_url=self.webhook.of(record))
        if is_new and body.trainer is not None:
            record = await start(
                record,
                body.trainer,
                body.input,
                webhook=self.webhook.of(record),
                key=idempotency,
                replicate=self.replicate,
                trainings=self.store,
            )
        if record.failure is not None and record.failure.code == StartRefused.code:
            raise StartRefused(record.failure.reason)
        if record.training_id is None:
            response.status_code = HTTPStatus.ACCEPTED
        return training_view(record)

    async def register_training(
        self, training_id: Annotated[TrainingId, Path()], body: RegisterTraining, response: Response
    ) -> TrainingView:
        """Write down a training that runs already; 201 the first time. Its webhooks must come to us."""
        registration = _registration(body, total_steps=body.total_steps, training_id=training_id)
        record, is_new = await self.store.adopt(registration)
        if is_new:
            response.status_code = HTTPStatus.CREATED
        return training_view(record)

    async def get_training(self, training_id: Annotated[TrainingId, Path()]) -> TrainingView:
        """How far a training is, by Replicate's id or by our `ref`."""
        record = await self.store.find_training(training_id, _uuid(training_id))
        if record is None:
            raise NotFound("no-training", f"training {training_id} is not registered")
        return training_view(record)

    async def list_trainings(
        self, stage: Stage | None = None, user_id: UserId | None = None, limit: Limit = 50, cursor: Cursor = None
    ) -> Page[TrainingView]:
        """Trainings, newest first."""
        # One more than asked for tells whether there are more.
        found = await self.store.list_trainings(user_id=user_id, stage=stage, before=_number(cursor), limit=limit + 1)
        return Page(
            items=[training_view(record) for record in found[:limit]],
            next_cursor=_cursor(found[limit - 1].number) if len(found) > limit else None,
        )

    async def list_user_trainings(
        self,
        user_id: Annotated[UserId, Path()],
        stage: Stage | None = None,
        limit: Limit = 50,
        cursor: Cursor = None,
    ) -> Page[TrainingView]:
        """One user's trainings, newest first."""
        return await self.list_trainings(stage, user_id, limit, cursor)


@dataclass(frozen=True, slots=True)
class _Models:
    store: Store

    async def get_model(
        self,
        user_id: Annotated[UserId, Path()],
        response: Response,
        if_none_match: Annotated[str | None, Header()] = None,
    ) -> ModelView | Response:
        """The model that a user uses now, whole; or 404 `no-model`, where none of theirs has proven to work yet."""
        record = await self.store.find_model(user_id)
        if record is None:
            raise NotFound("no-model", f"user {user_id} has no model yet")
        headers = {"ETag": f'"{record.generation}"', "Cache-Control": "private, no-cache"}
        if if_none_match is not None and headers["ETag"] in if_none_match:
            return Response(status_code=HTTPStatus.NOT_MODIFIED, headers=headers)
        response.headers.update(headers)
        return model_view(record)

    async def list_model_history(
        self, user_id: Annotated[UserId, Path()], limit: Limit = 50, cursor: Cursor = None
    ) -> Page[SwapView]:
        """Every change of a user's model, newest first."""
        found = await self.store.list_history(user_id, before=_number(cursor), limit=limit + 1)
        return Page(
            items=[swap_view(record) for record in found[:limit]],
            next_cursor=_cursor(found[limit - 1].generation) if len(found) > limit else None,
        )

    async def preview(self, body: EventMessage) -> Answer:
        """What would become of an event's message here. Nothing is changed. For operators' tools."""
        try:
            changes = await self.store.preview(body.decode())
        except DependencyDown:
            raise
        except ModelswapError as error:
            return Answer(refusal=Refusal.of(error))
        failed = changes.results[0]
        return Answer(
            messages=tuple(EventMessage.of(outgoing.envelope) for outgoing in changes.outbox),
            refusal=None if failed is None else Refusal.of(failed),
        )


class RequireToken:
    """Lets nothing pass without a bearer token that we know, except to the API's own description."""

    def __init__(self, app: ASGIApp, tokens: Sequence[str]) -> None:
        self._app = app
        self._tokens = [token.encode() for token in tokens]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        app = self._app if self._is_allowed(scope) else _UNAUTHORIZED
        await app(scope, receive, send)

    def _is_allowed(self, scope: Scope) -> bool:
        if scope["type"] != "http" or scope["path"].removeprefix(scope.get("root_path", "")) == _OPENAPI:
            return True
        scheme, _, token = dict(scope["headers"]).get(b"authorization", b"").partition(b" ")
        # All are compared, so that the time says nothing of which.
        return scheme.lower() == b"bearer" and any([hmac.compare_digest(token, known) for known in self._tokens])  # noqa: C419


class LimitBody:
    """Reads no more than `MAX_BODY_BYTES`. (FastAPI's own limit answers in plain text.)"""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        size_bytes = 0

        async def receive_some() -> Message:
            nonlocal size_bytes
            message = await receive()
            size_bytes += len(message.get("body", b""))
            if size_bytes > MAX_BODY_BYTES:
                raise HTTPException(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"at most {MAX_BODY_BYTES} bytes")
            return message

        await self._app(scope, receive_some, send)


def _registration(
    body: StartTraining | RegisterTraining, *, total_steps: int | None, training_id: str | None = None
) -> Registration:
    return Registration(
        ref=uuid4(),
        user_id=body.user_id,
        destination=body.destination,
        trainer=body.trainer,
        trigger_word=body.trigger_word,
        total_steps=total_steps,
        training_id=training_id,
    )


def _digest(body: StartTraining) -> str:
    return hashlib.sha256(json.dumps(body.model_dump(mode="json"), sort_keys=True).encode()).hexdigest()


def _uuid(text: str) -> UUID | None:
    try:
        return UUID(text)
    except ValueError:
        return None


def _cursor(number: int) -> str:
    return base64.urlsafe_b64encode(str(number).encode()).decode().rstrip("=")


def _number(cursor: str | None) -> int | None:
    if cursor is None:
        return None
    try:
        number = int(base64.b64decode(cursor + "=" * (-len(cursor) % 4), altchars=b"-_", validate=True))
    except ValueError:
        number = 0
    if not 0 < number < _NUMBERS_END:
        raise Invalid("query.cursor", "is none of ours")
    return number


def _problem(
    status: int, kind: str, detail: str, *, errors: Sequence[Mistake] = (), headers: Mapping[str, str] | None = None
) -> Response:
    problem = Problem(type=f"urn:modelswap:problem:{kind}", title=kind, status=status, detail=detail, errors=errors)
    return JSONResponse(
        problem.model_dump(exclude_defaults=True), status_code=status, media_type=_PROBLEM_JSON, headers=headers
    )


_UNAUTHORIZED: Final = _problem(
    401, "unauthorized", "a bearer token is needed that this API knows", headers={"WWW-Authenticate": "Bearer"}
)


async def answer(request: Request, error: Exception) -> Response:
    """What a request is answered with that could not be done."""
    match error:
        case RequestValidationError() | Invalid():
            return _problem(422, "invalid", "the request makes no sense", errors=_mistakes(error))
        case NotFound(kind=kind):
            return _problem(404, kind, str(error))
        case HTTPException(status_code=status, headers=headers):
            return _problem(status, _HTTP_KINDS.get(status, "http"), str(error.detail), headers=headers)
        case TransientError():
            return _unavailable(request, error)
        case ModelswapError() if type(error) in _STATUS:
            return _problem(_STATUS[type(error)], _kind(error.code), str(error))
    log.error("request.broken", path=request.url.path, exc_info=error)
    return _problem(500, "internal", "an internal error; it is logged")


def _mistakes(error: RequestValidationError | Invalid) -> Sequence[Mistake]:
    return [error.mistake] if isinstance(error, Invalid) else [_mistake(each) for each in error.errors()]


def _mistake(error: Mapping[str, Any]) -> Mistake:
    where, *path = error["loc"]
    if where != "body":
        pointer = ".".join(map(str, error["loc"]))
    elif error["type"] == "json_invalid":
        pointer = "#"
    else:
        pointer = "/".join(["#", *(str(part).replace("~", "~0").replace("/", "~1") for part in path)])
    return Mistake(pointer=pointer, detail=str(error["msg"]).removeprefix("Value error, "))


def _unavailable(request: Request, error: TransientError) -> Response:
    log.warning("request.unavailable", path=request.url.path, error=error.code, detail=str(error))
    told = error.retry_after_seconds if isinstance(error, DependencyDown) else None
    headers = {"Retry-After": str(math.ceil(told or _RETRY_AFTER_SECONDS))}
    return _problem(503, "unavailable", f"not now ({error.code}): try again in a moment", headers=headers)


def _kind(code: str) -> str:
    return code.replace("_", "-")
