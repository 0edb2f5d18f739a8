"""The bench's table, and what the bench may import."""

from __future__ import annotations

import subprocess
import sys
from io import StringIO

import pytest
from rich.console import Console

from tests.bench.measure import Measured
from tests.bench.table import percentile, summary, table, times_faster


def measured(name: str, *per_second: float) -> Measured:
    return Measured(
        name,
        idle_ms=2.0,
        per_second=list(per_second),
        cpu_us=[{"receiver": 100.0, "state": 40.0}, {"receiver": 200.0, "state": 60.0}],
        latencies_ms=[3.0, 1.0, 2.0],
        memory_mb=[{"receiver": 50.0}, {"receiver": 90.0}, {"receiver": 60.0}],
    )


def test_a_round_is_compared_with_the_same_round():
    # The second round met a slow minute, which slowed both alike.
    assert times_faster([2000, 200, 3000], [1000, 100, 1000]) == 2


@pytest.mark.parametrize(("percent", "expected"), [(50, 50), (99, 99), (100, 100)])
def test_a_percentile_is_one_of_the_values(percent: int, expected: float):
    assert percentile([float(each) for each in range(100, 0, -1)], percent) == expected


def test_a_percentile_of_few_values_is_the_largest():
    assert percentile([7.0, 9.0], 99) == 9


def test_the_summary_compares_the_first_with_each_other_one():
    said = summary([measured("ours", 300, 300), measured("a", 100, 100), measured("b", 200, 200)])

    assert said == "ours is 3.00 times as fast as a, 1.50 times as fast as b"


def test_the_table_shows_means_sums_and_both_ends():
    shown = StringIO()

    Console(file=shown, width=100).print(table([measured("ours", 300, 300), measured("a", 100, 100)]))

    rows = {cells[0]: cells[1:] for cells in map(split, shown.getvalue().splitlines()) if len(cells) > 1}
    assert rows["trainings/s, median"] == ["300", "100"]
    assert rows["ours is faster, times"] == ["", "3.00"]
    assert rows["CPU µs per training, receiver"] == ["150", "150"]
    assert rows["CPU µs per training, all"] == ["200", "200"]
    assert rows["memory MB, receiver"] == ["50 → 60", "50 → 60"]
    assert rows["webhook → commit at 50/s, p50 ms"] == ["2.0", "2.0"]


def split(line: str) -> list[str]:
    return [cell.strip() for cell in line.split("│")[1:-1]]


def test_the_bench_needs_no_library_of_the_tests():
    # `make bench` runs in an environment of its own, with the peers and without these.
    without = "import sys; sys.modules |= dict.fromkeys(('pytest', 'hypothesis', 'testcontainers'))"

    done = subprocess.run(
        [sys.executable, "-c", f"{without}; import tests.bench.pipeline"], capture_output=True, text=True, check=False
    )

    assert (done.returncode, done.stderr) == (0, "")
