"""
Traces: spans of OpenTelemetry. Off, and at no cost, unless ``OTEL_EXPORTER_OTLP_ENDPOINT`` is set. Edge.

One trace follows a training from Replicate's webhook to `model.activated`: each message carries the W3C trace context
of the span that published it, and each delivery's span is a child of that span. Attributes follow OpenTelemetry's
semantic conventions, but hold nothing that could be a secret or name a user: no text, no URL, no address.

Only `opentelemetry_spans` imports OpenTelemetry, and it is only imported when tracing is on.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Final

from shared.runtime.span import NO_SPAN, Attributes, Context, Kind, Span

if TYPE_CHECKING:
    from shared.runtime.opentelemetry_spans import OpenTelemetry

_ENDPOINTS: Final = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
_PROTOCOLS: Final = ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")
_PROTOCOL: Final = "http/protobuf"

_spans: OpenTelemetry | None = None


def start(service: str, environment: Mapping[str, str] | None = None) -> None:
    """Turn tracing on if the environment asks for it. It never keeps the process from starting."""
    global _spans  # noqa: PLW0603 (one process has one tracer)
    given = os.environ if environment is None else environment
    if given.get("OTEL_SDK_DISABLED", "").lower() == "true" or not any(map(given.get, _ENDPOINTS)):
        return
    import structlog  # noqa: PLC0415 (commands, which must begin quickly, import this module for its spans)

    log = structlog.get_logger()
    protocol = next(filter(None, map(given.get, _PROTOCOLS)), _PROTOCOL)
    if protocol != _PROTOCOL:
        log.warning(
            "tracing.off", detail=f"traces are sent as {_PROTOCOL} only, not as {protocol}", hint=_PROTOCOLS[-1]
        )
        return
    try:
        from shared.runtime.opentelemetry_spans import OpenTelemetry  # noqa: PLC0415 (only when tracing is on)

        _spans = OpenTelemetry(service)
    except ImportError as error:
        log.warning("tracing.off", detail=str(error), hint='install the wheel of modelswap with its extra "otel"')
    except ValueError as error:
        log.warning("tracing.off", detail=str(error), hint="see the variables OTEL_…")
    else:
        log.info("tracing.started")


def stop() -> None:
    """Send the last spans."""
    global _spans  # noqa: PLW0603
    if _spans is not None:
        _spans.stop()
        _spans = None


def is_on() -> bool:
    return _spans is not None


def span(
    name: str,
    kind: Kind,
    attributes: Attributes = NO_SPAN.context,
    *,
    parent: Context = NO_SPAN.context,
    links: Sequence[Context] = (),
    is_root: bool = False,
) -> Span:
    """Start a span: a child of *parent*; without one, of the current span, or with *is_root* the first of a trace."""
    return NO_SPAN if _spans is None else _spans.span(name, kind, attributes, parent, links, is_root=is_root)


def ended(name: str, seconds: float, attributes: Attributes, *, error: str | None = None) -> None:
    """
    Record a call to a server, which took *seconds* and has ended just now, as a child of the current span.

    Without one nothing is recorded: loops that poll would fill the store of traces.
    """
    if _spans is not None:
        _spans.ended(name, seconds, attributes, error)


def context() -> Context:
    """Return the current span's trace context; empty if there is none."""
    return NO_SPAN.context if _spans is None else _spans.context()
