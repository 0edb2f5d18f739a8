"""The screen of queues and processes: what the APIs answer → rows with a state, and what needs an operator. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final, TypeVar

from services.ops.console.views.webhooks import Endpoint
from services.ops.processes.views import Processes, ProcessView, QueueKind, Queues, QueueView, Source
from services.ops.reconcile.views import Reconciliation, RecoveryView
from services.ops.subscriptions.views import SubscriptionView
from shared.contract.health import ProcessState

Row = TypeVar("Row", "ProcessRow", "QueueRow", "SubscriptionRow")

#: Kind and word of the badge of a process.
PROCESS_BADGES: Final = {
    ProcessState.READY: ("good", "ready"),
    ProcessState.LIMITED: ("warn", "limited"),
    ProcessState.NOT_READY: ("bad", "not ready"),
    ProcessState.HANGS: ("bad", "hangs"),
    ProcessState.AWAY: ("bad", "away"),
    ProcessState.UNKNOWN: ("bad", "unknown"),
}
_ENDPOINT: Final = {"enabled": "good", "paused": "quiet", "gone": "bad", "failing": "bad"}
_PREFIX: Final = "modelswap."
_DELAY: Final = "modelswap.delay."
_LOST: Final = "Webhooks do not arrive: too many trainings of the last hour ended without one."
_RUNBOOK: Final = '"{}" in deploy/runbook.md'


@dataclass(frozen=True, slots=True)
class Concern:
    """Something that needs an operator."""

    kind: str
    what: str
    text: str
    #: What to do; empty: nothing is known.
    then: str = ""


@dataclass(frozen=True, slots=True)
class ProcessRow:
    """A process."""

    process: ProcessView
    kind: str
    word: str
    #: Names of the checks that are ok.
    passed: Sequence[str]


@dataclass(frozen=True, slots=True)
class QueueRow:
    """A queue that a process consumes."""

    queue: QueueView
    #: Its name without what all have in common.
    name: str
    kind: str
    word: str
    #: Why it does not move, as far as the word does not say it; empty: it moves.
    why: str


@dataclass(frozen=True, slots=True)
class DelayRow:
    """Messages that wait for their next attempt."""

    delay: str
    waiting: int | None


@dataclass(frozen=True, slots=True)
class EndpointRow:
    """A webhook endpoint."""

    endpoint: Endpoint
    kind: str
    word: str


@dataclass(frozen=True, slots=True)
class SubscriptionRow:
    """A subscription."""

    subscription: SubscriptionView
    kind: str
    word: str


@dataclass(frozen=True, slots=True)
class QueuesPage:
    """The page's lists, as far as their APIs answered."""

    concerns: Sequence[Concern]
    processes: Sequence[ProcessRow]
    queues: Sequence[QueueRow]
    delays: Sequence[DelayRow]
    #: How many events the log keeps; None if it is not known.
    logged: int | None
    #: Why less is known of the queues than could be; empty: nothing is missing.
    trouble: str
    shows_rates: bool
    overdue: Sequence[RecoveryView]
    subscriptions: Sequence[SubscriptionRow]
    endpoints: Sequence[EndpointRow]


def queues_page(
    processes: Processes,
    queues: Queues,
    reconciliation: Reconciliation | None,
    subscriptions: Sequence[SubscriptionView],
    endpoints: Sequence[Endpoint],
) -> QueuesPage:
    """Return what the page shows; *reconciliation* is None if it could not be asked."""
    process_rows = [_process(each) for each in processes.processes]
    consumed = queue_rows(queues)
    subscription_rows = [_subscription(each) for each in subscriptions]
    endpoint_rows = [_endpoint_row(each) for each in endpoints]
    concerns = [
        *(Concern(row.kind, row.process.name, row.process.detail, row.process.then) for row in _bad(process_rows)),
        *(Concern(row.kind, row.name, row.why, _remedy(row)) for row in _bad(consumed)),
        *_reconciliation(reconciliation),
        *(_subscriber(row) for row in _bad(subscription_rows)),
        *(_endpoint(row) for row in endpoint_rows if row.kind == "bad"),
    ]
    return QueuesPage(
        concerns=sorted(concerns, key=lambda concern: concern.kind != "bad"),
        processes=process_rows,
        queues=consumed,
        delays=[
            DelayRow(each.name.removeprefix(_DELAY), each.ready)
            for each in queues.queues
            if each.kind is QueueKind.DELAY
        ],
        logged=next((each.ready for each in queues.queues if each.kind is QueueKind.LOG), None),
        trouble=queues.trouble,
        shows_rates=queues.source is Source.MANAGEMENT,
        overdue=[each for each in reconciliation.trainings if each.outcome is None] if reconciliation else (),
        subscriptions=subscription_rows,
        endpoints=endpoint_rows,
    )


def _bad(rows: Sequence[Row]) -> Iterator[Row]:
    return (row for row in rows if row.kind in ("bad", "warn"))


def _process(process: ProcessView) -> ProcessRow:
    kind, word = PROCESS_BADGES[process.state]
    passed = [name for name, said in process.checks.items() if said == "ok"]
    return ProcessRow(process, kind, word, passed)


def queue_rows(queues: Queues) -> list[QueueRow]:
    """Return the queues that a process consumes, each judged: the same on every screen."""
    consumed = [each for each in queues.queues if each.kind not in (QueueKind.DELAY, QueueKind.LOG)]
    return [QueueRow(each, each.name.removeprefix(_PREFIX), *_state(each)) for each in consumed]


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


def _remedy(row: QueueRow) -> str:
    process = row.queue.process
    if row.queue.paused:
        return _RUNBOOK.format("A consumer waits")
    return f"read the log of {process}" if row.queue.consumers else f"start it: modelswap serve {process}"


def _reconciliation(found: Reconciliation | None) -> Iterator[Concern]:
    if found is None:
        return
    if found.webhooks_seem_lost:
        yield Concern("bad", "webhooks from Replicate", _LOST, _RUNBOOK.format("Webhooks do not arrive"))
    if found.last_round.trouble:
        yield Concern("warn", "overdue trainings", f"The last round failed: {found.last_round.trouble}")


def _subscription(subscription: SubscriptionView) -> SubscriptionRow:
    if subscription.overflowed:
        return SubscriptionRow(subscription, "bad", "overflowed")
    if not subscription.consumers:
        return SubscriptionRow(subscription, "warn" if subscription.waiting else "quiet", "no consumer")
    return SubscriptionRow(subscription, *(("info", "behind") if subscription.waiting else ("good", "up to date")))


def _subscriber(row: SubscriptionRow) -> Concern:
    found = row.subscription
    if found.overflowed:
        text = (
            f"{found.overflowed} events did not fit, or were delivered too often. They are in {found.overflow_queue}."
        )
    else:
        text = f"{found.waiting} events wait, and no service consumes them."
    return Concern(row.kind, f"subscription {found.name}", text, f"modelswap subscriptions show {found.name}")


def _endpoint_row(endpoint: Endpoint) -> EndpointRow:
    if endpoint.status == "enabled" and endpoint.failing_since is not None:
        return EndpointRow(endpoint, "warn", "errors")
    return EndpointRow(endpoint, _ENDPOINT.get(endpoint.status, "quiet"), endpoint.status)


def _endpoint(row: EndpointRow) -> Concern:
    why = "It answered 410 Gone" if row.endpoint.status == "gone" else "Every attempt of five days failed"
    text = f"{why}. Its deliveries wait until it is enabled again."
    return Concern(row.kind, f"webhooks to {row.endpoint.url}", text)
