"""What is measured on a training's way, and how a process shows it."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import uuid4

import httpx
import pytest
from prometheus_client import Counter, Gauge, Histogram
from prometheus_client.openmetrics.parser import text_string_to_metric_families
from starlette.applications import Starlette

from services.extractor.__main__ import _verify
from services.extractor.errors import DoesNotWork, NotThereYet
from services.state.changes import Changes, OutboxEvent, Swap, Withdrawal
from services.state.store.write import report_committed
from shared.contract.envelope import wrap
from shared.contract.errors import DependencyDown
from shared.contract.events import ModelWithdrawn
from shared.contract.identity import ModelRef
from shared.contract.retry import RetryIn
from shared.contract.values import Cause
from shared.replicate.routes import STATUSES, Route
from shared.runtime import telemetry, tracing
from shared.runtime.broker import Delivery
from shared.runtime.broker.message import retry
from shared.runtime.health import health_routes, reporter
from tests.collector import Traced
from tests.counts import counted, observed

NOON = datetime(2026, 11, 24, 12, tzinfo=UTC)
MODEL = ModelRef("acme", "ada", "a" * 64)
SWAP = Swap("ada", 3, uuid4(), MODEL, "TOK", None, reported_at=NOON - timedelta(seconds=7))
TRACE = "0af7651916cd43dd8448eb211c80319c"
RUNBOOK = (Path(__file__).parents[2] / "deploy/runbook.md").read_text()
#: Its trace is not kept.
UNSAMPLED = f"00-{TRACE}-b7ad6b7169203331-00"
OPENMETRICS = "application/openmetrics-text"


@pytest.fixture
def traces(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Traces are kept, and one is active."""
    monkeypatch.setattr(tracing, "_spans", Traced({"traceparent": f"00-{TRACE}-b7ad6b7169203331-01"}))
    yield
    telemetry.swap_seconds.clear()


def swapped(swap: Swap, *, trace: str = TRACE) -> Changes:
    envelope = wrap(swap.activated("t1"), source="state", now=NOON)
    envelope = replace(envelope, trace={"traceparent": f"00-{trace}-b7ad6b7169203331-01"})
    return Changes(swaps=[swap], outbox=[OutboxEvent(envelope, swap.user_id, swap.generation)])


def test_an_answer_of_replicate_counts_from_0_when_it_first_comes() -> None:
    """A series that first appears with 5 is no rise: the alert on failures would miss them."""
    count = telemetry.count_replicate_requests()
    begun = counted(telemetry.replicate_requests)

    for _ in range(5):
        count(Route.LIST_TRAININGS, "503", 0.1)

    ended = counted(telemetry.replicate_requests)
    assert set(begun) == set(itertools.product(map(str, Route), STATUSES))
    assert {each: ended[each] - begun[each] for each in ended if ended[each] != begun[each]} == {
        ("GET /v1/trainings", "503"): 5
    }


def test_a_swap_takes_from_the_report_to_the_commit() -> None:
    swaps, before = counted(telemetry.swaps)[()], observed(telemetry.swap_seconds)[()]

    report_committed(swapped(SWAP), NOON)

    assert counted(telemetry.swaps)[()] == swaps + 1
    assert observed(telemetry.swap_seconds)[()] == (before.times + 1, before.total + 7)


def test_a_swap_never_takes_less_than_no_time() -> None:
    before = observed(telemetry.swap_seconds)[()]

    report_committed(swapped(replace(SWAP, reported_at=NOON + timedelta(seconds=2))), NOON)

    assert observed(telemetry.swap_seconds)[()] == (before.times + 1, before.total)


@pytest.mark.parametrize(
    "swap", [replace(SWAP, cause=Cause.ROLLBACK), replace(SWAP, cause=Cause.REPLAY), replace(SWAP, reported_at=None)]
)
def test_a_swap_of_another_cause_is_not_timed(swap: Swap) -> None:
    swaps, before = counted(telemetry.swaps)[()], observed(telemetry.swap_seconds)

    report_committed(swapped(swap), NOON)

    assert counted(telemetry.swaps)[()] == swaps + 1
    assert observed(telemetry.swap_seconds) == before


def test_a_withdrawal_is_no_swap() -> None:
    swaps, before = counted(telemetry.swaps)[()], observed(telemetry.swap_seconds)
    event = ModelWithdrawn(training_id="t1", user_id="ada", generation=4, ref=SWAP.ref, previous=MODEL)
    withdrawal = Withdrawal("ada", 4, SWAP.ref, MODEL, "bad", "bob")

    report_committed(Changes(withdrawals=[withdrawal], outbox=[OutboxEvent.of(event, "ada", 4, now=NOON)]), NOON)

    assert counted(telemetry.swaps)[()] == swaps
    assert observed(telemetry.swap_seconds) == before


@pytest.mark.parametrize(
    ("error", "result"),
    [
        (None, "passed"),
        (DoesNotWork("no prompt"), "refused"),
        (NotThereYet("not listed"), "undecided"),
        (ValueError("a bug"), "undecided"),
        (DependencyDown("no connection"), "unavailable"),
    ],
)
async def test_a_verification_is_timed_by_its_result(error: Exception | None, result: str) -> None:
    async def verify(*_: object, **__: object) -> tuple[str, ...]:
        if error is not None:
            raise error
        return ("exists",)

    telemetry.verify_seconds.clear()

    if error is None:
        assert await _verify(verify, MODEL) == ("exists",)
    else:
        with pytest.raises(type(error)):
            await _verify(verify, MODEL)

    assert {labels: each.times for labels, each in observed(telemetry.verify_seconds).items()} == {(result,): 1}


async def scraped(accept: str) -> httpx.Response:
    transport = httpx.ASGITransport(Starlette(routes=health_routes(reporter({}))))
    async with httpx.AsyncClient(transport=transport, base_url="http://here") as client:
        return await client.get("/metrics", headers={"Accept": accept})


async def test_a_scraper_that_asks_for_openmetrics_gets_traces(traces: None) -> None:
    report_committed(swapped(SWAP), NOON)

    answer = await scraped(f"{OPENMETRICS};version=1.0.0;q=0.5,text/plain;version=0.0.4;q=0.3")

    assert answer.headers["content-type"].startswith(f"{OPENMETRICS}; version=1.0.0")
    families = text_string_to_metric_families(answer.text)  # type: ignore[no-untyped-call]
    (swap_seconds,) = (family for family in families if family.name == "modelswap_swap_seconds")
    exemplars = [each.exemplar for each in swap_seconds.samples if each.exemplar]
    assert [each.labels for each in exemplars] == [{"trace_id": TRACE}]


@pytest.mark.parametrize("accept", ["", "*/*", "text/plain;version=x", "text/plain; version=1.0.0; escaping=x"])
async def test_other_clients_get_the_older_format(accept: str) -> None:
    answer = await scraped(accept)

    assert (answer.status_code, answer.headers["content-type"]) == (200, "text/plain; version=0.0.4; charset=utf-8")
    assert "modelswap_build_info{version=" in answer.text


async def test_an_unknown_version_of_openmetrics_gets_ours() -> None:
    answer = await scraped(f"{OPENMETRICS};version=x")

    assert (answer.status_code, answer.text[-6:]) == (200, "# EOF\n")


def test_a_retry_is_as_old_as_its_first_message() -> None:
    first = Delivery("q", 1, "", "q", {}, None, b"", published_at=NOON)
    again = retry(first, RetryIn(timedelta(minutes=10), 2), NotThereYet(""), now=NOON + timedelta(minutes=1))
    later = replace(first, headers=again.headers, published_at=NOON + timedelta(minutes=1))
    again = retry(later, RetryIn(timedelta(hours=1), 3), NotThereYet(""), now=NOON + timedelta(minutes=11))

    last = replace(later, headers=again.headers, published_at=NOON + timedelta(minutes=11))

    assert (first.first_published_at, last.first_published_at) == (NOON, NOON)


@pytest.mark.parametrize("said", [7, "", "yesterday", "2026-11-24T12:00:00", datetime(1, 1, 1, tzinfo=UTC)])
def test_an_invalid_first_time_is_ignored(said: object) -> None:
    delivery = Delivery("q", 1, "", "q", {"x-published-at": said}, None, b"", published_at=NOON)

    assert delivery.first_published_at == NOON


def test_the_runbook_lists_every_metric() -> None:
    rows = [
        f"| `{family.name}{'_total' * (family.type == 'counter')}` | {family.type} "
        f"| {', '.join(f'`{label}`' for label in metric._labelnames)} | {family.documentation} |"
        for metric in vars(telemetry).values()
        if isinstance(metric, Counter | Gauge | Histogram)
        for family in metric.describe()
    ]

    table = RUNBOOK.partition("## What is measured")[2].partition("\n## ")[0]
    assert [line for line in table.splitlines() if line.startswith("| `")] == rows


def test_without_traces_there_is_no_exemplar() -> None:
    assert telemetry.exemplar({"traceparent": f"00-{TRACE}-b7ad6b7169203331-01"}) is None


@pytest.mark.parametrize("headers", [{}, {"traceparent": "x"}, {"traceparent": 7}, {"traceparent": UNSAMPLED}])
def test_an_observation_outside_of_a_trace_has_no_exemplar(traces: None, headers: dict[str, object]) -> None:
    assert telemetry.exemplar(headers) is None
    assert telemetry.exemplar() == {"trace_id": TRACE}
