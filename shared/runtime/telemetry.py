"""What is counted, and under which name. Never a user id as a label."""

from __future__ import annotations

from typing import Final

from prometheus_client import Counter, Histogram

webhooks: Final = Counter("modelswap_webhooks_total", "Webhooks by how they were answered.", ["result"])
deliveries: Final = Counter(
    "modelswap_deliveries_total", "Deliveries by queue and by what became of them.", ["queue", "result"]
)
swaps: Final = Counter("modelswap_swaps_total", "Committed swaps.")
published: Final = Counter("modelswap_outbox_published_total", "Events that the relay published.")
verify_seconds: Final = Histogram("modelswap_verify_seconds", "How long a verification took.", ["result"])
