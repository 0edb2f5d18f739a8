"""Spans of OpenTelemetry, sent with OTLP over HTTP: the only module that imports it, for `tracing`. Edge."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from importlib.metadata import version
from typing import Final, Self

import structlog
from opentelemetry import context as current
from opentelemetry import trace as api
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import OTELResourceDetector, Resource
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExportResult
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from shared.contract.errors import UNEXPECTED, code_of
from shared.runtime.span import Attributes, Context, Kind, Span

log = structlog.get_logger()

_SCHEMA: Final = "https://opentelemetry.io/schemas/1.44.0"
#: Sending the last spans may not delay the end of the process.
_STOP_SECONDS: Final = 1.0
_W3C: Final = TraceContextTextMapPropagator()
_NOWHERE: Final = current.Context()
_NANOSECONDS: Final = 1_000_000_000


class _Span(Span):
    """A recorded span."""

    def __init__(self, span: api.Span) -> None:
        self._span = span
        headers: dict[str, str] = {}
        _W3C.inject(headers, api.set_span_in_context(span, _NOWHERE))
        self.context = headers

    def __enter__(self) -> Self:
        self._token = current.attach(api.set_span_in_context(self._span))
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, frames: object) -> None:
        current.detach(self._token)
        if error is not None and self._span.is_recording():
            self.fail(_error_type(error))
        self.end()

    def at_work(self) -> AbstractContextManager[object]:
        # An error's text and traceback may hold what no attribute may.
        return api.use_span(self._span, record_exception=False, set_status_on_exception=False)

    def rename(self, name: str) -> None:
        self._span.update_name(name)

    def set(self, name: str, value: str | int) -> None:
        self._span.set_attribute(name, value)

    def link(self, other: Context) -> None:
        self._span.add_link(_to_span_context(other))

    def fail(self, error: str) -> None:
        self._span.set_attribute("error.type", error)
        self._span.set_status(api.StatusCode.ERROR)

    def end(self) -> None:
        if self._span.is_recording():
            self._span.end()


class _Exporter(OTLPSpanExporter):
    """Reports an outage of the collector once; the library would log every attempt."""

    _is_failing = False

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        result = super().export(spans)
        is_failing = result is not SpanExportResult.SUCCESS
        if is_failing and not self._is_failing:
            log.warning("tracing.failing", hint="the collector of OTEL_EXPORTER_OTLP_ENDPOINT does not take our spans")
        elif self._is_failing and not is_failing:
            log.info("tracing.recovered")
        self._is_failing = is_failing
        return result


class OpenTelemetry:
    """Spans of one process. The SDK's own variables say what is sampled, how much is buffered and where it is sent."""

    def __init__(self, service: str) -> None:
        """
        Start sending.

        Raises:
            ValueError: if one of the SDK's variables cannot be used.

        """
        number = version("modelswap")
        own = {"service.namespace": "modelswap", "service.name": service, "service.version": number}
        # Not the global provider: FastAPI and others would add spans of their own, with paths and addresses.
        self._provider = TracerProvider(
            resource=Resource.create(own).merge(OTELResourceDetector().detect()), shutdown_on_exit=False
        )
        self._provider.add_span_processor(BatchSpanProcessor(_Exporter()))
        self._tracer = self._provider.get_tracer("modelswap", number, schema_url=_SCHEMA)

    def span(
        self, name: str, kind: Kind, attributes: Attributes, parent: Context, links: Sequence[Context], *, is_root: bool
    ) -> Span:
        """Start a span, as `tracing.span` says."""
        before = _W3C.extract(parent, _NOWHERE) if parent else _NOWHERE if is_root else None
        return _Span(
            self._tracer.start_span(
                name,
                before,
                api.SpanKind[kind],
                attributes,
                [api.Link(_to_span_context(link)) for link in links if link],
            )
        )

    def context(self) -> Context:
        """Return the current span's trace context."""
        headers: dict[str, str] = {}
        _W3C.inject(headers)
        return headers

    def ended(self, name: str, seconds: float, attributes: Attributes, error: str | None) -> None:
        """Record a span that has ended just now, as `tracing.ended` says."""
        # Not `is_recording`: the current span may have ended meanwhile.
        if not api.get_current_span().get_span_context().trace_flags.sampled:
            return
        now = time.time_ns()
        span = self._tracer.start_span(
            name,
            kind=api.SpanKind.CLIENT,
            attributes=attributes,
            start_time=now - int(seconds * _NANOSECONDS),
        )
        if error is not None:
            _Span(span).fail(error)
        span.end(now)

    def stop(self) -> None:
        """Send what is left, as far as the collector takes it at once."""
        sending = threading.Thread(target=self._provider.shutdown, daemon=True)
        sending.start()
        sending.join(_STOP_SECONDS)


def _to_span_context(headers: Mapping[str, str]) -> api.SpanContext:
    return api.get_current_span(_W3C.extract(headers, _NOWHERE)).get_span_context()


def _error_type(error: BaseException) -> str:
    code = code_of(error)
    return type(error).__name__ if code == UNEXPECTED else code
