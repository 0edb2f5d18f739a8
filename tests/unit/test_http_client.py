"""The HTTP client of ops and the command line: which error says what failed, and how pages are walked."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from urllib.parse import unquote

import httpx
import pytest
from pydantic import BaseModel

from shared.contract.answers import Page
from shared.runtime.client import HttpClient, Hung, NotReached, ServiceFailed, Unanswered, items, quoted, read


class Thing(BaseModel):
    name: str


@asynccontextmanager
async def server(answer: bytes, *, hangs_up: bool, before: Sequence[bytes] = ()) -> AsyncIterator[str]:
    """A server that answers with *before*, then *answer*, then hangs up or falls silent; its address."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for said in (*before, answer):
            await reader.readuntil(b"\r\n\r\n")
            writer.write(said)
        if not hangs_up:
            await reader.read()  # until the client hangs up
        writer.close()

    listening = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with listening:
        yield f"http://127.0.0.1:{listening.sockets[0].getsockname()[1]}"


async def test_nothing_that_listens_is_not_reached():
    async with HttpClient("http://127.0.0.1:1") as http:
        with pytest.raises(NotReached, match=r"http://127.0.0.1:1/readyz does not answer \(ConnectError\)"):
            await http.request("GET", "/readyz")


@pytest.mark.parametrize("begun", [b"", b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nhalf"])
@pytest.mark.parametrize(("seconds", "deadline"), [(0.2, None), (10, 0.2)])
async def test_a_silent_server_hangs(begun: bytes, seconds: float, deadline: float | None):
    whole = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n"
    async with server(begun, hangs_up=False, before=[whole]) as url, HttpClient(url) as http:
        # From here on there is a connection, however slow this machine is.
        await http.request("GET", "/")
        with pytest.raises(Hung):
            await http.request("GET", "/", seconds=seconds, deadline_seconds=deadline)


async def test_a_connection_that_breaks_is_unanswered_but_no_hang():
    async with server(b"", hangs_up=True) as url, HttpClient(url) as http:
        with pytest.raises(Unanswered) as failed:
            await http.request("GET", "/")

    assert not isinstance(failed.value, Hung | NotReached)
    assert failed.value.why == "RemoteProtocolError"


@pytest.mark.parametrize(
    ("status", "body", "why"), [(500, {"detail": "broken"}, "answered 500: broken"), (200, {}, "another version")]
)
def test_a_response_that_is_not_the_thing_is_a_failure(status: int, body: dict[str, str], why: str):
    response = httpx.Response(status, json=body, request=httpx.Request("GET", "http://state/things"))

    with pytest.raises(ServiceFailed, match=f"http://state/things .*{why}"):
        read(Thing, response)


async def test_the_query_of_an_address_is_sent():
    asked: list[str] = []

    def answer(request: httpx.Request) -> httpx.Response:
        asked.append(str(request.url))
        return httpx.Response(204)

    async with HttpClient("http://hooks", transport=httpx.MockTransport(answer)) as http:
        await http.request("POST", "/events?from=modelswap")

    assert asked == ["http://hooks/events?from=modelswap"]


@pytest.mark.parametrize("name", [".", "..", "...", "a/b", "a b%", "{}"])
def test_any_name_is_one_segment_of_a_path(name: str):
    request = httpx.Client(base_url="http://state").build_request("GET", f"/v1/users/{quoted(name)}/trainings")

    assert [unquote(part) for part in request.url.raw_path.decode().split("/")] == [
        "",
        "v1",
        "users",
        name,
        "trainings",
    ]


async def test_parameters_and_headers_that_are_none_are_left_out():
    asked: list[httpx.Request] = []

    def answer(request: httpx.Request) -> httpx.Response:
        asked.append(request)
        return httpx.Response(204)

    async with HttpClient("http://ops", token="t", transport=httpx.MockTransport(answer)) as http:
        await http.request("GET", "/things", query={"stage": None, "limit": "1"}, headers={"If-Match": None})

    assert (str(asked[0].url), "if-match" in asked[0].headers) == ("http://ops/things?limit=1", False)
    assert asked[0].headers["authorization"] == "Bearer t"


@pytest.mark.parametrize(("limit", "names", "pages"), [(None, "abcde", 3), (3, "abc", 2), (2, "ab", 1), (0, "", 0)])
async def test_pages_are_walked_up_to_the_limit(limit: int | None, names: str, pages: int):
    asked: list[Mapping[str, str]] = []

    async def get_page(query: Mapping[str, str]) -> Page[str]:
        asked.append(query)
        begin = int(query.get("cursor", "0"))
        end = begin + int(query["limit"])
        return Page(items=list("abcde"[begin:end]), next_cursor=str(end) if end < 5 else None)

    found = [name async for name in items(get_page, page_size=2, limit=limit)]

    assert ("".join(found), len(asked)) == (names, pages)


async def test_a_body_over_the_limit_is_not_read_to_its_end():
    endless = b"HTTP/1.1 200 OK\r\ncontent-length: 1000000\r\n\r\n" + b"x" * 2000

    async with server(endless, hangs_up=False) as url, HttpClient(url) as http:
        with pytest.raises(ServiceFailed, match="more than 1000 bytes"):
            await http.request("GET", limit_bytes=1000)


async def test_a_body_within_the_limit_is_whole():
    whole = b'HTTP/1.1 200 OK\r\ncontent-length: 15\r\n\r\n{"name": "ada"}'

    async with server(whole, hangs_up=True) as url, HttpClient(url) as http:
        answer = await http.request("GET", limit_bytes=15)

    assert read(Thing, answer) == Thing(name="ada")


def test_httpx_is_imported_without_its_command_line():
    code = "import sys, shared.runtime.client; print([name for name in ('click', 'pygments') if name in sys.modules])"

    root = Path(__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=root, check=False)

    assert (done.stdout, done.stderr) == ("[]\n", "")
