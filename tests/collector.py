"""What tests of traces need: a collector on loopback, which draws the tree of a trace, and a trace without one."""

from __future__ import annotations

import asyncio
import threading
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from shared.runtime import tracing
from shared.runtime.span import NO_SPAN, Context

#: A trace has ended when what was expected is there, so this only bounds a test that fails.
_SECONDS = 60


@dataclass(frozen=True)
class Span:
    """One span, as far as the tests look at it."""

    service: str
    name: str
    kind: str
    trace_id: str
    span_id: str
    parent_id: str
    #: Ids of traces and spans.
    links: Sequence[tuple[str, str]]
    attributes: Mapping[str, Any]
    is_failed: bool
    began: int
    ended: int

    def __str__(self) -> str:
        return f"{self.service} {self.kind} {self.name}{' FAILED' if self.is_failed else ''}"


class Collector:
    """All spans that were sent here."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.spans: list[Span] = []
        #: What was posted to.
        self.paths: set[str] = set()
        #: Trees that were waited for.
        self.expected: dict[str, str] = {}

    @property
    def environment(self) -> dict[str, str]:
        """What sends the spans of a process here, at once."""
        return {"OTEL_EXPORTER_OTLP_ENDPOINT": self.url, "OTEL_BSP_SCHEDULE_DELAY": "50"}

    async def trace_of(self, training_id: str) -> str:
        """The trace that begins with a training's first message."""
        async with asyncio.timeout(_SECONDS):
            while True:
                ids = ((span.attributes.get("messaging.message.conversation_id"), span) for span in self.spans)
                found = [span for name, span in ids if name == training_id]
                if found:
                    return min(found, key=lambda span: span.began).trace_id
                await asyncio.sleep(0.05)

    async def span(self, name: str) -> Span:
        """The only span of that name, as soon as it is here."""
        async with asyncio.timeout(_SECONDS):
            while not (found := [span for span in self.spans if span.name == name]):
                await asyncio.sleep(0.05)
        (only,) = found
        return only

    def tree(self, trace_id: str) -> str:
        """
        The spans of a trace, one a line, below their parents; siblings in the order of their names.

        What a batch did is shown below each delivery in it, as if that had been handled alone.
        """
        batches = [span for span in self.spans if "messaging.batch.message_count" in span.attributes]
        batch_of = {span_id: batch.span_id for batch in batches for _, span_id in batch.links}
        children: dict[str, list[Span]] = defaultdict(list)
        for span in self.spans:
            if span not in batches:
                children[span.parent_id].append(span)

        def draw(spans: Sequence[Span], depth: int) -> Iterator[str]:
            for span in sorted(spans, key=lambda span: (str(span), span.began)):
                yield "  " * depth + str(span)
                handled_together = children[batch_of[span.span_id]] if span.span_id in batch_of else []
                yield from draw([*children[span.span_id], *handled_together], depth + 1)

        # A span whose parent was not sent here is a root: the parent is one of the test, or was lost.
        known = {span.span_id for span in self.spans}
        roots = [span for span in self.spans if span.trace_id == trace_id and span.parent_id not in known]
        return "\n".join(draw(roots, 0))

    async def until_tree(self, trace_id: str, expected: str) -> None:
        """Wait until a trace is exactly as *expected*."""
        wanted = "\n".join(line.rstrip() for line in expected.strip("\n").splitlines())
        self.expected[trace_id] = wanted
        with suppress(TimeoutError):
            async with asyncio.timeout(_SECONDS):
                while self.tree(trace_id) != wanted:
                    await asyncio.sleep(0.05)
        assert self.tree(trace_id).splitlines() == wanted.splitlines(), self.tree(trace_id)


@contextmanager
def collecting() -> Iterator[Collector]:
    """Run a collector."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            collector.paths.add(self.path)
            collector.spans += _read(ExportTraceServiceRequest.FromString(body))
            self.send_response(200)
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    collector = Collector(f"http://127.0.0.1:{server.server_port}")
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield collector
    finally:
        server.shutdown()
        server.server_close()


@contextmanager
def tracing_here(service: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Collector]:
    """Trace what this process does in the block; afterwards the collector has it."""
    with collecting() as collector:
        for name, value in collector.environment.items():
            monkeypatch.setenv(name, value)
        # A process may not wait for a slow collector; a test does.
        monkeypatch.setattr("shared.runtime.opentelemetry_spans._STOP_SECONDS", 60.0)
        tracing.start(service)
        try:
            yield collector
        finally:
            tracing.stop()


def _read(request: Any) -> Iterator[Span]:
    for resource in request.resource_spans:
        service = _attributes(resource.resource.attributes)["service.name"]
        for scope in resource.scope_spans:
            for span in scope.spans:
                yield Span(
                    service=service,
                    name=span.name,
                    kind=span.SpanKind.Name(span.kind).removeprefix("SPAN_KIND_"),
                    trace_id=span.trace_id.hex(),
                    span_id=span.span_id.hex(),
                    parent_id=span.parent_span_id.hex(),
                    links=[(link.trace_id.hex(), link.span_id.hex()) for link in span.links],
                    attributes=_attributes(span.attributes),
                    is_failed=span.status.code == span.status.STATUS_CODE_ERROR,
                    began=span.start_time_unix_nano,
                    ended=span.end_time_unix_nano,
                )


def _attributes(found: Any) -> dict[str, Any]:
    return {each.key: getattr(each.value, each.value.WhichOneof("value")) for each in found}


class Traced:
    """Tracing that is on, in one trace that does not change. It keeps nothing."""

    def __init__(self, context: Context) -> None:
        self._context = context

    def span(self, *_: object, **__: object) -> object:
        return NO_SPAN

    def ended(self, *_: object) -> None:
        pass

    def context(self) -> Context:
        return self._context

    def stop(self) -> None:
        pass
