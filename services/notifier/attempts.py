"""
One attempt at a delivery, and what follows from it. Pure.

    2xx                              delivered
    410                              the endpoint is disabled; this delivery is a dead letter
    anything else, or no response    retried with the delays of the broker runtime, for 3 days; then a dead letter
    429 or 503 with Retry-After      no request to this endpoint before that time, at most one hour

An endpoint that is slow, or fails, holds up no other: only a few requests to one endpoint run at a time, one if the
last one failed. A delivery beyond that limit takes no place in the consumer: it waits in a delay, and no attempt is
counted.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from typing import Final, Protocol
from uuid import UUID

import structlog

from services.notifier.message import CONTENT_TYPE, StoredEvent, stored
from services.notifier.signing import Seeds, Signer
from services.notifier.views import DeliveryStatus, EndpointStatus
from shared.contract.envelope import Envelope
from shared.contract.errors import PermanentError, TransientError
from shared.contract.events import DeliveryRequested, Event, ReplaySettled
from shared.contract.topology import DELIVERIES_QUEUE
from shared.contract.values import Effect

log = structlog.get_logger()

_LONGEST_RETRY_AFTER: Final = timedelta(hours=1)
_RETRY_AFTER: Final = (HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.SERVICE_UNAVAILABLE)


class EndpointBusy(TransientError):
    """The endpoint has as many requests as it may have now, or asked for a pause."""

    code = "endpoint_busy"
    is_patient = True
    is_untried = True


class NotAccepted(TransientError):
    """The endpoint did not accept a delivery; it is retried."""

    code = "webhook_not_accepted"
    is_patient = True


class GivenUp(PermanentError):
    """The endpoint did not accept a delivery in time, or said that it is gone."""

    code = "webhook_given_up"
    codes = ("webhook_given_up", "webhook_endpoint_gone")


@dataclass(frozen=True, slots=True)
class Answer:
    """The response of an endpoint."""

    #: None: there was no response.
    status: int | None
    #: The beginning of the response, or why there was none.
    text: str
    took_ms: int
    #: The header Retry-After.
    retry_after: str = ""

    @property
    def is_accepted(self) -> bool:
        return self.status is not None and HTTPStatus(200) <= self.status < HTTPStatus(300)

    def __str__(self) -> str:
        return f"answered {self.status}" if self.status else f"gave no answer: {self.text}"


@dataclass(frozen=True, slots=True)
class Sending:
    """What an attempt needs to know of a delivery."""

    event_id: str
    event: str
    body: str
    sent_at: datetime | None
    url: str
    endpoint: EndpointStatus
    #: Its last request failed.
    is_failing: bool
    not_before: datetime | None
    seeds: Seeds


@dataclass(frozen=True, slots=True)
class End:
    """The end of an attempt, to be stored."""

    status: DeliveryStatus
    answer: Answer
    at: datetime
    #: No request to the endpoint before this time.
    not_before: datetime | None = None
    is_gone: bool = False


class Store(Protocol):
    """The deliveries."""

    async def add(self, events: Sequence[StoredEvent]) -> None: ...

    async def find(self, asked: DeliveryRequested) -> Sending | None: ...

    async def hold(self, asked: DeliveryRequested) -> None: ...

    async def record(self, asked: DeliveryRequested, end: End, *, url: str) -> EndpointStatus | None: ...


#: Posts a body with headers to a URL. Never raises.
Post = Callable[[str, bytes, Mapping[str, str]], Awaitable[Answer]]


class Slots:
    """Limits the requests to one endpoint that run at a time in this process."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._taken: Counter[UUID] = Counter()

    @contextmanager
    def taken(self, endpoint_id: UUID, *, is_failing: bool) -> Iterator[None]:
        """
        Take one of the endpoint's places; there is only one if its last request failed.

        Raises:
            EndpointBusy: if there is none.

        """
        if self._taken[endpoint_id] >= (1 if is_failing else self._limit):
            raise EndpointBusy(f"webhook endpoint {endpoint_id} has enough requests underway")
        self._taken[endpoint_id] += 1
        try:
            yield
        finally:
            self._taken[endpoint_id] -= 1
            if not self._taken[endpoint_id]:
                del self._taken[endpoint_id]


class Attempts:
    """The handler of queue `modelswap.deliveries`."""

    def __init__(
        self,
        store: Store,
        post: Post,
        signer: Signer,
        slots: Slots,
        *,
        now: Callable[[], datetime],
        give_up_after: timedelta,
    ) -> None:
        self._store = store
        self._post = post
        self._signer = signer
        self._slots = slots
        self._now = now
        self._give_up_after = give_up_after

    async def handle(self, envelope: Envelope) -> Sequence[Event]:
        """
        Make one attempt; or store the deliveries of a public event, which is a replayed dead letter of the reader.

        Raises:
            Malformed: if it is neither.
            EndpointBusy, NotAccepted: if the delivery is to be retried.
            GivenUp: if it is to be a dead letter.

        """
        asked = envelope.event
        if not isinstance(asked, DeliveryRequested):
            await self._store.add([stored(envelope)])
            return settled(envelope, Effect.DELIVERED)
        return settled(envelope, await self._attempt(asked, envelope.trace))

    async def _attempt(self, asked: DeliveryRequested, trace: Mapping[str, str]) -> Effect:
        ids = {"endpoint_id": str(asked.endpoint_id), "delivery_id": str(asked.delivery_id)}
        sending = await self._store.find(asked)
        if sending is None:
            log.info("webhook.ignored", reason="delivered, sent again, or removed", **ids)
            return Effect.NOTHING
        if sending.endpoint is not EndpointStatus.ENABLED:
            await self._store.hold(asked)
            log.info("webhook.held", reason=f"the endpoint is {sending.endpoint}", **ids)
            return Effect.NOTHING
        now = self._now()
        if sending.not_before is not None and now < sending.not_before:
            busy = EndpointBusy(f"webhook endpoint {asked.endpoint_id} asked for no request before a time")
            busy.retry_after_seconds = (sending.not_before - now).total_seconds()
            raise busy
        with self._slots.taken(asked.endpoint_id, is_failing=sending.is_failing):
            end, status = await self._send(asked, sending, trace)
        if status is None:
            # The retry finds what is to be done now.
            raise NotAccepted(f"webhook endpoint {asked.endpoint_id} {end.answer}, but that is out of date")
        if status in (EndpointStatus.GONE, EndpointStatus.FAILING):
            hint = "deploy/runbook.md: A webhook endpoint is disabled"
            log.error("webhook.endpoint_disabled", status=status, detail=str(end.answer), hint=hint, **ids)
        return self._say(asked, end, ids, sending)

    async def _send(
        self, asked: DeliveryRequested, sending: Sending, trace: Mapping[str, str]
    ) -> tuple[End, EndpointStatus | None]:
        """Post it, and store the end; return that, and what the store says of the endpoint."""
        now, body = self._now(), sending.body.encode()
        signed = self._signer.headers(sending.seeds.at(now), sending.event_id, now, body)
        answer = await self._post(sending.url, body, {"content-type": CONTENT_TYPE, **trace, **signed})
        end = judge(answer, sent_at=sending.sent_at or now, now=self._now(), give_up_after=self._give_up_after)
        return end, await self._store.record(asked, end, url=sending.url)

    def _say(self, asked: DeliveryRequested, end: End, ids: Mapping[str, str], sending: Sending) -> Effect:
        said = f"webhook endpoint {asked.endpoint_id} {end.answer} to {sending.event} {sending.event_id}"
        match end.status:
            case DeliveryStatus.DELIVERED:
                log.info("webhook.delivered", status=end.answer.status, took_ms=end.answer.took_ms, **ids)
                return Effect.DELIVERED
            case DeliveryStatus.FAILED:
                raise GivenUp(said, code="webhook_endpoint_gone" if end.is_gone else None)
        error = NotAccepted(said)
        if end.not_before is not None:
            error.retry_after_seconds = (end.not_before - end.at).total_seconds()
        raise error


def judge(answer: Answer, *, sent_at: datetime, now: datetime, give_up_after: timedelta) -> End:
    """Decide what follows from *answer* for a delivery that was sent first at *sent_at*."""
    if answer.is_accepted:
        return End(DeliveryStatus.DELIVERED, answer, now)
    if answer.status == HTTPStatus.GONE:
        return End(DeliveryStatus.FAILED, answer, now, is_gone=True)
    told = retry_after(answer.retry_after, now) if answer.status in _RETRY_AFTER else None
    status = DeliveryStatus.FAILED if now - sent_at >= give_up_after else DeliveryStatus.RETRYING
    return End(status, answer, now, not_before=None if told is None else now + told)


def retry_after(header: str, now: datetime) -> timedelta | None:
    """Return the wait that a Retry-After *header* asks for, at most one hour; None if it is invalid."""
    if header.isascii() and header.isdecimal():
        seconds = min(float(header), _LONGEST_RETRY_AFTER.total_seconds())
    else:
        try:
            moment = parsedate_to_datetime(header)
        except (ValueError, OverflowError, IndexError):
            return None
        seconds = (moment.replace(tzinfo=moment.tzinfo or UTC) - now).total_seconds()
    return min(timedelta(seconds=math.ceil(seconds)), _LONGEST_RETRY_AFTER) if seconds > 0 else None


def settled(envelope: Envelope, effect: Effect) -> Sequence[Event]:
    """Return the event that reports the outcome of a replayed message; none if it was not replayed."""
    if envelope.replay is None:
        return ()
    return [
        ReplaySettled(
            training_id=envelope.event.training_id,
            replay=envelope.replay,
            queue=DELIVERIES_QUEUE,
            settled_by=envelope.id,
            event=envelope.routing_key,
            effect=effect,
        )
    ]
