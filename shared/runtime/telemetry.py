"""
Metrics. A user id is never a label.

Code that counts creates its label values at start: a series that first appears with 1 has no increase in Prometheus.
"""

from __future__ import annotations

from typing import Final

from prometheus_client import Counter, Gauge

OLDEST_DELIVERY: Final = "modelswap_oldest_delivery_seconds"

webhooks: Final = Counter("modelswap_webhooks_total", "Webhooks by how they were answered.", ["result"])
connections: Final = Gauge("modelswap_connections", "Open HTTP connections.")
refused_connections: Final = Counter(
    "modelswap_connections_refused_total", "HTTP connections that were refused or closed, by reason.", ["reason"]
)
deliveries: Final = Counter(
    "modelswap_deliveries_total", "Deliveries by queue and by what became of them.", ["queue", "result"]
)
dropped: Final = Counter(
    "modelswap_progress_dropped_total",
    "Reports of progress that were dropped, by why. Nothing else is.",
    ["reason"],
)
#: Alert on it: whoever should act is told by the process's log and by /readyz.
paused: Final = Gauge(
    "modelswap_consumer_paused", "1 while a consumer waits for a dependency, RabbitMQ among them.", ["queue"]
)
#: Alert on it: what is published to this queue waits.
oldest_delivery: Final = Gauge(
    OLDEST_DELIVERY, "Seconds since the oldest message that this process works on was published; 0: none.", ["queue"]
)
swaps: Final = Counter("modelswap_swaps_total", "Committed swaps.")
streams: Final = Gauge("modelswap_streams", "Clients that follow a training.")
published: Final = Counter("modelswap_outbox_published_total", "Events that the relay published.")
#: Alert on it: subscribers do not hear of what is committed.
delayed: Final = Gauge("modelswap_outbox_delayed", "1 while committed events cannot be published.")
#: Alert on it: subscribers do not hear of these until somebody repairs them.
unpublishable: Final = Gauge("modelswap_outbox_set_aside", "Events that cannot be published as they are.")
#: Alert on it: subscribers cannot catch up, or not as far as the settings say.
log_trouble: Final = Gauge("modelswap_events_log_trouble", "1 if the events log is missing, or has other limits.")
overdue: Final = Gauge("modelswap_trainings_overdue", "Trainings whose end should have been heard of.")
#: Alert on the recovered: webhooks do not arrive.
reconciled: Final = Counter(
    "modelswap_reconciled_total", "Overdue trainings by what they came to without a webhook.", ["outcome"]
)
#: Alert on it: what is set aside waits for somebody who mends it.
failed_rounds: Final = Counter("modelswap_failed_rounds_total", "Rounds of a loop that failed.", ["loop"])
set_aside: Final = Gauge(
    "modelswap_set_aside", "Items of a loop that failed, and are tried again ever more rarely.", ["loop"]
)
