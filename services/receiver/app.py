"""
The webhook endpoint. Edge: one webhook in, one confirmed message out, nothing stored.

    202  the broker confirmed the message      400  the body is not a training
    401  signature missing, malformed, wrong   413  larger than the limit, or than any message can be
         or stale, or another training's URL
    503  the broker did not confirm or has a queue of another kind, or no secret is known yet: Replicate retries, for
         about a minute

A webhook with an unknown status is answered 202 too: it is kept whole as a dead letter, to be replayed later.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

import structlog
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route
from starlette.types import Receive, Scope, Send

from services.receiver.webhook_secrets import Secrets
from shared.contract.envelope import Envelope, wrap
from shared.contract.errors import DependencyDown, ModelswapError, PermanentError
from shared.contract.headers import TRACE_HEADERS, trace_context
from shared.contract.limits import Unpublishable
from shared.contract.topology import RECEIVER, Topology
from shared.replicate.signature import BadSignature, verify
from shared.replicate.training import NotATraining, Training, decode_training
from shared.replicate.translate import UnknownStatus, translate
from shared.replicate.webhook_url import ForeignRef, Origin, find_origin, origin_headers
from shared.runtime import telemetry, tracing
from shared.runtime.broker import Delivery, Outgoing, TopologyMismatch, dead_letter, to_message
from shared.runtime.clock import now
from shared.runtime.logs import log_fact
from shared.runtime.problems import problem
from shared.runtime.span import Kind

log = structlog.get_logger()

#: Longest wait for the confirm. Replicate waits "a few seconds" for our answer.
ANSWER_SECONDS: Final = 3.0
_RETRY_AFTER: Final = {"Retry-After": "5"}
#: Results of webhooks, as counted in metrics and used by alerts.
_RESULTS: Final = (
    "accepted",
    "empty",
    "foreign_ref",
    "internal",
    "malformed_headers",
    "missing_headers",
    "not_a_training",
    "stale_timestamp",
    "too_large",
    "unavailable",
    "unpublishable",
    "wrong_signature",
)
_ACCEPTED: Final = Response(status_code=202)
_PATH: Final = "/webhooks/replicate"
#: Attributes of the webhook's span.
_ABOUT: Final = {"http.request.method": "POST", "http.route": _PATH}


class TooLarge(PermanentError):
    """The body is larger than `MODELSWAP_MAX_BODY_BYTES`."""

    code = "too_large"


class Publisher(Protocol):
    """Publishes a message and waits for the broker's confirm."""

    async def publish(self, message: Outgoing) -> None: ...


@dataclass(frozen=True, slots=True)
class WebhookEndpoint:
    """``POST /webhooks/replicate``, as an ASGI application."""

    publisher: Publisher
    secrets: Secrets
    topology: Topology
    ref_secrets: Sequence[str]
    tolerance_seconds: float
    max_body_bytes: int
    clock: Callable[[], float] = time.time  # noqa: TID251 (this is an edge)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one webhook, without Starlette's wrapper for functions."""
        began = time.perf_counter()
        request = Request(scope, receive)
        # Headers are not signed: with tracing on, we start a trace of our own, with a link to theirs.
        outside = trace_context(*map(request.headers.getlist, TRACE_HEADERS))
        with tracing.span(f"POST {_PATH}", Kind.SERVER, _ABOUT, links=[outside], is_root=True) as span:
            try:
                answer = await self._answer(request, span.context or outside)
                span.answered(answer.status_code)
                await answer(scope, receive, send)
            finally:
                telemetry.webhook_seconds.observe(time.perf_counter() - began, telemetry.exemplar())

    async def _answer(self, request: Request, trace: Mapping[str, str]) -> Response:
        try:
            body = await self._read(request)  # the server limits its time
        except ClientDisconnect:
            return problem(408, "request-timeout", "the body did not arrive")
        except TooLarge as error:
            return _refusal(413, error)
        training: Training | None = None
        try:
            await self._authenticate(request, body)
            training = decode_training(body)
            envelope = await self._publish(request, body, training, trace)
        except (BadSignature, ForeignRef, NotATraining) as error:
            return _refusal(400 if isinstance(error, NotATraining) else 401, error, training)
        except Unpublishable as error:  # not even as a dead letter, so a 5xx and its retries would not help
            return _lost(error, training)
        except (DependencyDown, TopologyMismatch) as error:
            return _unavailable(error, training)
        except Exception:
            telemetry.webhooks.labels("internal").inc()
            raise
        telemetry.webhooks.labels("accepted").inc()
        if envelope is not None:
            log_fact(log, "webhook.accepted", envelope, webhook_id=request.headers.get("webhook-id"))
        return _ACCEPTED

    async def _read(self, request: Request) -> bytes:
        body = bytearray()
        async for chunk in request.stream():
            body += chunk
            if len(body) > self.max_body_bytes:
                raise TooLarge(f"the body is larger than {self.max_body_bytes} bytes (MODELSWAP_MAX_BODY_BYTES)")
        return bytes(body)

    async def _authenticate(self, request: Request, body: bytes) -> None:
        """Verify the signature over the raw *body*, before anything parses it."""
        message_id = _only(request, "webhook-id")
        timestamp = _only(request, "webhook-timestamp")
        signatures = _only(request, "webhook-signature")

        def check(secrets: Sequence[str]) -> None:
            verify(
                secrets,
                message_id=message_id,
                timestamp=timestamp,
                signatures=signatures,
                body=body,
                now=self.clock(),
                tolerance_seconds=self.tolerance_seconds,
            )

        await self.secrets.check(check)

    async def _publish(
        self, request: Request, body: bytes, training: Training, trace: Mapping[str, str]
    ) -> Envelope | None:
        """Publish the event that *training* reports, and return it; None if the webhook became a dead letter."""
        called = request.query_params.getlist("ref") if request.scope["query_string"] else ()
        origin = find_origin(training, called, self.ref_secrets)
        try:
            event = translate(training, origin, size_bytes=len(body))
            envelope = wrap(event, source="receiver", now=now(), trace=trace)
            await self.publisher.publish(to_message(envelope, self.topology))
        except (UnknownStatus, Unpublishable) as error:
            log.warning("webhook.parked", training_id=training.id, error=error.code, detail=str(error))
            await self.publisher.publish(dead_letter(_as_delivery(request, body, origin, trace), error, now=now()))
            return None
        return envelope


def create_app(endpoint: WebhookEndpoint, *, routes: Sequence[BaseRoute] = ()) -> Starlette:
    """Create the receiver's ASGI application; *routes* are the health routes."""
    for result in _RESULTS:
        telemetry.webhooks.labels(result)
    app = Starlette(
        routes=[Route(_PATH, endpoint, methods=["POST"]), *routes],
        exception_handlers={HTTPException: _http_problem, Exception: _internal_problem},
    )
    # A redirect would repeat the Host header, which the client controls.
    app.router.redirect_slashes = False
    return app


def _only(request: Request, name: str) -> str:
    """Return the value of a header. Refuse duplicates: proxies and we might each read a different one."""
    values = request.headers.getlist(name)
    if len(values) > 1:
        raise BadSignature(f"{name} is given twice", code="malformed_headers")
    return values[0] if values else ""


def _as_delivery(request: Request, body: bytes, origin: Origin, trace: Mapping[str, str]) -> Delivery:
    """Wrap the webhook itself as a delivery with its origin, so that it can be dead-lettered like any message."""
    return Delivery(
        queue=RECEIVER,
        tag=0,
        exchange="",
        routing_key=request.url.path,
        headers={"webhook-id": request.headers.get("webhook-id", ""), **origin_headers(origin), **trace},
        content_type="application/json",
        body=body,
    )


def _refusal(status: int, error: ModelswapError, training: Training | None = None) -> Response:
    """Refuse a webhook; *training* is what it reports, if its body is authentic and can be read."""
    telemetry.webhooks.labels(error.code).inc()
    facts = {} if training is None else {"training_id": training.id}
    log.info("webhook.refused", status=status, error=error.code, detail=str(error), **facts)
    return problem(status, error.code.replace("_", "-"), str(error))


def _lost(error: Unpublishable, training: Training | None) -> Response:
    hint = "if the training has ended, the reconciler finds that at Replicate"
    log.error("webhook.lost", error=error.code, detail=str(error), hint=hint, training_id=training and training.id)
    return _refusal(413, Unpublishable(str(error), code="unpublishable"), training)


def _unavailable(error: ModelswapError, training: Training | None) -> Response:
    telemetry.webhooks.labels("unavailable").inc()
    log.error("webhook.unavailable", detail=str(error), training_id=training and training.id)
    return problem(
        503,
        "unavailable",
        "try again: the broker did not confirm, or the webhook secret is not known yet",
        headers=_RETRY_AFTER,
    )


async def _http_problem(_: Request, error: Exception) -> Response:
    if not isinstance(error, HTTPException):  # pragma: no cover (Starlette hands over what was registered)
        raise error
    return problem(error.status_code, "http", error.detail, headers=error.headers)


async def _internal_problem(_: Request, error: Exception) -> Response:
    log.error("webhook.broken", exc_info=error)
    return problem(500, "internal", "an internal error; it is logged")
