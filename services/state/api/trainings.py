"""Requests about trainings. Edge."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from http import HTTPStatus
from operator import attrgetter
from typing import Annotated, Final, Protocol

from fastapi import Header, Path, Query, Response

from services.state import adopting, starting
from services.state.changes import Failure
from services.state.extraction import NoOutput, NoTraining, NotRetryable
from services.state.registration import NOT_STARTED, RegisteredOtherwise, Registration, UserDeleted
from services.state.requests import FindTrainings, NeverStarted, RegisterTraining, StartTraining
from services.state.starting import NotCancelable, StartRefused, cancel, start
from services.state.store import Store
from services.state.streams import Update, Watcher
from services.state.transitions import Stage
from services.state.views import OutputView, TrainingView
from shared.contract.answers import END, Mistake, Moment, Page
from shared.contract.idempotency import IdempotencyKey, KeyReused
from shared.contract.identity import TrainingId, TrainingName, UserId, parse_ref
from shared.replicate.progress import configured_steps
from shared.replicate.webhook_url import Claim, webhook_url
from shared.runtime.description import raises
from shared.runtime.http import Cursor, Invalid, Key, Limit, from_cursor, page_of
from shared.runtime.sse import EventStream

#: An output may be half a megabyte.
OutputLimit = Annotated[int, Query(ge=1, le=50)]

_number: Final = attrgetter("number")


class Replicate(starting.Replicate, adopting.Replicate, Protocol):
    """Replicate's API."""


@dataclass(frozen=True, slots=True)
class WebhookAddress:
    """Makes the addresses that Replicate posts webhooks to."""

    public_url: str
    secrets: Sequence[str] = field(repr=False)

    def of(self, record: TrainingView) -> str:
        claim = Claim(record.ref, record.destination, record.total_steps, record.user_id)
        return webhook_url(self.public_url, claim, self.secrets)


@dataclass(frozen=True, slots=True)
class Trainings:
    """Handlers of requests about trainings."""

    store: Store
    replicate: Replicate
    webhook: WebhookAddress
    watcher: Watcher
    ask_later: Callable[[str], None] | None

    @raises(UserDeleted, KeyReused, StartRefused)
    async def start_training(self, body: StartTraining, response: Response, key: Key = None) -> TrainingView:
        """
        Register a training and have Replicate run it. The user's current model stays in use until the new one works.

        202 if it is not known yet whether Replicate runs it. The same Idempotency-Key returns the same training.
        """
        if body.start and body.trainer is None:
            raise Invalid(Mistake(pointer="#/trainer", detail="is needed where modelswap starts the training"))
        idempotency = IdempotencyKey.of(key, body.model_dump(mode="json"))
        record, is_new = await self.store.register(
            Registration.of(body, total_steps=body.total_steps or configured_steps(body.input)), idempotency
        )
        if not body.start:
            return record.model_copy(update={"webhook_url": self.webhook.of(record)})
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
        return record

    @raises(adopting.NotAtReplicate, UserDeleted, RegisteredOtherwise)
    async def register_training(
        self, training_id: Annotated[TrainingId, Path()], body: RegisterTraining, response: Response
    ) -> TrainingView:
        """
        Register a training that Replicate runs already; 201 or 202 the first time, 200 afterwards.

        Replicate is asked about it at once: if it has ended, its result is used as from its last webhook; if Replicate
        does not know it, the answer is 404 `no-such-training-at-replicate`. 202 if Replicate does not answer: then it
        is asked again. Later events need the training's webhooks to be posted to modelswap.

        409 if it is registered with another user, destination, trainer or trigger word: none of them ever changes.
        """
        registration = Registration.of(body, total_steps=body.total_steps, training_id=training_id)
        adopted = await adopting.adopt(
            registration, training_id, replicate=self.replicate, trainings=self.store, ask_later=self.ask_later
        )
        if adopted.is_new:
            response.status_code = HTTPStatus.ACCEPTED if adopted.is_asked_later else HTTPStatus.CREATED
        return adopted.record

    @raises(NoTraining)
    async def get_training(self, training_id: Annotated[TrainingName, Path()]) -> TrainingView:
        """Return a training by Replicate's id or by its `ref`."""
        return await self._get(training_id)

    async def find_trainings(self, body: FindTrainings) -> Page[TrainingView]:
        """Return those trainings of these ids of Replicate's that are registered, in any order, on one page."""
        return Page(items=await self.store.find_trainings_by_id(body.training_ids), next_cursor=None)

    @raises(NoTraining, NoOutput)
    async def get_output(self, training_id: Annotated[TrainingName, Path()]) -> OutputView:
        """Return the output of a training as Replicate sent it; 404 `no-output` if it has sent none."""
        record = await self._get(training_id)
        found = await self.store.find_output(record.ref)
        if found is None:
            raise NoOutput(f"training {training_id} has no output")
        return found

    @raises(NoTraining)
    async def follow_training(
        self, training_id: Annotated[TrainingName, Path()], last_event_id: Annotated[str | None, Header()] = None
    ) -> Response:
        """
        Follow a training as server-sent events: `stage` first and whenever it changes, `progress` in between.

        Each event's data is the training as returned by a GET; `stage`, `progress`, `progress_source`, `step`,
        `eta_seconds` and, at the end, `reference` or `failure` change. With Last-Event-ID only newer events are sent.
        The stream ends after one of the stages active, replaced, superseded, failed, canceled and unverified.
        """
        record = await self._get(training_id)
        update = Update.of(record)
        if update.is_last and update.id == last_event_id:
            # Browsers reconnect after any other answer.
            return Response(status_code=HTTPStatus.NO_CONTENT)
        return EventStream(partial(self.watcher.followed, record, last_event_id))

    @raises(NoTraining, NotCancelable)
    async def cancel_training(self, training_id: Annotated[TrainingName, Path()]) -> TrainingView:
        """Ask Replicate to end a training. Its stage changes when Replicate reports the end."""
        record = await self._get(training_id)
        await cancel(record, self.replicate)
        return record

    @raises(NoTraining)
    async def never_started(self, training_id: Annotated[TrainingName, Path()], body: NeverStarted) -> TrainingView:
        """
        Mark a training that Replicate was never asked to run as failed; its Idempotency-Key can start another one.

        No effect if Replicate's id of it is known. If it runs after all, it is requested again. No event is published:
        events need Replicate's id.
        """
        record = await self._get(training_id)
        await self.store.fail_start(record, Failure(NOT_STARTED, body.reason))
        return await self.get_training(training_id)

    @raises(NoTraining, NotRetryable, KeyReused, UserDeleted)
    async def retry_extraction(self, training_id: Annotated[TrainingName, Path()], key: Key = None) -> TrainingView:
        """Extract the model of a training again that succeeded without a usable one."""
        record = await self._get(training_id)
        idempotency = IdempotencyKey.of(key, {"retry-extraction": str(record.ref)})
        return await self.store.retry_extraction(record.user_id, record.ref, idempotency)

    @raises(NoTraining, NotRetryable, KeyReused, UserDeleted)
    async def retry_user_extraction(self, user_id: Annotated[UserId, Path()], key: Key = None) -> TrainingView:
        """Extract the model of the user's newest training again that succeeded without a model of its own."""
        idempotency = IdempotencyKey.of(key, {"retry-extraction of user": user_id})
        return await self.store.retry_extraction(user_id, None, idempotency)

    async def list_trainings(
        self, stage: Stage | None = None, user_id: UserId | None = None, limit: Limit = 50, cursor: Cursor = None
    ) -> Page[TrainingView]:
        """Return trainings, newest first."""
        before = from_cursor(cursor, END)
        found = await self.store.list_trainings(user_id=user_id, stage=stage, before=before, limit=limit + 1)
        return page_of(found, limit, _number)

    async def list_outputs(
        self, since: Moment, stage: Stage | None = None, limit: OutputLimit = 20, cursor: Cursor = None
    ) -> Page[OutputView]:
        """Return the outputs of trainings requested since then, newest first. For operators' tools."""
        before = from_cursor(cursor, END)
        found = await self.store.list_outputs(since=since, stage=stage, before=before, limit=limit + 1)
        return page_of(found, limit, _number)

    async def list_user_trainings(
        self,
        user_id: Annotated[UserId, Path()],
        stage: Stage | None = None,
        limit: Limit = 50,
        cursor: Cursor = None,
    ) -> Page[TrainingView]:
        """Return a user's trainings, newest first."""
        return await self.list_trainings(stage, user_id, limit, cursor)

    async def _get(self, training_id: str) -> TrainingView:
        record = await self.store.find_training(parse_ref(training_id) or training_id)
        if record is None:
            raise NoTraining(f"training {training_id} is not registered")
        return record
