"""Start, run and stop of a process. On SIGTERM it takes no new work, finishes its current work, and exits with 0."""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import socket
import sys
from collections.abc import Callable, Coroutine
from importlib.metadata import version
from typing import Final, TypeVar

import structlog
from starlette.applications import Starlette

from shared.contract.errors import ModelswapError
from shared.runtime import logs, tracing
from shared.runtime.server import Server
from shared.runtime.settings import unknown
from shared.runtime.settings_base import Settings, SettingsError, guessable
from shared.runtime.waiting import wait_for_any

log = structlog.get_logger()

S = TypeVar("S", bound=Settings)

#: Exit code for invalid settings.
EXIT_SETTINGS: Final = 2
_GC_THRESHOLD: Final = 50_000
#: Time to close connections after the drain.
_CLOSING_SECONDS: Final = 1.0


class CannotListen(ModelswapError):
    """The process's port is in use, or may not be opened."""

    code = "can_not_listen"


def main(service: str, settings_class: type[S], run: Callable[[S, asyncio.Event], Coroutine[None, None, None]]) -> int:
    """Load the settings of *service*, run it until SIGTERM or SIGINT, and return its exit code."""
    try:
        settings = settings_class.load()
    except SettingsError as error:
        sys.stderr.write(f"{service}: {error}\nSee `modelswap config show`.\n")
        return EXIT_SETTINGS
    logs.configure(service, level=settings.log_level, renderer=settings.log_format)
    tracing.start(service)
    # Imported objects stay, and a delivery creates hundreds of short-lived objects: with the default threshold, garbage
    # collection took a third of the CPU time (measured 2026-11).
    gc.collect()
    gc.freeze()
    gc.set_threshold(_GC_THRESHOLD)
    try:
        with asyncio.Runner(loop_factory=_new_loop) as runner:
            return runner.run(_run(settings, run))
    finally:
        tracing.stop()


async def _run(settings: S, run: Callable[[S, asyncio.Event], Coroutine[None, None, None]]) -> int:
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    for name in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(name, stopping.set)
    log.info("process.starting", version=version("modelswap"), pid=os.getpid())
    log.debug("process.settings", settings=settings.model_dump(mode="json"))
    if names := unknown():
        log.warning(
            "settings.unknown", names=names, hint="a typing mistake? `modelswap config show` lists every setting"
        )
    if names := guessable(settings):
        log.warning("settings.guessable", names=names, hint="random secrets look otherwise: `openssl rand -hex 24`")
    try:
        await _until_cut_off(run(settings, stopping), stopping, settings.drain_seconds + _CLOSING_SECONDS)
    except ModelswapError as error:
        log.critical("process.failed", error=error.code, detail=str(error))
        return 1
    log.info("process.stopped")
    return 0


async def _until_cut_off(running: Coroutine[None, None, None], stopping: asyncio.Event, seconds: float) -> None:
    """
    Await *running*, but at most *seconds* after *stopping* is set; then cancel it.

    That is equivalent to killing the process, which must be safe at any time anyway.
    """
    task = asyncio.create_task(running)
    await wait_for_any(task, stopping)
    await wait_for_any(task, seconds=seconds)
    if not task.done():
        log.warning("process.cut_off", seconds=seconds)
        task.cancel()
        await wait_for_any(task, seconds=_CLOSING_SECONDS / 2)
    else:
        await task


async def serve(app: Starlette, settings: Settings, *, port: int, stopping: asyncio.Event) -> None:
    """
    Serve *app* on *port*, with the address and the limits of *settings*.

    Once *stopping* is set, finish the requests in progress.

    Raises:
        CannotListen: if the port is in use, or may not be opened.

    """
    listener = listen(settings.host, port)
    server = Server(app, limits=settings.limits, drain_seconds=settings.drain_seconds)
    serving = asyncio.create_task(server.serve(sockets=[listener]))
    await wait_for_any(serving, stopping)
    server.should_exit = True
    await serving


async def supervise(stopping: asyncio.Event, *parts: Coroutine[None, None, None]) -> None:
    """
    Run *parts* together until all have ended.

    Each ends by itself once *stopping* is set. One that ends earlier, or fails, stops the others, because a process
    that does half its work would look healthy.
    """
    tasks = [asyncio.create_task(part) for part in parts]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        stopping.set()
        ends = await asyncio.gather(*tasks, return_exceptions=True)
    for end in ends:
        if isinstance(end, BaseException):
            raise end


def listen(host: str, port: int) -> socket.socket:
    """
    Open a listening socket; port 0 picks a free one.

    Raises:
        CannotListen: if the port is in use, or may not be opened.

    """
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        listener = socket.create_server((host, port), family=family, backlog=2048)
    except OSError as error:
        raise CannotListen(
            f"can not listen on {host}:{port}: {error.strerror}. Set this process's MODELSWAP_…_PORT to a free port"
        ) from error
    # Inherited by accepted connections; otherwise small responses wait for a TCP acknowledgement.
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return listener


def _new_loop() -> asyncio.AbstractEventLoop:
    try:
        import uvloop  # noqa: PLC0415 (not available on every platform)
    except ImportError:
        return asyncio.new_event_loop()
    return uvloop.new_event_loop()
