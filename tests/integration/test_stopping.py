"""Does every process stop in time, whatever it waits for?"""

from __future__ import annotations

import asyncio
import runpy
import signal
from collections.abc import Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from time import monotonic
from typing import Final

import pytest

from services.cli.choices import Process as Name
from services.cli.local.commands import serve
from tests.proxy import proxied
from tests.servers import Urls
from tests.stack import SERVICES, Process, Stack

_DRAIN_SECONDS: Final = 3.0
#: A process must be gone two seconds after its drain, whatever its servers do; this machine may be busy.
_GONE_SECONDS: Final = _DRAIN_SECONDS + 15

#: The class and the method of an AMQP frame: a client that sends it hears nothing any more.
_DECLARE_EXCHANGE: Final = b"\x00\x28\x00\x0a"
_CONSUME: Final = b"\x00\x3c\x00\x14"
#: What a client of Postgres sends once it is let in.
_PARSE: Final = b"P\x00\x00"


async def seconds_to_stop(names: Sequence[str], stack: Stack, server: str, url: str, silent_at: bytes | None) -> float:
    """Start these processes, wait until each hears nothing from its *server* at *url*, and stop them all at once."""

    async def silenced(name: str) -> Process:
        silent = [] if silent_at is None else [silent_at]
        proxy = await proxies.enter_async_context(proxied(url, falls_silent_at=silent, is_silent=not silent))
        own = stack.processes[name]
        process = Process(name, {**own.environment, server: proxy.url(own.environment[server])}, own.log)
        proxies.callback(process.kill)
        process.start()
        await proxy.until_silenced(1)
        return process

    async with AsyncExitStack() as proxies, stack.clients():
        processes = await asyncio.gather(*map(silenced, names))
        began = monotonic()
        for process in processes:
            process.ask_to_stop()
        codes = await asyncio.gather(*(asyncio.to_thread(process.wait) for process in processes))
        took = monotonic() - began
    assert set(codes) == {0}
    return took


@pytest.fixture
def stack(servers: Urls, database_url: str, tmp_path: Path) -> Stack:
    return Stack(
        tmp_path,
        amqp_url=servers.amqp_url,
        database_url=database_url,
        replicate_url="http://127.0.0.1:9",
        settings={"MODELSWAP_DRAIN_SECONDS": str(_DRAIN_SECONDS)},
    )


@pytest.mark.parametrize(
    ("names", "silent_at"),
    [
        pytest.param(SERVICES, None, id="accept"),
        pytest.param(SERVICES, _DECLARE_EXCHANGE, id="declare"),
        pytest.param(("extractor",), _CONSUME, id="consume"),
    ],
)
async def test_a_broker_that_falls_silent_holds_up_no_end(
    servers: Urls, stack: Stack, names: Sequence[str], silent_at: bytes | None
):
    took = await seconds_to_stop(names, stack, "MODELSWAP_AMQP_URL", servers.amqp_url, silent_at)

    assert took < _GONE_SECONDS


@pytest.mark.parametrize("silent_at", [pytest.param(None, id="accept"), pytest.param(_PARSE, id="statement")])
async def test_a_postgres_that_falls_silent_holds_up_no_end(stack: Stack, database_url: str, silent_at: bytes | None):
    took = await seconds_to_stop(("state", "ops"), stack, "MODELSWAP_DATABASE_URL", database_url, silent_at)

    assert took < _GONE_SECONDS


def test_a_process_that_is_being_imported_stops_at_once(monkeypatch):
    """A container's first process would not, if it left the signal alone."""
    before, handlers = signal.getsignal(signal.SIGTERM), []
    monkeypatch.setattr(runpy, "run_module", lambda *_, **__: handlers.append(signal.getsignal(signal.SIGTERM)))
    try:
        serve(Name.RECEIVER)
    finally:
        signal.signal(signal.SIGTERM, before)

    (handler,) = handlers
    assert callable(handler)
    with pytest.raises(SystemExit, match=str(128 + signal.SIGTERM)):
        handler(signal.SIGTERM, None)
