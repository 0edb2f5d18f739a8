"""The screen of queues and processes: what the APIs answer → rows with a state, and what needs an operator. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final, Generic, TypeVar

from services.ops.console.answers import EndpointAnswer
from services.ops.console.views.formats import number
from services.ops.console.views.kinds import kind
from services.ops.console.views.webhooks import state_of
from services.ops.processes.views import Processes, ProcessView, QueueKind, Queues, QueueView, Source
from services.ops.reconcile.views import WHILE_AWAY, Reconciliation, RecoveryView
from services.ops.subscriptions.views import SubscriptionView
from shared.contract.health import ProcessState, how_to_start
from shared.contract.text import plural

T = TypeVar("T")

#: Kind and word of the badge of a process.
_PROCESS: Final = {
    ProcessState.READY: ("good", "ready"),
    ProcessState.LIMITED: ("warn", "limited"),
    ProcessState.NOT_READY: ("bad", "not ready"),
    ProcessState.HANGS: ("bad", "hangs"),
    ProcessState.AWAY: ("bad", "away"),
    ProcessState.UNKNOWN: ("bad", "unknown"),
}
_CONCERN: Final = ("bad", "warn")
_RUNBOOK: Final = '"{}" in deploy/runbook.md'
REMEDY_OF_PAUSED: Final = _RUNBOOK.format("A consumer waits")


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


@dataclass(frozen=True, slots=True)
class Row(Generic[T]):
    """Something with the badge of its state."""

    of: T
    kind: str
    word: str


@dataclass(frozen=True, slots=True)
class QueueRow(Row[QueueView]):
    """A queue that a process consumes."""

    #: Why it does not move, as far as the word does not say it; empty: it moves.
    why: str


@dataclass(frozen=True, slots=True)
class QueuesPage:
    """The page's lists, as far as their APIs answered."""

    concerns: Sequence[Concern]
    processes: Sequence[Row[ProcessView]]
    queues: Sequence[QueueRow]
    delays: Sequence[QueueView]
    #: How many events the log keeps; None if it is not known.
    logged: int | None
    #: Why less is known of the queues than could be; empty: nothing is missing.
    trouble: str
    shows_rates: bool
    overdue: Sequence[RecoveryView]
    subscriptions: Sequence[Row[SubscriptionView]]
    endpoints: Sequence[Row[EndpointAnswer]]


def queues_page(
    processes: Processes | None,
    queues: Queues | None,
    reconciliation: Reconciliation | None,
    subscriptions: Sequence[SubscriptionView],
    endpoints: Sequence[EndpointAnswer],
) -> QueuesPage:
    """Return what the page shows; what could not be asked is None."""
    process_rows = [Row(each, *_PROCESS[each.state]) for each in (processes.processes if processes else ())]
    found = queues.queues if queues else ()
    consumed = [QueueRow(each, *_state(each)) for each in found if each.kind not in (QueueKind.DELAY, QueueKind.LOG)]
    subscription_rows = [_subscription(each) for each in subscriptions]
    endpoint_rows = [_endpoint_row(each) for each in endpoints]
    concerns = [
        *(_process(row) for row in process_rows if row.kind in _CONCERN),
        *(_queue(row) for row in consumed if row.kind in _CONCERN),
        *_reconciliation(reconciliation),
        *(_subscriber(row) for row in subscription_rows if row.kind in _CONCERN),
        *(_endpoint(row) for row in endpoint_rows if row.kind == "bad"),
    ]
    return QueuesPage(
        concerns=sorted(concerns, key=lambda concern: concern.kind != "bad"),
        processes=process_rows,
        queues=consumed,
        delays=[each for each in found if each.kind is QueueKind.DELAY],
        logged=next((each.ready for each in found if each.kind is QueueKind.LOG), None),
        trouble=queues.trouble if queues else "",
        shows_rates=queues is not None and queues.source is Source.MANAGEMENT,
        overdue=[each for each in reconciliation.trainings if each.outcome is None] if reconciliation else (),
        subscriptions=subscription_rows,
        endpoints=endpoint_rows,
    )


def _state(queue: QueueView) -> tuple[str, str, str]:
    if queue.paused:
        return "bad", "paused", queue.paused
    if queue.problem and not queue.consumers:
        return "bad", "no consumer", queue.problem
    if queue.problem:
        return "warn", "stuck", queue.problem
    if queue.ready is None:
        return "quiet", "not known", ""
    if not queue.consumers:
        return "quiet", "no consumer", ""
    return ("info", "working", "") if queue.ready or queue.unacked else ("good", "empty", "")


def _process(row: Row[ProcessView]) -> Concern:
    return Concern(row.kind, f"{row.of.name}: {row.word}", row.of.detail, row.of.then)


def _queue(row: QueueRow) -> Concern:
    waiting = f", {number(row.of.ready)} wait" if row.of.ready else ""
    return Concern(row.kind, f"{row.of.name}: {row.word}{waiting}", row.why, _remedy(row.of))


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


def _subscription(subscription: SubscriptionView) -> Row[SubscriptionView]:
    if subscription.overflowed:
        return Row(subscription, "bad", "overflowed")
    if not subscription.consumers:
        return Row(subscription, "warn" if subscription.waiting else "quiet", "no consumer")
    return Row(subscription, *(("info", "behind") if subscription.waiting else ("good", "up to date")))


def _subscriber(row: Row[SubscriptionView]) -> Concern:
    found = row.of
    if found.overflowed:
        left = plural(found.overflowed, "event")
        text = f"In {found.overflow_queue}: {left} that did not fit or had been delivered too often."
    else:
        text = f"{plural(found.waiting, 'event waits', 'events wait')}, and no service consumes the queue."
    return Concern(row.kind, f"subscription {found.name}", text, f"modelswap subscriptions show {found.name}")


def _endpoint_row(endpoint: EndpointAnswer) -> Row[EndpointAnswer]:
    state = state_of(endpoint)
    return Row(endpoint, kind(state, "endpoint"), state)


def _endpoint(row: Row[EndpointAnswer]) -> Concern:
    why = "It answered 410 Gone" if row.of.status == "gone" else "Every attempt of five days failed"
    text = f"{why}. Its deliveries wait until it is enabled again."
    return Concern(row.kind, f"webhooks to {row.of.url}", text, address=f"/queues/webhooks/{row.of.id}")
