"""The screens of queues, processes and webhooks: the state of each, and what needs an operator. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final, TypeAlias
from uuid import UUID

from markupsafe import Markup
from pydantic import BaseModel

from services.ops.console.views import charts
from services.ops.console.views.formats import NOTHING, number, percent
from services.ops.processes.views import Processes, ProcessView, Queues, QueueView
from services.ops.reconcile.views import WHILE_AWAY, Reconciliation
from services.ops.subscriptions.views import SubscriptionView
from shared.contract.health import ProcessState, how_to_start
from shared.contract.text import plural

#: Its kind and its word.
Badge: TypeAlias = tuple[str, str]
_PROCESS: Final = {
    ProcessState.READY: ("good", "ready"),
    ProcessState.LIMITED: ("warn", "limited"),
    ProcessState.NOT_READY: ("bad", "not ready"),
    ProcessState.HANGS: ("bad", "hangs"),
    ProcessState.AWAY: ("bad", "away"),
    ProcessState.UNKNOWN: ("bad", "unknown"),
}
#: The statuses of deliveries, as they are offered.
STATUSES: Final = ("failed", "retrying", "waiting", "queued", "delivered")
#: How far back deliveries can be sent again: they are kept for 30 days.
PERIODS: Final[Mapping[str, timedelta]] = {
    "the last hour": timedelta(hours=1),
    "the last day": timedelta(days=1),
    "the last 7 days": timedelta(days=7),
    "the last 30 days": timedelta(days=30),
}
_CONCERN: Final = ("bad", "warn")
_RUNBOOK: Final = '"{}" in deploy/runbook.md'
REMEDY_OF_PAUSED: Final = _RUNBOOK.format("A consumer waits")


class EndpointAnswer(BaseModel):
    """A webhook endpoint."""

    id: UUID
    url: str
    events: Sequence[str]
    description: str
    status: str
    status_at: datetime
    failing_since: datetime | None
    failed_attempts: int
    last_success_at: datetime | None

    @property
    def state(self) -> str:
        """Its status; also whether it has errors before it is disabled for them."""
        return "errors" if self.status == "enabled" and self.failing_since is not None else self.status


class DeliveryAnswer(BaseModel):
    """The delivery of one event to one endpoint, and its last attempt."""

    id: UUID
    event: str
    event_id: str
    status: str
    status_at: datetime
    attempts: int
    response_status: int | None
    response: str | None
    took_ms: int | None

    @property
    def last_attempt(self) -> str:
        """The last attempt in a few words."""
        if not self.attempts:
            return "no attempt yet"
        answered = "no response" if self.response_status is None else f"answered {self.response_status}"
        return answered if self.took_ms is None else f"{answered} after {self.took_ms} ms"


class EventDeliveryAnswer(DeliveryAnswer):
    """The same, with the endpoint's address."""

    url: str


class WebhookStatistics(BaseModel):
    """Trainings that ended, and those whose end no webhook reported."""

    ended: int
    missed: int
    missed_share: float | None


class HourWebhooks(WebhookStatistics):
    """Ends of trainings in the hour from then on."""

    hour: datetime


class WebhooksAnswer(BaseModel):
    """Ends of trainings in the last hours, the oldest first."""

    total: WebhookStatistics
    items: Sequence[HourWebhooks]

    @property
    def share(self) -> str:
        return NOTHING if self.total.missed_share is None else percent(self.total.missed_share)

    @property
    def sentence(self) -> str:
        period = f"In {plural(len(self.items), 'hour')}"
        if not self.total.ended:
            return f"{period}, no training ended."
        ended = plural(self.total.ended, "training")
        return f"{period}, {number(self.total.missed)} of {ended} ended without a webhook."

    @property
    def chart(self) -> Markup | None:
        """Missed webhooks per hour; None if there are none."""
        if not self.total.missed:
            return None
        points = [
            charts.Point(each.missed, f"{number(each.missed)} of {number(each.ended)} missed", each.hour)
            for each in self.items
        ]
        return charts.bars(points, sentence=f"Missed webhooks per hour: {self.sentence}", kind="warn")


@dataclass(frozen=True, slots=True)
class Concern:
    """Something that is not as it should be: bad needs an operator now, warn soon, info will pass."""

    kind: str
    what: str
    text: str = ""
    #: What to do; empty: nothing is known.
    then: str = ""
    #: The page that shows it.
    address: str = "/queues"


def process_badge(process: ProcessView) -> Badge:
    return _PROCESS[process.state]


def queue_badge(queue: QueueView) -> Badge:
    if queue.paused:
        return "bad", "paused"
    if queue.problem:
        return ("warn", "stuck") if queue.consumers else ("bad", "no consumer")
    if queue.ready is None:
        return "quiet", "not known"
    if not queue.consumers:
        return "quiet", "no consumer"
    return ("info", "working") if queue.ready or queue.unacked else ("good", "empty")


def subscription_badge(subscription: SubscriptionView) -> Badge:
    if subscription.overflowed:
        return "bad", "overflowed"
    if not subscription.consumers:
        return "warn" if subscription.waiting else "quiet", "no consumer"
    return ("info", "behind") if subscription.waiting else ("good", "up to date")


def health_concerns(
    processes: Processes | None,
    queues: Queues | None,
    reconciliation: Reconciliation | None,
    subscriptions: Sequence[SubscriptionView],
    endpoints: Sequence[EndpointAnswer],
) -> list[Concern]:
    """Return what needs an operator, the worst first; what could not be asked is None."""
    found = [
        *map(_process, processes.processes if processes else ()),
        *map(_queue, queues.queues if queues else ()),
        *_reconciliation(reconciliation),
        *map(_subscription, subscriptions),
        *(_endpoint(each) for each in endpoints if each.status in ("gone", "failing")),
    ]
    return sorted((each for each in found if each.kind in _CONCERN), key=lambda concern: concern.kind != "bad")


def _process(process: ProcessView) -> Concern:
    kind, word = process_badge(process)
    return Concern(kind, f"{process.name}: {word}", process.detail, process.then)


def _queue(queue: QueueView) -> Concern:
    kind, word = queue_badge(queue)
    waiting = f", {number(queue.ready)} wait" if queue.ready else ""
    return Concern(kind, f"{queue.name}: {word}{waiting}", queue.paused or queue.problem or "", _remedy(queue))


def _remedy(queue: QueueView) -> str:
    if queue.paused:
        return REMEDY_OF_PAUSED
    if queue.process and not queue.consumers:
        return how_to_start(queue.process)
    return f"read the log of {queue.process}"


def _reconciliation(found: Reconciliation | None) -> Iterator[Concern]:
    if found is None:
        return
    if found.webhooks_seem_lost:
        ended = plural(found.recovered.last_hour, "training")
        text = f"{ended} ended in the last hour without one, and were found by asking Replicate."
        yield Concern(
            "bad", "Webhooks do not arrive", text, f"{_RUNBOOK.format('Webhooks do not arrive')}; {WHILE_AWAY}"
        )
    if found.last_round.trouble:
        then = _RUNBOOK.format("A loop fails")
        yield Concern("warn", "The reconciler's last round failed", found.last_round.trouble, then)


def _subscription(found: SubscriptionView) -> Concern:
    kind, _ = subscription_badge(found)
    if found.overflowed:
        left = plural(found.overflowed, "event")
        text = f"In {found.overflow_queue}: {left} that did not fit or had been delivered too often."
    else:
        text = f"{plural(found.waiting, 'event waits', 'events wait')}, and no service consumes the queue."
    return Concern(kind, f"subscription {found.name}", text, f"modelswap subscriptions show {found.name}")


def _endpoint(endpoint: EndpointAnswer) -> Concern:
    why = "It answered 410 Gone" if endpoint.status == "gone" else "Every attempt of five days failed"
    text = f"{why}. Its deliveries wait until it is enabled again."
    return Concern("bad", f"webhooks to {endpoint.url}", text, address=f"/queues/webhooks/{endpoint.id}")
