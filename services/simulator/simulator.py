"""Simulator: posts the webhooks of trainings and predictions (jobs) when they are due, with one task per job. Edge."""

from __future__ import annotations

import asyncio
import base64
import hashlib
from collections import Counter, deque
from collections.abc import Coroutine, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from http import HTTPStatus
from typing import Any, Final, TypeVar

import structlog

from services.simulator.faults import FaultOrder, WebhookEvent
from services.simulator.knobs import Knobs
from services.simulator.prediction import Prediction
from services.simulator.schedule import LOG_INTERVAL_SECONDS, RETRY_DELAYS_SECONDS, Due, message_id, webhooks
from services.simulator.store import Store
from services.simulator.training import Training
from services.simulator.world import Kept, World
from shared.replicate.signature import signed_headers
from shared.runtime import clock
from shared.runtime.client import HttpClient, Unanswered

log = structlog.get_logger()

_T = TypeVar("_T")

#: httpx scans all connections on every request, so more connections would be slower.
_POSTS_AT_ONCE: Final = 32
#: How many attempts are kept.
_MEMORY: Final = 100_000
_SECRET_BYTES: Final = 24


@dataclass(frozen=True, slots=True)
class Attempt:
    """One attempt to post one webhook."""

    #: Or the id of the prediction.
    training_id: str
    webhook_id: str
    event: WebhookEvent
    #: 1-based number of this attempt of the webhook.
    number: int
    at: datetime
    #: Status of the receiver's response; None if there was none.
    status: int | None

    @property
    def is_taken(self) -> bool:
        return self.status is not None and HTTPStatus.OK <= self.status < HTTPStatus.MULTIPLE_CHOICES


class Simulator:
    """
    Simulates Replicate, except for its HTTP API (see `app`); *knobs* are the fields of `Knobs`. Close it.

    With a *store*, which has its own seed, its state is persisted; `resume` restores it.
    """

    def __init__(self, *, store: Store | None = None, **knobs: Any) -> None:
        self.knobs = Knobs(**knobs)
        self._store = store
        self.world = World(self.knobs, restarts=store.restarts if store else 0, changed=self.changed)
        #: The latest attempts, oldest first.
        self.attempts: deque[Attempt] = deque(maxlen=_MEMORY)
        #: Number of calls of each API route and id ("" for a route without one).
        self.calls: Counter[tuple[str, str]] = Counter()
        #: Signs the webhooks.
        self.secret = self.knobs.secret or self._make_secret("0")
        self._client = HttpClient("")
        self._turns = asyncio.Semaphore(_POSTS_AT_ONCE)
        self._tasks: set[asyncio.Task[object]] = set()
        #: The task that posts a job's webhooks, and the simulated second up to which they were posted.
        self._followers: dict[str, asyncio.Task[None]] = {}
        self._reached: dict[str, float] = {}
        #: Number of attempts of each webhook.
        self._left: Counter[str] = Counter()

    def now(self) -> datetime:
        return clock.now()

    def order(self, order: FaultOrder) -> bool:
        """Apply a fault order; return False if its training does not run."""
        if order.training_id is None:
            self.world.orders.add(order)
            return True
        training = self.world.find_training(order.training_id)
        if training is None or training.has_ended(training.seconds(self.now())):
            return False
        self.world.change_training(training, order, now=self.now())
        return True

    def resume(self) -> None:
        """Restore the state of the store, and post unsent webhooks. Needs a running event loop."""
        if self._store is None:
            return
        kept = list(self._store.kept())
        self.world.restore(item for item, _ in kept)
        for item, is_reported in kept:
            if isinstance(item, Training | Prediction) and not is_reported:
                # The product may start after the simulator, so the retries span a real minute.
                self._follow(item, retry_delays=RETRY_DELAYS_SECONDS)

    async def settled(self) -> None:
        """Wait until every job with a webhook has ended, and its webhooks were accepted or gave up retrying."""
        while self._tasks:
            await asyncio.wait(self._tasks)

    async def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._client.__aexit__()

    def changed(self, item: Kept) -> None:
        """Store a new or changed *item* of the world; post the webhooks of a job as it is now."""
        if self._store is not None:
            self._store.keep(item)
        if isinstance(item, Training | Prediction):
            self._follow(item)

    def _follow(self, job: Training | Prediction, *, retry_delays: Sequence[float] = ()) -> None:
        """Post the webhooks of *job* as they become due, instead of those of its earlier state."""
        if before := self._followers.pop(job.id, None):
            before.cancel()
        if job.webhook:
            self._followers[job.id] = self._begin(self._post_all(job, retry_delays))

    async def _post_all(self, job: Training | Prediction, retry_delays: Sequence[float]) -> None:
        interval = max(LOG_INTERVAL_SECONDS, self.knobs.log_interval_real_seconds * job.speed)
        telling: asyncio.Task[Attempt] | None = None
        reported_until = self._reached.get(job.id, -1)
        for due in webhooks(job, log_interval_seconds=interval):
            if due.at <= reported_until:
                continue
            await self._until(job, due.at)
            self._reached[job.id] = due.at
            if due.event is WebhookEvent.COMPLETED:
                await self._post_terminal(job, due, retry_delays)
            elif due.event is WebhookEvent.LOGS and due.is_on_time:
                # Each logs webhook repeats the log so far, so an overdue one is skipped.
                is_overdue = job.seconds(self.now()) > due.at + interval
                if not is_overdue and (telling is None or telling.done()):
                    telling = self._post(job, due)
            else:
                self._post(job, due)
        del self._followers[job.id]
        self._reached.pop(job.id, None)

    async def _until(self, job: Training | Prediction, at: float) -> None:
        # The event loop keeps its own time and may wake us a little early.
        while (left := at - job.seconds(self.now())) > 0:  # noqa: ASYNC110 (time sets no event)
            await asyncio.sleep(left / job.speed)

    def _post(self, job: Training | Prediction, due: Due) -> asyncio.Task[Attempt]:
        """Post a webhook without waiting for it: only the terminal one is awaited, so others may overtake it."""
        for _ in range(job.faults.duplicate):
            self._begin(self._attempt(job, due))
        return self._begin(self._attempt(job, due))

    async def _post_terminal(self, job: Training | Prediction, due: Due, retry_delays: Sequence[float]) -> None:
        first = await self._attempt(job, due)
        if first.is_taken:
            self._forget_webhooks(job)
        else:
            self._begin(self._retry(job, due, retry_delays))
        for _ in range(job.faults.duplicate):
            self._begin(self._attempt(job, due))

    async def _retry(self, job: Training | Prediction, due: Due, delays: Sequence[float]) -> None:
        replicates = tuple(delay / job.speed for delay in RETRY_DELAYS_SECONDS)
        for delay in delays or self.knobs.retry_delays_real_seconds or replicates:
            await asyncio.sleep(delay)
            if (await self._attempt(job, due)).is_taken:
                break
        self._forget_webhooks(job)

    def _forget_webhooks(self, job: Training | Prediction) -> None:
        """Record that the terminal webhook was accepted or gave up, so that a restart posts nothing again."""
        if self._store is not None:
            self._store.mark_reported(job)

    async def _attempt(self, job: Training | Prediction, due: Due) -> Attempt:
        webhook_id = message_id(job, due)
        async with self._turns:
            body = job.webhook_body(due.as_of)
            now = self.now()
            self._left[webhook_id] += 1
            number = self._left[webhook_id]
            headers = self._headers(job, webhook_id, int(now.timestamp()), body)
            status = await self._post_once(job.webhook, body, headers)
        attempt = Attempt(job.id, webhook_id, due.event, number, now, status)
        self.attempts.append(attempt)
        return attempt

    async def _post_once(self, url: str, body: bytes, headers: Mapping[str, str]) -> int | None:
        """Post *body*; return the response's status, or None if there was no response."""
        seconds = self.knobs.webhook_timeout_real_seconds
        try:
            return (await self._client.request("POST", url, content=body, headers=headers, seconds=seconds)).status_code
        except Unanswered:
            return None

    def _headers(self, job: Training | Prediction, webhook_id: str, now: int, body: bytes) -> dict[str, str]:
        timestamp = now - job.faults.old_timestamp_seconds
        secret = self._make_secret("wrong") if job.faults.bad_signature else self.secret
        return {"content-type": "application/json", **signed_headers([secret], webhook_id, timestamp, body)}

    def _make_secret(self, name: str) -> str:
        digest = hashlib.sha256(f"{self.knobs.seed}:secret:{name}".encode()).digest()
        return "whsec_" + base64.b64encode(digest[:_SECRET_BYTES]).decode()

    def _begin(self, work: Coroutine[None, None, _T]) -> asyncio.Task[_T]:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._forget)
        return task

    def _forget(self, task: asyncio.Task[object]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()):
            log.error("simulator.broke", exc_info=error)
