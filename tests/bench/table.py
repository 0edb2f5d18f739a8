"""What was measured, as one table and one sentence. Pure."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence

from rich.table import Table

from tests.bench.measure import Measured


def times_faster(ours: Sequence[float], theirs: Sequence[float]) -> float:
    """Return how many times *theirs* goes into *ours*: each round with the same round, then the median."""
    return statistics.median(one / other for one, other in zip(ours, theirs, strict=True))


def percentile(values: Sequence[float], percent: int) -> float:
    """Return the smallest of *values* that at least *percent* of them do not exceed."""
    return sorted(values)[max(0, -(-len(values) * percent // 100) - 1)]


def mean_by_process(rounds: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Return each process's mean over the *rounds*."""
    return {name: statistics.mean(each[name] for each in rounds) for name in rounds[0]}


def table(results: Sequence[Measured]) -> Table:
    """Return a column for each result and a row for each figure; the first result is what the others compare with."""
    first = results[0]
    cpu = [mean_by_process(each.cpu_us) for each in results]
    made = Table("", title="the same work on the same machine, in turn; only ratios count")
    for result in results:
        made.add_column(result.name, justify="right")
    made.add_row("trainings/s, median", *(f"{statistics.median(each.per_second):.0f}" for each in results))
    faster = (f"{times_faster(first.per_second, each.per_second):.2f}" for each in results[1:])
    made.add_row(f"{first.name} is faster, times", "", *faster)
    for name in cpu[0]:
        made.add_row(f"CPU µs per training, {name}", *(f"{each[name]:.0f}" for each in cpu))
    made.add_row("CPU µs per training, all", *(f"{sum(each.values()):.0f}" for each in cpu))
    made.add_row("CPU ms per second, idle", *(f"{each.idle_ms:.0f}" for each in results))
    if first.latencies_ms:
        for percent in (50, 99):
            cells = (f"{percentile(each.latencies_ms, percent):.1f}" for each in results)
            made.add_row(f"webhook → commit at 50/s, p{percent} ms", *cells)
    for name in first.memory_mb[0]:
        cells = (f"{each.memory_mb[0][name]:.0f} → {each.memory_mb[-1][name]:.0f}" for each in results)
        made.add_row(f"memory MB, {name}", *cells)
    return made


def summary(results: Sequence[Measured]) -> str:
    """Return how many times as fast as each of the others the first one is, in one sentence."""
    first, *others = results
    said = [f"{times_faster(first.per_second, each.per_second):.2f} times as fast as {each.name}" for each in others]
    return f"{first.name} is {', '.join(said)}"
