"""The product's API. Edge: HTTP in, one question or one transaction of the store, JSON out."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from http import HTTPStatus
from typing import Annotated, Any, Final, Protocol, TypeAlias
from uuid import UUID, uuid4

from fastapi import Header, Path, Query, Response
from pydantic import JsonValue
from starlette.types import Message, Receive, Scope, Send

from services.state import adopting, asking
from services.state.records import (
    NOT_STARTED,
    HistoryRecord,
    IdempotencyKey,
    KeyReused,
    ModelRecord,
    OutputRecord,
    RegisteredOtherwise,
    Registration,
    TrainingRecord,
    UserDeleted,
)
from services.state.starting import Replicate as Starter
from services.state.starting import StartRefused, Trainings, start
from services.state.streams import Follower, Update, Watcher
from services.state.swap import Changes, Failure
from services.state.transitions import Stage
from services.state.views import (
    ModelView,
    NeverStarted,
    OutputView,
    RegisterTraining,
    RollBack,
    StartTraining,
    SwapView,
    TrainingView,
    Withdraw,
    WithdrawalView,
    model_view,
    output_view,
    swap_view,
    training_view,
    withdrawal_view,
)
from shared.contract.answers import Mistake, Moment, Page
from shared.contract.envelope import Envelope
from shared.contract.errors import DependencyDown, ModelswapError
from shared.contract.identity import TrainingId, TrainingName, UserId, parse_ref
from shared.contract.preview import Answer, Refusal
from shared.contract.preview import Message as EventMessage
from shared.replicate.progress import configured_steps
from shared.replicate.webhook_url import Claim, webhook_url
from shared.runtime.description import TOOLS, raises
from shared.runtime.http import Api, Asker, Cursor, Invalid, Key, Limit, from_cursor, new_api, to_cursor
from shared.runtime.tokens import read_token

#: Whoever follows a training and takes nothing for so long is not there any more.
_SEND_SECONDS: Final = 30.0

#: What a failure of ours is answered with. Any other is a bug.
_STATUS: Final[Mapping[type[ModelswapError], HTTPStatus]] = {
    UserDeleted: HTTPStatus.CONFLICT,
    RegisteredOtherwise: HTTPStatus.CONFLICT,
    KeyReused: HTTPStatus.UNPROCESSABLE_ENTITY,
    StartRefused: HTTPStatus.UNPROCESSABLE_ENTITY,
    adopting.NotAtReplicate: HTTPStatus.NOT_FOUND,
    asking.NoTraining: HTTPStatus.NOT_FOUND,
    asking.NotRetryable: HTTPStatus.CONFLICT,
    asking.NotCancelable: HTTPStatus.CONFLICT,
    asking.NoModel: HTTPStatus.NOT_FOUND,
    asking.NothingToRollBackTo: HTTPStatus.CONFLICT,
    asking.AlreadyCurrent: HTTPStatus.CONFLICT,
    asking.NotTheirs: HTTPStatus.UNPROCESSABLE_ENTITY,
    asking.PreconditionFailed: HTTPStatus.PRECONDITION_FAILED,
}


#: The history's actor where the token has neither scope nor name.
_PLAIN_TOKEN: Final = "api"  # noqa: S105 (no secret)

#: An output may be half a megabyte.
OutputLimit = Annotated[int, Query(ge=1, le=50)]

_TRAININGS: Final = "trainings"
_MODELS: Final = "models"
_DESCRIPTION: Final = """
Each request needs a bearer token: one of `MODELSWAP_API_TOKENS`. A reader's may look, and change nothing.

With an `Idempotency-Key`, a write can be repeated when its answer was lost: it is done once, and answered again.
"""
#: What a stream looks like.
_STREAM: Final = """\
id: 1764072000000000-042
event: progress
data: {"training_id": "zz4ibbonubfz7carwiefibzgga", "stage": "running", "progress": 42, "eta_seconds": 310, …}

"""

#: What else an operation may answer, for the document.
Responses: TypeAlias = dict[int | str, dict[str, Any]]

_ETAG: Final = re.compile(r'"([0-9]{1,19})"', re.ASCII)


class Replicate(Starter, adopting.Replicate, asking.Replicate, Protocol):
    """What is asked of Replicate."""


class Store(Trainings, adopting.Trainings, Protocol):
    """Where trainings and models are kept."""

    async def register(
        self, registration: Registration, key: IdempotencyKey | None = None
    ) -> tuple[TrainingRecord, bool]: ...

    async def list_trainings(
        self, *, user_id: str | None, stage: Stage | None, before: int | None, limit: int
    ) -> list[TrainingRecord]: ...

    async def list_outputs(self, *, since: datetime, before: int | None, limit: int) -> list[OutputRecord]: ...

    async def find_model(self, user_id: str) -> ModelRecord | None: ...

    async def list_history(self, user_id: str, *, before: int | None, limit: int) -> list[HistoryRecord]: ...

    async def look_again(self, user_id: str, ref: UUID | None, key: IdempotencyKey | None = None) -> TrainingRecord: ...

    async def roll_back(
        self, order: asking.RollbackOrder, key: IdempotencyKey | None = None, *, is_dry_run: bool = False
    ) -> ModelRecord: ...

    async def withdraw(
        self, order: asking.WithdrawalOrder, key: IdempotencyKey | None = None, *, is_dry_run: bool = False
    ) -> HistoryRecord: ...

    async def preview(self, envelope: Envelope) -> Changes: ...


@dataclass(frozen=True, slots=True)
class WebhookAddress:
    """How the address is made that Replicate posts to."""

    public_url: str
    secrets: Sequence[str] = field(repr=False)

    def of(self, record: TrainingRecord) -> str:
        return webhook_url(self.public_url, Claim(record.ref, record.destination, record.total_steps), self.secrets)


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

    *ask_later* has Replicate asked about a training that it could not be asked about now; None without a token.
    """
    api = new_api(
        title="modelswap",
        summary="Start trainings, and always know which model a user may use.",
        description=_DESCRIPTION,
        tags={
            _TRAININGS: "Start trainings, or register those that run already, and follow them to their end.",
            _MODELS: "Which model a user uses now, which ones before, and back to one of these.",
        },
        tokens=[read_token(entry, plain=_PLAIN_TOKEN) for entry in api_tokens],
        statuses=_STATUS,
    )
    trainings = _Trainings(store, replicate, webhook, watcher, ask_later)
    models = _Models(store)

    def add(
        method: str,
        path: str,
        operation: Callable[..., Any],
        model: Any,
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

    unknown: Responses = {202: {"model": TrainingView, "description": "Whether Replicate runs it is not known yet."}}
    first: Responses = {
        201: {"model": TrainingView, "description": "It was not registered before."},
        202: {
            "model": TrainingView,
            "description": "It was not registered before, and Replicate could not be asked how it is: that follows.",
        },
    }
    tagged = {"headers": {"ETag": {"description": "For If-None-Match and If-Match.", "schema": {"type": "string"}}}}
    model: Responses = {200: tagged}
    unchanged: Responses = {200: tagged, 304: {"description": "The client has it.", **tagged}}
    stream = {"text/event-stream": {"schema": {"type": "string"}, "example": _STREAM}}
    add("POST", "/trainings", trainings.start_training, TrainingView, status=201, others=unknown)
    add("PUT", "/trainings/{training_id}", trainings.register_training, TrainingView, others=first)
    add("GET", "/trainings/{training_id}", trainings.get_training, TrainingView)
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
            204: {"description": "It has ended, and the client has seen that."},
        },
    )
    add("POST", "/trainings/{training_id}/never-started", trainings.never_started, TrainingView, tag=TOOLS)
    add("GET", "/trainings", trainings.list_trainings, Page[TrainingView])
    add("GET", "/outputs", trainings.list_outputs, Page[OutputView], tag=TOOLS)
    # A user id may hold slashes. The end of the path tells the routes apart.
    add("GET", "/users/{user_id:path}/trainings", trainings.list_user_trainings, Page[TrainingView])
    add("POST", "/users/{user_id:path}/retry-extraction", trainings.retry_user_extraction, TrainingView, status=202)
    add("POST", "/users/{user_id:path}/model/rollback", models.roll_back_model, ModelView, tag=_MODELS, others=model)
    add("POST", "/users/{user_id:path}/model/withdraw", models.withdraw_model, WithdrawalView, tag=_MODELS)
    add("GET", "/users/{user_id:path}/model", models.get_model, ModelView, tag=_MODELS, others=unchanged)
    add("GET", "/users/{user_id:path}/model/history", models.list_model_history, Page[SwapView], tag=_MODELS)
    add("POST", "/preview", models.preview, Answer, tag=TOOLS)
    return api


@dataclass(frozen=True, slots=True)
class _Trainings:
    store: Store
    replicate: Replicate
    webhook: WebhookAddress
    watcher: Watcher
    ask_later: Callable[[str], None] | None

    @raises(UserDeleted, KeyReused, StartRefused)
    async def start_training(self, body: StartTraining, response: Response, key: Key = None) -> TrainingView:
        """
        Write a training down and have Replicate run it. The user's current model stays in use until the new one works.

        202 where it is not known yet whether Replicate runs it. The same Idempotency-Key finds the same training.
        """
        if body.start and body.trainer is None:
            raise Invalid(Mistake(pointer="#/trainer", detail="is needed where modelswap starts the training"))
        idempotency = _idempotency(key, body.model_dump(mode="json"))
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
                replicate=self.replicate,
                trainings=self.store,
            )
        if record.failure is not None and record.failure.code == StartRefused.code:
            raise StartRefused(record.failure.reason)
        if record.training_id is None:
            response.status_code = HTTPStatus.ACCEPTED
        return training_view(record)

    @raises(adopting.NotAtReplicate, UserDeleted, RegisteredOtherwise)
    async def register_training(
        self, training_id: Annotated[TrainingId, Path()], body: RegisterTraining, response: Response
    ) -> TrainingView:
        """
        Write down a training that Replicate knows already; 201 or 202 the first time, 200 afterwards.

        Replicate is asked about it at once: if it has ended, its end is told as by its last webhook; if Replicate does
        not know it, the answer is 404 `no-such-training-at-replicate`. 202 where Replicate does not answer: then it is
        asked again. For what comes later, the training's webhooks must come to us.

        409 where it is registered with another user, destination, trainer or trigger word: none of them ever changes.
        """
        registration = _registration(body, total_steps=body.total_steps, training_id=training_id)
        adopted = await adopting.adopt(
            registration, training_id, replicate=self.replicate, trainings=self.store, ask_later=self.ask_later
        )
        if adopted.is_new:
            response.status_code = HTTPStatus.ACCEPTED if adopted.is_asked_later else HTTPStatus.CREATED
        return training_view(adopted.record)

    @raises(asking.NoTraining)
    async def get_training(self, training_id: Annotated[TrainingName, Path()]) -> TrainingView:
        """How far a training is, by Replicate's id or by our `ref`."""
        return training_view(await self._get(training_id))

    @raises(asking.NoTraining)
    async def follow_training(
        self, training_id: Annotated[TrainingName, Path()], last_event_id: Annotated[str | None, Header()] = None
    ) -> Response:
        """
        Follow a training as server-sent events: `stage` first and whenever that changes, `progress` in between.

        Each event's data is the training, as a GET answers it; `stage`, `progress`, `progress_source`, `step`,
        `eta_seconds` and, at the end, `reference` or `failure` are what changes. Whoever comes back with Last-Event-ID
        is told only of what is new. The stream ends after a stage that nothing follows by itself: active, replaced,
        superseded, failed, canceled, unverified.
        """
        record = await self._get(training_id)
        update = Update.of(record)
        if update.is_last and update.id == last_event_id:
            # The one answer after which browsers do not come back.
            return Response(status_code=HTTPStatus.NO_CONTENT)
        return EventStream(self.watcher, record, last_event_id)

    @raises(asking.NoTraining, asking.NotCancelable)
    async def cancel_training(self, training_id: Annotated[TrainingName, Path()]) -> TrainingView:
        """Ask Replicate to end a training. Its stage changes when Replicate says that it did."""
        record = await self._get(training_id)
        await asking.cancel(record, self.replicate)
        return training_view(record)

    @raises(asking.NoTraining)
    async def never_started(self, training_id: Annotated[TrainingName, Path()], body: NeverStarted) -> TrainingView:
        """
        Say that Replicate was never asked for a training: it fails, and its Idempotency-Key starts another one.

        Without effect where Replicate's id of it is known. If it turns out to run after all, it is requested again. No
        event says this: events name Replicate's id, and there is none.
        """
        record = await self._get(training_id)
        await self.store.fail_start(record, Failure(NOT_STARTED, body.reason))
        return await self.get_training(training_id)

    @raises(asking.NoTraining, asking.NotRetryable, KeyReused, UserDeleted)
    async def retry_extraction(self, training_id: Annotated[TrainingName, Path()], key: Key = None) -> TrainingView:
        """Look for the model of a training once more that succeeded without a usable one."""
        record = await self._get(training_id)
        idempotency = _idempotency(key, {"retry-extraction": str(record.ref)})
        return training_view(await self.store.look_again(record.user_id, record.ref, idempotency))

    @raises(asking.NoTraining, asking.NotRetryable, KeyReused, UserDeleted)
    async def retry_user_extraction(self, user_id: Annotated[UserId, Path()], key: Key = None) -> TrainingView:
        """The same for the user's newest training that succeeded, but has no model of its own."""
        idempotency = _idempotency(key, {"retry-extraction of user": user_id})
        return training_view(await self.store.look_again(user_id, None, idempotency))

    async def list_trainings(
        self, stage: Stage | None = None, user_id: UserId | None = None, limit: Limit = 50, cursor: Cursor = None
    ) -> Page[TrainingView]:
        """Trainings, newest first."""
        # One more than asked for tells whether there are more.
        before = from_cursor(cursor)
        found = await self.store.list_trainings(user_id=user_id, stage=stage, before=before, limit=limit + 1)
        return Page(
            items=[training_view(record) for record in found[:limit]],
            next_cursor=to_cursor(found[limit - 1].number) if len(found) > limit else None,
        )

    async def list_outputs(self, since: Moment, limit: OutputLimit = 20, cursor: Cursor = None) -> Page[OutputView]:
        """What came out of the trainings that were requested since then, newest first. For operators' tools."""
        found = await self.store.list_outputs(since=since, before=from_cursor(cursor), limit=limit + 1)
        return Page(
            items=[output_view(record) for record in found[:limit]],
            next_cursor=to_cursor(found[limit - 1].number) if len(found) > limit else None,
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

    async def _get(self, training_id: str) -> TrainingRecord:
        record = await self.store.find_training(parse_ref(training_id) or training_id)
        if record is None:
            raise asking.NoTraining(f"training {training_id} is not registered")
        return record


@dataclass(frozen=True, slots=True)
class _Models:
    store: Store

    @raises(asking.NoModel)
    async def get_model(
        self,
        user_id: Annotated[UserId, Path()],
        response: Response,
        if_none_match: Annotated[str | None, Header()] = None,
    ) -> ModelView | Response:
        """The model that a user uses now, whole; or 404 `no-model`, where they have none: not yet, or none any more."""
        record = await self.store.find_model(user_id)
        if record is None:
            raise asking.NoModel(f"user {user_id} has no model")
        headers = {"ETag": _etag(record), "Cache-Control": "private, no-cache"}
        if if_none_match is not None and headers["ETag"] in if_none_match:
            return Response(status_code=HTTPStatus.NOT_MODIFIED, headers=headers)
        response.headers.update(headers)
        return model_view(record)

    async def list_model_history(
        self, user_id: Annotated[UserId, Path()], limit: Limit = 50, cursor: Cursor = None
    ) -> Page[SwapView]:
        """Every change of a user's model, newest first."""
        found = await self.store.list_history(user_id, before=from_cursor(cursor), limit=limit + 1)
        return Page(
            items=[swap_view(record) for record in found[:limit]],
            next_cursor=to_cursor(found[limit - 1].generation) if len(found) > limit else None,
        )

    @raises(
        asking.NoModel,
        asking.NothingToRollBackTo,
        asking.AlreadyCurrent,
        asking.NotTheirs,
        asking.PreconditionFailed,
        KeyReused,
        UserDeleted,
    )
    async def roll_back_model(
        self,
        user_id: Annotated[UserId, Path()],
        body: RollBack,
        *,
        asker: Asker,
        response: Response,
        key: Key = None,
        if_match: Annotated[str | None, Header()] = None,
    ) -> ModelView:
        """
        Use an earlier model again, whatever was requested before this and is ready later.

        With If-Match (an ETag of the user's model) only if nobody else was faster.
        """
        order = asking.RollbackOrder(user_id, body.to, body.reason, asker.name, _generations(if_match))
        request = {"roll back": user_id, **body.model_dump(mode="json"), "actor": asker.name}
        idempotency = _idempotency(key, request)
        record = await self.store.roll_back(order, idempotency, is_dry_run=body.dry_run)
        if body.dry_run:
            return model_view(record).model_copy(update={"dry_run": True})
        response.headers["ETag"] = _etag(record)
        return model_view(record)

    @raises(asking.NoModel, asking.PreconditionFailed, KeyReused, UserDeleted)
    async def withdraw_model(
        self,
        user_id: Annotated[UserId, Path()],
        body: Withdraw,
        *,
        asker: Asker,
        key: Key = None,
        if_match: Annotated[str | None, Header()] = None,
    ) -> WithdrawalView:
        """
        Take a user's model away: the user has none afterwards, whatever was requested before this and is ready later.

        What is requested afterwards counts as always. With If-Match only if nobody else was faster.
        """
        order = asking.WithdrawalOrder(user_id, body.reason, asker.name, _generations(if_match))
        request = {"withdraw": user_id, **body.model_dump(mode="json"), "actor": asker.name}
        idempotency = _idempotency(key, request)
        view = withdrawal_view(await self.store.withdraw(order, idempotency, is_dry_run=body.dry_run))
        return view.model_copy(update={"dry_run": True}) if body.dry_run else view

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


class EventStream(Response):
    """Sends a client what it follows, until that ends, the client leaves, or it takes nothing any more."""

    media_type = "text/event-stream"

    def __init__(
        self,
        watcher: Watcher,
        record: TrainingRecord,
        last_event_id: str | None,
        *,
        send_seconds: float = _SEND_SECONDS,
    ) -> None:
        super().__init__(headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"})
        # Nobody knows how long it gets.
        del self.headers["content-length"]
        self._watcher = watcher
        self._record = record
        self._last_event_id = last_event_id
        self._send_seconds = send_seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002 (ASGI)
        with self._watcher.followed(self._record, self._last_event_id) as follower:
            sending = asyncio.create_task(self._send(follower, send))
            leaving = asyncio.create_task(_until_gone(receive))
            try:
                await asyncio.wait((sending, leaving), return_when=asyncio.FIRST_COMPLETED)
            finally:
                sending.cancel()
                leaving.cancel()
                await asyncio.gather(sending, leaving, return_exceptions=True)

    async def _send(self, follower: Follower, send: Send) -> None:
        async def send_soon(message: Message) -> None:
            async with asyncio.timeout(self._send_seconds):
                await send(message)

        # The server hangs up on whom it can not send the end.
        with contextlib.suppress(TimeoutError):
            await send_soon({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
            async with contextlib.aclosing(follower.chunks()) as chunks:
                async for chunk in chunks:
                    await send_soon({"type": "http.response.body", "body": chunk, "more_body": True})
            await send_soon({"type": "http.response.body", "body": b"", "more_body": False})


async def _until_gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


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


def _idempotency(key: str | None, request: Mapping[str, JsonValue]) -> IdempotencyKey | None:
    """*request* is all that makes a request this one and no other."""
    if key is None:
        return None
    return IdempotencyKey(key, hashlib.sha256(json.dumps(request, sort_keys=True).encode()).hexdigest())


def _etag(record: ModelRecord) -> str:
    return f'"{record.generation}"'


def _generations(if_match: str | None) -> Collection[int] | None:
    """The generations that If-Match allows; None: any."""
    if if_match is None or if_match.strip() == "*":
        return None
    tags = (_ETAG.fullmatch(tag.strip()) for tag in if_match.split(","))
    return {int(tag[1]) for tag in tags if tag}
