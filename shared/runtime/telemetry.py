"""
Metrics. A user id is never a label.

Code that counts creates its label values at start: a series that first appears with 1 has no increase in Prometheus.
"""

from __future__ import annotations

from typing import Final

from prometheus_client import Counter, Gauge

OLDEST_DELIVERY: Final = "modelswap_oldest_delivery_seconds"

webhooks: Final = Counter("modelswap_webhooks_total", "Webhooks by answer.", ["result"])
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
swaps: Final = Counter("modelswap_swaps_total", "Committed swaps.")
streams: Final = Gauge("modelswap_streams", "Clients that follow a training or a replay.")
published: Final = Counter("modelswap_outbox_published_total", "Events that the relay published.")
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
