"""What a metric shows: its series, and what they stand at."""

from __future__ import annotations

from typing import NamedTuple

from prometheus_client import Counter, Gauge, Histogram

Series = dict[tuple[str, ...], float]


def counted(metric: Counter | Gauge) -> Series:
    """The values of *metric* by its labels' values, as Prometheus would read them now."""
    return {
        tuple(sample.labels.values()): sample.value
        for family in metric.collect()
        for sample in family.samples
        if not sample.name.endswith("_created")
    }


class Observed(NamedTuple):
    """What was observed: how many, and their sum."""

    times: float
    total: float


def observed(metric: Histogram) -> dict[tuple[str, ...], Observed]:
    """What *metric* observed, by its labels' values."""
    samples = [sample for family in metric.collect() for sample in family.samples]
    times, total = (
        {tuple(each.labels.values()): each.value for each in samples if each.name.endswith(end)}
        for end in ("_count", "_sum")
    )
    return {labels: Observed(times[labels], total[labels]) for labels in times}
