"""Spans of requests to our APIs: named by the route, in the caller's trace, without what the client wrote."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Mapping
from contextlib import AbstractContextManager, asynccontextmanager, nullcontext

import httpx
import pytest
import structlog
from pydantic import BaseModel
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Mount, Route

from services.cli.product.client import Product
from shared.runtime import logs, tracing
from shared.runtime.client import HttpClient
from shared.runtime.health import reporter
from shared.runtime.http import create_app, new_api
from shared.runtime.middleware import TraceRequests
from shared.runtime.span import Kind
from shared.runtime.sse import EventStream
from shared.runtime.tokens import read_token
from tests.collector import Collector, Span, tracing_here

TRACE, PARENT = "a" * 32, "b" * 16
CALLED = {"traceparent": f"00-{TRACE}-{PARENT}-01"}


class Answer(BaseModel):
    number: int


class OneEvent:
    """A client of a stream, which gets one event and stays until the test lets it go."""

    def __init__(self) -> None:
        self.is_told, self.goes = asyncio.Event(), asyncio.Event()

    async def chunks(self) -> AsyncGenerator[bytes, None]:
        yield b"data: 1\n\n"
        self.is_told.set()
        await self.goes.wait()


@pytest.fixture
def collector(monkeypatch: pytest.MonkeyPatch) -> Iterator[Collector]:
    """Tracing is on; its spans are there after `tracing.stop`."""
    with tracing_here("test", monkeypatch) as found:
        yield found


@pytest.fixture
def as_at_start() -> Iterator[None]:
    """Logs are as before, after the test."""
    yield
    structlog.reset_defaults()


def application(follower: OneEvent | None = None) -> Starlette:
    """An application with an API below /v1, a console, and health."""
    api = new_api(tags={}, title="an API", summary="For a test.", tokens=(read_token("t"),), statuses={})

    @api.get("/users/{user_id:path}/model")
    async def get_model(user_id: str, kind: str = "") -> str:
        """Return what was asked for."""
        structlog.get_logger().info("model.asked_for")
        return user_id + kind

    @api.get("/answer")
    async def get_answer() -> Answer:
        """Return an object."""
        return Answer(number=42)

    @api.get("/broken")
    async def break_down() -> None:
        """Fail, as a bug would."""
        raise KeyError("ada@example.com")

    @api.get("/events")
    async def follow() -> Response:
        """Follow something."""

        def followed() -> AbstractContextManager[OneEvent]:
            assert follower is not None
            return nullcontext(follower)

        return EventStream(followed)

    async def show(_: Request) -> Response:
        return Response("a page")

    console = Starlette(routes=[Route("/trainings/{training_id}", show)])
    return create_app(api, reporter({}), console=console)


@asynccontextmanager
async def asking(app: Starlette) -> AsyncIterator[httpx.AsyncClient]:
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    async with httpx.AsyncClient(
        transport=transport, base_url="http://test", headers={"Authorization": "Bearer t"}
    ) as client:
        yield client


async def spans_of(
    collector: Collector, path: str, *, method: str = "GET", headers: Mapping[str, str] | None = None
) -> list[Span]:
    """The spans of one request."""
    async with asking(application()) as client:
        await client.request(method, path, headers=headers)
    tracing.stop()
    return collector.spans


@pytest.mark.parametrize(
    ("method", "path", "name", "status"),
    [
        ("GET", "/v1/users/ada/of/acme/model?kind=secret", "GET /v1/users/{user_id}/model", 200),
        ("POST", "/v1/users/ada/model", "POST /v1/users/{user_id}/model", 405),
        ("GET", "/v1/users/ada/model?unknown=secret", "GET /v1/users/{user_id}/model", 422),
        ("GET", "/v1/ada", "GET", 404),
        ("GET", "/trainings/ada?x=secret", "GET /trainings/{training_id}", 200),
        ("GET", "/ada", "GET", 404),
    ],
)
async def test_a_request_is_named_by_its_route(method, path, name, status, collector):
    (span,) = await spans_of(collector, path, method=method)

    _, _, route = name.partition(" ")
    assert (str(span), span.parent_id) == (f"test SERVER {name}", "")
    assert span.attributes == {
        "http.request.method": method,
        "http.response.status_code": status,
        **({"http.route": route} if route else {}),
    }


async def test_a_bug_fails_the_span_and_names_no_text(collector):
    (span,) = await spans_of(collector, "/v1/broken")

    assert str(span) == "test SERVER GET /v1/broken FAILED"
    assert (span.attributes["http.response.status_code"], span.attributes["error.type"]) == (500, "KeyError")
    assert "ada" not in str(span.attributes)


async def test_a_request_without_a_token_is_in_a_trace(collector):
    (span,) = await spans_of(collector, "/v1/users/ada/model", headers={"Authorization": "Bearer x"})

    assert (str(span), span.attributes["http.response.status_code"]) == ("test SERVER GET", 401)


async def test_a_method_that_is_made_up_names_no_span(collector):
    (span,) = await spans_of(collector, "/ada", method="ADA")

    assert (span.name, span.attributes["http.request.method"]) == ("HTTP", "_OTHER")


@pytest.mark.parametrize("path", ["/livez", "/healthz", "/readyz", "/metrics"])
async def test_health_and_metrics_are_in_no_trace(path, collector):
    assert await spans_of(collector, path) == []


async def test_a_request_continues_the_trace_of_its_caller(collector):
    (span,) = await spans_of(collector, "/v1/users/ada/model", headers=CALLED)

    assert (span.trace_id, span.parent_id) == (TRACE, PARENT)


async def test_a_caller_that_is_not_sampled_is_not_recorded(collector):
    assert await spans_of(collector, "/v1/users/ada/model", headers={"traceparent": f"00-{TRACE}-{PARENT}-00"}) == []


async def test_a_stream_ends_its_span_when_it_begins(collector):
    follower = OneEvent()
    async with asking(application(follower)) as client:
        request = asyncio.create_task(client.get("/v1/events"))
        await follower.is_told.wait()
        tracing.stop()
        spans = list(collector.spans)
        follower.goes.set()
        await request

    assert [(str(span), span.attributes["http.response.status_code"]) for span in spans] == [
        ("test SERVER GET /v1/events", 200)
    ]


async def test_our_client_hands_its_trace_on(collector):
    async with HttpClient("http://test", token="t", transport=httpx.ASGITransport(application())) as client:
        with tracing.span("work", Kind.INTERNAL):
            await client.request("GET", "/v1/users/ada/model")
    tracing.stop()

    asked, work = sorted(collector.spans, key=lambda span: span.kind == "INTERNAL")
    assert (asked.trace_id, asked.parent_id) == (work.trace_id, work.span_id)


async def test_a_command_continues_the_trace_of_its_job(monkeypatch, collector):
    monkeypatch.setenv("TRACEPARENT", CALLED["traceparent"])

    async with Product("http://test", "t", transport=httpx.ASGITransport(application())) as product:
        await product.ask(Answer, "GET", "/v1/answer")
    tracing.stop()

    assert [(span.trace_id, span.parent_id) for span in collector.spans] == [(TRACE, PARENT)]


async def test_a_line_of_a_request_has_its_trace_id(collector, capsys, as_at_start):
    logs.configure("test")

    await spans_of(collector, "/v1/users/ada/model", headers=CALLED)

    (line,) = [json.loads(each) for each in capsys.readouterr().out.splitlines()]
    assert (line["event"], line["trace_id"]) == ("model.asked_for", TRACE)


def test_without_tracing_an_application_is_as_it_was():
    mounted = [type(route.app) for route in application().routes if isinstance(route, Mount)]

    assert (len(mounted), TraceRequests in mounted) == (2, False)
