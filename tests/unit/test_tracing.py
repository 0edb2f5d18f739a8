"""Tracing: off at no cost, on where the environment says so, and never in the way of a start."""

from __future__ import annotations

import importlib
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator

import pytest
from structlog.testing import capture_logs

from shared.contract.errors import PermanentError
from shared.runtime import tracing
from shared.runtime.broker import Delivery
from shared.runtime.broker.message import Outgoing
from shared.runtime.broker.spans import handling, processing, publishing
from shared.runtime.span import NO_SPAN, Kind
from shared.runtime.statements import summarize
from tests.collector import Collector, tracing_here

ENDPOINT = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9"}
PARENT = f"00-{'a' * 32}-{'b' * 16}-01"
MESSAGE = Outgoing("modelswap.events", "model.ready.v1", b"{}", {"ce-id": "1", "traceparent": PARENT})


@pytest.fixture
def collector(monkeypatch: pytest.MonkeyPatch) -> Iterator[Collector]:
    """Tracing is on; its spans are there after `tracing.stop`."""
    with tracing_here("test", monkeypatch) as found:
        yield found


def delivered(tag: int, *, flags: str = "01") -> Delivery:
    headers = {"traceparent": f"00-{str(tag) * 32}-{'b' * 16}-{flags}", "tracestate": "a=1", "x-other": 7}
    return Delivery("q", tag, "modelswap.events", "model.ready.v1", headers, None, b"")


def test_without_an_endpoint_nothing_is_imported():
    """The receiver has no other library that does."""
    program = """
import sys, services.receiver.__main__
from shared.runtime import tracing
tracing.start("receiver", {})
print([name for name in sys.modules if "opentelemetry" in name])
"""
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)

    assert found.stdout == "[]\n"


def test_without_an_endpoint_nothing_is_recorded():
    delivery = delivered(1)

    assert publishing(MESSAGE) is NO_SPAN
    assert processing(delivery) == (delivery, NO_SPAN)
    assert processing(delivery)[0] is delivery
    assert tracing.context() == {}


@pytest.mark.parametrize(
    ("environment", "said"),
    [
        ({}, []),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": ""}, []),
        ({**ENDPOINT, "OTEL_SDK_DISABLED": "true"}, []),
        ({**ENDPOINT, "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"}, ["tracing.off"]),
    ],
)
def test_what_leaves_tracing_off(environment, said):
    with capture_logs() as logs:
        tracing.start("test", environment)

    assert [line["event"] for line in logs] == said
    assert not tracing.is_on()


def test_a_missing_extra_is_said_and_no_failure(monkeypatch):
    monkeypatch.setitem(sys.modules, "shared.runtime.opentelemetry_spans", None)

    with capture_logs() as logs:
        tracing.start("test", ENDPOINT)

    assert [(line["event"], line["hint"]) for line in logs] == [
        ("tracing.off", 'install the wheel of modelswap with its extra "otel"')
    ]
    assert not tracing.is_on()


def test_an_invalid_variable_is_said_and_no_failure(monkeypatch):
    monkeypatch.setenv("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "100000")

    with capture_logs() as logs:
        tracing.start("test", ENDPOINT)

    assert [line["event"] for line in logs] == ["tracing.off"]
    assert not tracing.is_on()


def test_a_collector_that_is_away_is_said_once(monkeypatch):
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", ENDPOINT["OTEL_EXPORTER_OTLP_ENDPOINT"])
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "0.1")
    exporter = importlib.import_module("shared.runtime.opentelemetry_spans")._Exporter()

    with capture_logs() as logs:
        for _ in range(2):
            exporter.export([])

    assert [line["event"] for line in logs] == ["tracing.failing"]


def test_a_collector_that_hangs_does_not_hold_up_the_end(monkeypatch):
    before = set(threading.enumerate())
    with socket.create_server(("127.0.0.1", 0)) as hanging:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{hanging.getsockname()[1]}")
        tracing.start("test")
        with tracing.span("work", Kind.INTERNAL):
            pass
        began = time.monotonic()

        tracing.stop()

        assert time.monotonic() - began < 9  # its timeout is 10 s
    # It still sends, and draws a random pause, which a test of hypothesis may not meet.
    for thread in set(threading.enumerate()) - before:
        thread.join()


def test_a_message_continues_its_trace(collector):
    with publishing(MESSAGE) as span:
        context = span.context
    tracing.stop()

    (sent,) = collector.spans
    assert (sent.trace_id, sent.parent_id) == ("a" * 32, "b" * 16)
    assert context["traceparent"].split("-")[1:3] == [sent.trace_id, sent.span_id]


def test_what_follows_a_delivery_is_below_it(collector):
    delivery, span = processing(delivered(1))
    span.end()
    tracing.stop()

    (processed,) = collector.spans
    assert str(delivery.headers["traceparent"]).split("-")[1:3] == ["1" * 32, processed.span_id]
    assert (delivery.headers["tracestate"], delivery.headers["x-other"]) == ("a=1", 7)


def test_a_batch_and_its_deliveries_name_each_other(collector):
    spans = [processing(delivered(tag))[1] for tag in (1, 2)]
    with handling("q", spans):
        tracing.ended("SELECT state.users", 0.5, {})
    for span in spans:
        span.end()
    tracing.stop()

    (batch,) = [span for span in collector.spans if span.name == "process q"]
    (statement,) = [span for span in collector.spans if span.kind == "CLIENT"]
    one, two = [span for span in collector.spans if span.name != "process q" and span.kind == "CONSUMER"]
    assert (batch.attributes["messaging.batch.message_count"], statement.parent_id) == (2, batch.span_id)
    assert (batch.trace_id, batch.parent_id) == (one.trace_id, one.span_id)
    assert set(batch.links) == {("1" * 32, one.span_id), ("2" * 32, two.span_id)}
    assert one.links == two.links == [(batch.trace_id, batch.span_id)]
    assert statement.ended - statement.began == 500_000_000


@pytest.mark.parametrize(
    ("sampler", "ratio", "flags"),
    [
        # No trace that begins here is sampled; the flags of the messages say which others are.
        ("parentbased_traceidratio", "0", {8: "00", 1: "01", 9: "00", 2: "01"}),
        # The ids of traces say which are sampled, whatever the flags.
        ("traceidratio", "0.5", {8: "01", 1: "00", 9: "01", 2: "00"}),
    ],
)
def test_a_batch_is_sampled_with_any_of_its_deliveries(sampler, ratio, flags, monkeypatch):
    monkeypatch.setenv("OTEL_TRACES_SAMPLER", sampler)
    monkeypatch.setenv("OTEL_TRACES_SAMPLER_ARG", ratio)
    with tracing_here("test", monkeypatch) as collector:
        batches = [flags, {tag: flags[tag] for tag in (8, 9)}]
        for batch in batches:
            spans = [processing(delivered(tag, flags=each))[1] for tag, each in batch.items()]
            with handling("q", spans):
                tracing.ended("SELECT state.users", 0.5, {})
            for span in spans:
                span.end()
        tracing.stop()

    (batch_span,) = [span for span in collector.spans if span.name == "process q"]
    one, two = [span for span in collector.spans if span.kind == "CONSUMER" and span.name != "process q"]
    assert [span.trace_id for span in (one, two, batch_span)] == ["1" * 32, "2" * 32, "1" * 32]
    assert batch_span.links == [(span.trace_id, span.span_id) for span in (one, two)]
    assert [span.parent_id for span in collector.spans if span.kind == "CLIENT"] == [batch_span.span_id]


def test_calls_outside_of_a_span_are_not_recorded(collector):
    tracing.ended("SELECT state.outbox", 0.5, {})
    tracing.stop()

    assert collector.spans == []


def test_an_error_is_its_code_without_its_text(collector):
    with pytest.raises(PermanentError), tracing.span("work", Kind.INTERNAL):
        raise PermanentError("ada@example.com", code="bad")
    with pytest.raises(KeyError), tracing.span("other work", Kind.INTERNAL):
        raise KeyError("ada@example.com")
    tracing.stop()

    assert [(span.is_failed, span.attributes) for span in collector.spans] == [
        (True, {"error.type": "bad"}),
        (True, {"error.type": "KeyError"}),
    ]


@pytest.mark.parametrize("flags", ["00", "02"])
def test_a_trace_that_is_not_sampled_stays_so(flags, collector):
    message = Outgoing("x", "y", b"", {"traceparent": f"00-{'a' * 32}-{'b' * 16}-{flags}"})

    with publishing(message) as span:
        assert span.context["traceparent"].startswith(f"00-{'a' * 32}-")
        assert int(span.context["traceparent"][-2:], 16) & 1 == 0
    tracing.stop()

    assert collector.spans == []


def test_an_api_adds_no_spans_with_addresses_to_another_tracer():
    """Such as that of `opentelemetry-instrument`: FastAPI would put the path with its user into a span."""
    program = """
import asyncio, httpx
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from shared.runtime.health import reporter
from shared.runtime.http import create_app, new_api

exporter, provider = InMemorySpanExporter(), TracerProvider()
provider.add_span_processor(SimpleSpanProcessor(exporter))
trace.set_tracer_provider(provider)
app = create_app(new_api(title="t", summary="s", tags={}, tokens=[], statuses={}), reporter({}))

async def ask():
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://x") as client:
        print((await client.get("/v1/users/ada/model")).status_code, len(exporter.get_finished_spans()))

asyncio.run(ask())
"""
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)

    assert found.stdout == "403 0\n"


@pytest.mark.parametrize(
    ("statement", "summary"),
    [
        ("SELECT FROM state.users WHERE user_id = 'ada'", "SELECT state.users"),
        ("WITH a AS (UPDATE state.users SET x = 1) INSERT INTO state.inbox", "UPDATE state.users INSERT state.inbox"),
        ("DELETE FROM ops.letters USING ops.audit", "DELETE ops.letters"),
        ("SELECT 1 FROM a.b JOIN a.b ON a.b.c IS DISTINCT FROM d.e", "SELECT a.b"),
        ("COMMIT;", "COMMIT"),
        ("SELECT pg_advisory_lock(1)", None),
        ("SELECT 1 FROM pg_catalog.pg_type", None),
        ("", None),
    ],
)
def test_a_statement_is_named_after_its_tables(statement, summary):
    assert summarize(statement) == summary
