"""
Metrics. A user id is never a label.

Code that counts creates its label values at start: a series that first appears with 1 has no increase in Prometheus.

Several processes of one service each count their own work: add it up (`sum`). Gauges that are read from the database
are the same in each of them: take the largest (`max`). A process that has not read them, or failed to, has no value:
`max` ignores NaN. A loop reads them (`shared.runtime.periodic`), so that no scrape asks the database.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib.metadata import version
from math import nan
from typing import Final

from prometheus_client import Counter, Gauge, Histogram, Info

from shared.contract.headers import sampled_trace_id_in
from shared.replicate.routes import STATUSES, Route
from shared.runtime import tracing

OLDEST_DELIVERY: Final = "modelswap_oldest_delivery_seconds"
_SUCCESS: Final = "2"

#: Each step is about twice the one before, from the fastest that was measured (5 ms) to an hour of retries. A minute,
#: which the alerts promise, is a bound of its own.
_SWAP_SECONDS: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 900, 3600)
#: Mostly one confirmed publish, of a millisecond. Replicate waits "a few seconds"; our own limit is three.
_WEBHOOK_SECONDS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2, 3, 5, 30)
#: From one transaction to a verification that waits for a cold model, or an outage that is waited for.
_HANDLE_SECONDS: Final = (0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 10, 30, 60, 300, 900)
#: The free checks are two requests; a run takes seconds, or minutes if the model is cold.
_VERIFY_SECONDS: Final = (0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600)
#: A request is given up after 20 seconds.
_REPLICATE_SECONDS: Final = (0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20)


def _unread(gauge: Gauge) -> Gauge:
    """Return *gauge* without a value."""
    gauge.set(nan)
    return gauge


Info("modelswap_build", "The version that runs.").info({"version": version("modelswap")})

webhooks: Final = Counter("modelswap_webhooks_total", "Webhooks by answer.", ["result"])
webhook_seconds: Final = Histogram(
    "modelswap_webhook_seconds", "Time to answer a webhook, also to refuse it.", buckets=_WEBHOOK_SECONDS
)
connections: Final = Gauge("modelswap_connections", "Open HTTP connections.")
refused_connections: Final = Counter(
    "modelswap_connections_refused_total", "HTTP connections that were refused or closed, by reason.", ["reason"]
)
deliveries: Final = Counter("modelswap_deliveries_total", "Deliveries by queue and result.", ["queue", "result"])
dropped: Final = Counter(
    "modelswap_progress_dropped_total",
    "Progress reports that were dropped, by reason. No other message is dropped.",
    ["reason"],
)
#: Alert on it: the log and /readyz of the process say why.
paused: Final = Gauge(
    "modelswap_consumer_paused", "1 while a consumer waits for a dependency, RabbitMQ among them.", ["queue"]
)
#: Alert on it: what is published to this queue waits.
oldest_delivery: Final = Gauge(
    OLDEST_DELIVERY, "Age in seconds of the oldest message that this process works on; 0: none.", ["queue"]
)
handle_seconds: Final = Histogram(
    "modelswap_handle_seconds",
    "Time from taking a batch of deliveries to acking it, with all waits for a dependency.",
    ["queue"],
    buckets=_HANDLE_SECONDS,
)
verify_seconds: Final = Histogram(
    "modelswap_verify_seconds", "Time to verify a model, by result.", ["result"], buckets=_VERIFY_SECONDS
)
replicate_requests: Final = Counter(
    "modelswap_replicate_requests_total",
    "Requests to Replicate's API, by route and HTTP status; no_connection and no_answer if there was no response.",
    ["route", "status"],
)
replicate_request_seconds: Final = Histogram(
    "modelswap_replicate_request_seconds",
    "Time of a request to Replicate's API.",
    ["route"],
    buckets=_REPLICATE_SECONDS,
)
swaps: Final = Counter("modelswap_swaps_total", "Committed swaps.")
swap_seconds: Final = Histogram(
    "modelswap_swap_seconds",
    "Time from the report that a training succeeded, mostly a webhook, to the commit of its swap. "
    "Rollbacks and replays are not counted.",
    buckets=_SWAP_SECONDS,
)
#: Read from the database.
trainings: Final = Gauge("modelswap_trainings", "Trainings by stage; above 10,000 estimated.", ["stage"])
#: Read from the database. Alert on it: always 0.
users_without_model: Final = _unread(
    Gauge("modelswap_users_without_model", "Users whose model was swapped in and never withdrawn, but who have none.")
)
streams: Final = Gauge("modelswap_streams", "Clients that follow a training or a replay.")
published: Final = Counter("modelswap_outbox_published_total", "Events that the relay published.")
#: Read from the database, and so is the age.
outbox_pending: Final = _unread(
    Gauge("modelswap_outbox_pending", "Committed events that are not published yet, up to 100,000.")
)
outbox_oldest: Final = _unread(
    Gauge("modelswap_outbox_oldest_seconds", "Age in seconds of the oldest event that is not published yet; 0: none.")
)
#: Alert on it: subscribers do not receive committed events.
delayed: Final = Gauge("modelswap_outbox_delayed", "1 while committed events cannot be published.")
#: Alert on it: subscribers do not receive these until an operator repairs them.
unpublishable: Final = Gauge("modelswap_outbox_set_aside", "Events that cannot be published as they are.")
#: Alert on it: subscribers cannot catch up, or not as far as the settings say.
log_trouble: Final = Gauge("modelswap_events_log_trouble", "1 if the events log is missing, or has other limits.")
#: Alert on it: webhook endpoints miss events.
log_gaps: Final = Counter(
    "modelswap_events_log_gaps_total", "How often the notifier found that events were gone before it read them."
)
#: Read from the database, and so is the age.
dead_letters: Final = Gauge("modelswap_dead_letters", "Dead letters by status, of each up to 100,000.", ["status"])
dead_letters_oldest: Final = _unread(
    Gauge(
        "modelswap_dead_letters_oldest_seconds",
        "Time in seconds since the oldest open dead letter came; 0: none is open.",
    )
)
#: Read from the database.
replays: Final = Gauge("modelswap_replays", "Replays that have not ended, by status.", ["status"])
replay_letters: Final = Gauge("modelswap_replay_letters", "Dead letters of running replays, by outcome.", ["outcome"])
overdue: Final = Gauge("modelswap_trainings_overdue", "Trainings that should have ended by now.")
#: Alert on the recovered: webhooks do not arrive.
reconciled: Final = Counter(
    "modelswap_reconciled_total", "Overdue trainings by the outcome that was found without a webhook.", ["outcome"]
)
failed_rounds: Final = Counter("modelswap_failed_rounds_total", "Rounds of a loop that failed.", ["loop"])
#: Alert on it: an operator must repair these items.
set_aside: Final = Gauge(
    "modelswap_set_aside", "Items of a loop that failed, and are retried after growing pauses.", ["loop"]
)
webhook_attempts: Final = Counter(
    "modelswap_webhook_attempts_total", "Requests to webhook endpoints, by what became of the delivery.", ["result"]
)
#: Alert on it: their deliveries wait until an operator enables them again.
webhook_endpoints_disabled: Final = Gauge(
    "modelswap_webhook_endpoints_disabled", "Webhook endpoints that were disabled because they are gone or failing."
)
#: Alert on it: when one of them is full, or its node is down, no subscriber hears of anything.
blocking_queues: Final = Gauge(
    "modelswap_blocking_queues", "Queues that others bound to our public events and that can hold up all subscribers."
)
#: Alert on it: a subscriber misses events.
overflowed: Final = Gauge(
    "modelswap_subscription_overflowed", "Events in the overflow queue of a subscription.", ["subscription"]
)


def exemplar(trace: Mapping[str, object] | None = None) -> dict[str, str] | None:
    """Return the exemplar of an observation: its trace, by *trace* or else the current one; None if it is not kept."""
    if not tracing.is_on():
        return None
    trace_id = sampled_trace_id_in((tracing.context() if trace is None else trace).get("traceparent"))
    return {"trace_id": trace_id} if trace_id else None


def count_replicate_requests() -> Callable[[Route, str, float], None]:
    """Return what counts requests to Replicate's API and records their spans; each count is there from now on."""
    for route in Route:
        for status in STATUSES:
            replicate_requests.labels(route, status)
    return _record_replicate_request


def _record_replicate_request(route: Route, status: str, seconds: float) -> None:
    replicate_requests.labels(route, status).inc()
    replicate_request_seconds.labels(route).observe(seconds, exemplar())
    method, _, template = route.partition(" ")
    attributes: dict[str, str | int] = {"http.request.method": method, "url.template": template}
    if status.isdigit():
        attributes["http.response.status_code"] = int(status)
    tracing.ended(route, seconds, attributes, error=None if status.startswith(_SUCCESS) else status)
