"""What a metric shows: its series, and what they stand at."""

from __future__ import annotations

from prometheus_client import Counter, Gauge

Series = dict[tuple[str, ...], float]


def counted(metric: Counter | Gauge) -> Series:
    """The values of *metric* by its labels' values, as Prometheus would read them now."""
    return {
        tuple(sample.labels.values()): sample.value
        for family in metric.collect()
        for sample in family.samples
        if not sample.name.endswith("_created")
    }
