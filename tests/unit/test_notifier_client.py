"""The client of webhook endpoints that others chose: whom it calls, and what a bad one can do to it."""

from __future__ import annotations

import asyncio
import socket
import ssl
import subprocess
import threading
from collections.abc import AsyncIterator, Sequence
from contextlib import ExitStack, asynccontextmanager, suppress
from ipaddress import ip_network
from pathlib import Path

import pytest

from services.notifier.client import Client, look_up
from tests.webhooks import Endpoint, answer, drip, gigabyte, gigabyte_of_headers, interim_without_end, never, reset

LOOPBACK = (ip_network("127.0.0.0/8"),)
NAME = "hooks.example.com"


class Names:
    """A name server that gives one answer after the other, and the last one over and over."""

    def __init__(self, *answers: Sequence[str]) -> None:
        self.answers = list(answers)
        self.asked: list[str] = []

    async def __call__(self, host: str, _: int) -> Sequence[str]:
        self.asked.append(host)
        return self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One for `NAME`, signed by itself, with its key."""
    folder = tmp_path_factory.mktemp("certificate")
    command = [
        "openssl",
        "req",
        "-x509",
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:P-256",
        "-nodes",
        "-days",
        "2",
    ]
    names = ["-subj", f"/CN={NAME}", "-addext", f"subjectAltName=DNS:{NAME}"]
    files = ["-keyout", str(folder / "key.pem"), "-out", str(folder / "cert.pem")]
    subprocess.run([*command, *names, *files], check=True, capture_output=True)
    return folder


def trusting(certificate: Path) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=certificate / "cert.pem")


def presenting(certificate: Path) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate / "cert.pem", certificate / "key.pem")
    return context


async def test_the_checked_address_is_called_by_name_and_certificate(certificate):
    names = Names(["127.0.0.2"])
    client = Client(allowed=LOOPBACK, resolve=names, tls=trusting(certificate))
    async with Endpoint(answer(200, b"ok"), tls=presenting(certificate)) as server:
        right = await client.post(f"https://{NAME}:{server.port}/a?b=c", b"{}", {"x": "y"})
        wrong = await client.post(f"https://other.example.com:{server.port}/", b"{}", {})

        (heard,) = server.heard
        assert (right.status, right.text) == (200, "ok")
        assert (heard.target, heard.headers["host"], heard.headers["x"]) == ("/a?b=c", f"{NAME}:{server.port}", "y")
        assert wrong.status is None
        assert "certificate" in wrong.text
        assert names.asked == [NAME, "other.example.com"]


async def test_a_name_that_leads_here_later_is_not_called(certificate):
    """DNS rebinding: the name is looked up and checked at every attempt."""
    allowed = (ip_network("127.0.0.2/32"),)
    client = Client(allowed=allowed, resolve=Names(["127.0.0.2"], ["127.0.0.1"]), tls=trusting(certificate))
    async with Endpoint(answer(200), host="0.0.0.0", tls=presenting(certificate)) as server:
        url = f"https://{NAME}:{server.port}/"

        first, second = await client.post(url, b"{}", {}), await client.post(url, b"{}", {})

        assert first.status == 200
        assert (second.status, "127.0.0.1" in second.text) == (None, True)
        assert len(server.heard) == 1


@pytest.mark.parametrize("addresses", [["127.0.0.1"], ["8.8.8.8", "127.0.0.1"], ["::ffff:127.0.0.1"], ["::1%1"]])
async def test_a_name_with_an_address_that_is_not_public_is_not_called(addresses):
    async with Endpoint(host="0.0.0.0") as server:
        said = await Client(resolve=Names(addresses)).post(f"https://{NAME}:{server.port}/", b"{}", {})

        assert (said.status, "not on the public internet" in said.text, server.heard) == (None, True, [])


@pytest.mark.parametrize("host", ["127.1", "0x7f.1", "2130706433", "0177.0.0.1", "localhost"])
async def test_other_spellings_of_this_machine_are_not_called(host):
    async with Endpoint(host="0.0.0.0") as server:
        said = await Client().post(f"https://{host}:{server.port}/", b"{}", {})

        assert (said.status, server.heard) == (None, [])


async def test_an_ipv6_address_is_named_as_a_host_is():
    async with Endpoint(answer(200)) as server:
        client = Client(allowed=LOOPBACK, resolve=Names([server.host]))
        said = await client.post(f"http://[2001:db8::1]:{server.port}/", b"{}", {})

        assert (said.status, server.heard[0].headers["host"]) == (200, f"[2001:db8::1]:{server.port}")


@pytest.mark.parametrize(
    ("rest", "target"),
    [
        ("", "/"),
        ("?a=b", "/?a=b"),
        ("/a;b=c", "/a;b=c"),
        ("/a;b=c?d=e;f", "/a;b=c?d=e;f"),
        ("/a%2Fb//c?d=%20", "/a%2Fb//c?d=%20"),
    ],
)
async def test_path_and_query_are_those_of_the_url(rest, target):
    async with Endpoint(answer(200)) as server:
        await Client(allowed=LOOPBACK).post(f"http://{server.host}:{server.port}{rest}", b"{}", {})

        assert [heard.target for heard in server.heard] == [target]


async def test_an_address_that_does_not_answer_leaves_time_for_the_next():
    async with Endpoint(answer(200)) as server, silent(server.port) as address:
        client = Client(allowed=LOOPBACK, resolve=Names([address, server.host]), seconds=2.5)
        said = await client.post(f"http://{NAME}:{server.port}/", b"{}", {})

        assert said.status == 200


@asynccontextmanager
async def silent(port: int) -> AsyncIterator[str]:
    """An address that takes no connection, and refuses none: its backlog is full."""
    loop = asyncio.get_running_loop()
    with socket.socket() as listening, ExitStack() as waiting:
        listening.bind(("127.0.0.3", port))
        listening.listen(0)
        with suppress(TimeoutError):
            while True:
                other = waiting.enter_context(socket.socket())
                other.setblocking(False)
                async with asyncio.timeout(0.2):
                    await loop.sock_connect(other, listening.getsockname())
        yield "127.0.0.3"


async def test_plain_http_goes_to_allowed_networks_only():
    said = await Client(allowed=LOOPBACK, resolve=Names(["8.8.8.8"])).post(f"http://{NAME}/", b"{}", {})

    assert "not on the public internet" in said.text


async def test_a_name_that_does_not_exist_is_no_answer():
    said = await Client().post("https://does-not-exist.invalid/", b"{}", {})

    assert said.status is None
    with pytest.raises(OSError, match="no host name"):
        await look_up("a" * 64 + ".invalid", 443)


async def test_a_machine_without_another_thread_is_no_answer(monkeypatch):
    def refuse(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refuse)

    answer = await Client().post("https://hooks.example.com/", b"{}", {})

    assert (answer.status, answer.text) == (None, "hooks.example.com can not be looked up now: can't start new thread")


@pytest.mark.parametrize(
    ("behave", "expected"),
    [
        pytest.param(never, "no response within", id="silent"),
        pytest.param(drip, "no response within", id="dripping"),
        pytest.param(reset, "", id="resetting"),
        pytest.param(gigabyte_of_headers, "", id="endless headers"),
    ],
)
async def test_an_endpoint_that_does_not_answer_is_left_in_time(behave, expected):
    async with Endpoint(behave) as server:
        said = await Client(allowed=LOOPBACK, seconds=0.5).post(server.url, b"{}", {})

        assert said.status is None
        assert expected in said.text


@pytest.mark.parametrize("scheme", ["http", "https"])
async def test_interim_responses_without_end_are_left_at_once(scheme, certificate):
    """Not after the time limit: until then, they would take all of the CPU."""
    tls = presenting(certificate) if scheme == "https" else None
    async with Endpoint(interim_without_end, tls=tls) as server:
        client = Client(allowed=LOOPBACK, resolve=Names([server.host]), tls=trusting(certificate))
        said = await client.post(f"{scheme}://{NAME}:{server.port}/", b"{}", {})

        assert (said.status, "without an end" in said.text) == (None, True)


async def test_an_answer_whose_body_does_not_end_in_time_counts():
    async def begin(writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nthe")
        await never(writer)

    async with Endpoint(begin) as server:
        said = await Client(allowed=LOOPBACK, seconds=0.5).post(server.url, b"{}", {})

        assert (said.status, said.text) == (200, "the")


async def test_of_a_gigabyte_only_the_beginning_is_read():
    async with Endpoint(gigabyte) as server:
        said = await Client(allowed=LOOPBACK).post(server.url, b"{}", {})

        assert said.status == 200
        assert len(said.text) <= 4096


async def test_a_body_is_never_decompressed():
    bomb = bytes.fromhex("1f8b08000000000002ff") + bytes(100)
    async with Endpoint(answer(200, bomb, content_encoding="gzip")) as server:
        said = await Client(allowed=LOOPBACK).post(server.url, b"{}", {})

        assert said.status == 200
        assert said.text.startswith("\x1f")


async def test_no_proxy_of_the_environment_is_used(monkeypatch):
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    async with Endpoint(answer(201)) as server:
        assert (await Client(allowed=LOOPBACK).post(server.url, b"{}", {})).status == 201
