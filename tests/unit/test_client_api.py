"""How the client of subscribers reads a page over HTTP: bounded, whole or not at all, and to the given address only."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from datetime import UTC, datetime

import pytest

from modelswap_events import Change, ModelRef
from modelswap_events.api import HttpApi
from modelswap_events.errors import Away, Refused

MODEL = f"acme/ann:{64 * 'a'}"
PAGE = json.dumps(
    {
        "items": [
            {"user_id": "ann", "generation": 3, "model": {"reference": MODEL, "trigger_word": "TOK", "more": 1}},
            {"user_id": "ben", "generation": 2, "withdrawn": True},
        ],
        "next_cursor": "c d",
        "next_updated_since": "2026-11-28T23:00:00Z",
    }
)


def whole(body: str, status: str = "200 OK", headers: str = "") -> bytes:
    return f"HTTP/1.1 {status}\r\n{headers}Content-Length: {len(body)}\r\n\r\n{body}".encode()


@contextlib.asynccontextmanager
async def answering(
    *parts: bytes, is_endless: bool = False, hangs: bool = False
) -> AsyncIterator[tuple[str, list[str]]]:
    """A server that answers these bytes, and what it was asked."""
    asked: list[str] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.closing(writer), contextlib.suppress(ConnectionError):
            asked.append((await reader.readuntil(b"\r\n\r\n")).decode())
            for part in parts:
                writer.write(part)
                await writer.drain()
            if hangs:
                await reader.read()
            while is_endless:
                writer.write(bytes(65536))
                await writer.drain()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", asked


async def test_a_page_has_models_and_withdrawals():
    async with answering(whole(PAGE)) as (url, _):
        page = await HttpApi(url, "secret").get_page(None, None)

    assert page.changes == (Change("ann", 3, ModelRef.parse(MODEL), "TOK"), Change("ben", 2, None))
    assert (page.next_cursor, page.next_updated_since) == ("c d", datetime(2026, 11, 28, 23, tzinfo=UTC))


async def test_it_asks_for_what_it_is_told_with_the_token():
    async with answering(whole(PAGE)) as (url, asked):
        await HttpApi(f"{url}/below/", "secret").get_page(datetime(2026, 1, 1, tzinfo=UTC), "c d")

    lines = asked[0].split("\r\n")
    assert lines[0] == "GET /below/v1/models?limit=500&updated_since=2026-01-01T00%3A00%3A00Z&cursor=c+d HTTP/1.1"
    assert {"Authorization: Bearer secret", f"Host: {url.removeprefix('http://')}", "Connection: close"} <= set(lines)


async def test_a_response_in_chunks_is_read():
    chunks = f"{len(PAGE):x}\r\n{PAGE}\r\n0\r\n\r\n"
    head = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"

    async with answering(head.encode(), chunks[:30].encode(), chunks[30:].encode()) as (url, _):
        page = await HttpApi(url, "secret").get_page(None, None)

    assert len(page.changes) == 2


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        whole(PAGE)[:-1],
        f"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n{len(PAGE):x}\r\n{PAGE}\r\n".encode(),
        b"220 smtp.example.com\r\n",
        whole('{"items": [{"user_id": "ann", "generation": 3, "model": {"reference": "null:null"}}]}'),
        whole('{"items": [{"user_id": "ann", "generation": 0}]}'),
        whole("<html>"),
        whole("{}", "503 Service Unavailable"),
        whole("{}", "429 Too Many Requests"),
        whole("{}", "307 Temporary Redirect", "Location: http://127.0.0.1:1/\r\n"),
    ],
    ids=["nothing", "cut", "last-chunk-missing", "not-http", "no-ref", "no-generation", "html", "503", "429", "307"],
)
async def test_a_response_that_is_no_page_is_tried_again(answer: bytes):
    async with answering(answer) as (url, _):
        with pytest.raises(Away, match=r"^http://127\.0\.0\.1:"):
            await HttpApi(url, "secret").get_page(None, None)


@pytest.mark.parametrize("status", ["401 Unauthorized", "403 Forbidden", "404 Not Found", "422 Unprocessable Content"])
async def test_a_refusal_says_why_and_not_the_token(status: str):
    async with answering(whole('{"detail": "no such token"}', status)) as (url, _):
        with pytest.raises(Refused, match=f"answered {status[:3]}: no such token") as refused:
            await HttpApi(url, "secret").get_page(None, None)

    assert "secret" not in str(refused.value)


async def test_an_endless_response_is_cut_off():
    async with answering(whole(PAGE), is_endless=True) as (url, _):
        with pytest.raises(Away, match="more than 8388608 bytes"):
            await HttpApi(url, "secret").get_page(None, None)


async def test_a_server_that_is_away_is_tried_again():
    with pytest.raises(Away, match=r"http://127\.0\.0\.1:1 does not answer"):
        await HttpApi("http://user:password@127.0.0.1:1/", "secret").get_page(None, None)


async def test_a_server_that_says_nothing_is_given_up():
    async with answering(hangs=True) as (url, _):
        with pytest.raises(Away, match="does not answer: TimeoutError"):
            await HttpApi(url, "secret", seconds=0.1).get_page(None, None)


@pytest.mark.parametrize("url", ["127.0.0.1:8081", "ftp://127.0.0.1", "http://"])
def test_an_address_that_is_none_is_refused_at_once(url: str):
    with pytest.raises(ValueError, match="is not the address of modelswap's API"):
        HttpApi(url, "secret")


def test_a_token_that_would_add_a_header_is_refused():
    with pytest.raises(ValueError, match="characters that no token"):
        HttpApi("http://127.0.0.1", "secret\r\nHost: evil.example.com")
