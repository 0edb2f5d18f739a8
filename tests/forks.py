"""
Start processes of the product as forks of one that has imported it.

A new interpreter takes two seconds of CPU to import a service, and a run of the tests starts hundreds. What runs in the
fork is the module itself, with its own arguments, environment, standard streams and exit code. It ends with the tests,
also when those are killed. Processes that `modelswap up` and `modelswap demo` start are new interpreters, in tests as
well.
"""

from __future__ import annotations

import asyncio
import contextlib
import faulthandler
import gc
import io
import multiprocessing
import os
import runpy
import signal
import sys
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from multiprocessing import forkserver
from multiprocessing.context import ForkServerProcess
from multiprocessing.reduction import DupFd
from pathlib import Path
from typing import Any, Final

from shared.runtime.guard import die_with_parent

ROOT: Final = Path(__file__).parent.parent

_CONTEXT: Final = multiprocessing.get_context("forkserver")
_MODULES: Final = sorted(
    ".".join(path.relative_to(ROOT).with_suffix("").parts)
    for room in ("services", "shared")
    for path in (ROOT / room).rglob("*.py")
    if path.stem != "__main__"  # which is run
)
#: What libraries import as late as in a started process, which takes a fifth of its start.
_LATE: Final = ("anyio._backends._asyncio", "pydantic.v1", "typer._click.decorators", "uvicorn.lifespan.on", "uvloop")
# pytest is the main module of the parent, which multiprocessing imports in each child.
_CONTEXT.set_forkserver_preload(["pytest", __name__, *_MODULES, *_LATE, "tests.forked"])


class _Descriptor:
    """A file descriptor that a child inherits."""

    def __init__(self, number: int) -> None:
        self._number = number

    def __reduce__(self) -> tuple[Callable[[Any], int], tuple[Any]]:
        return _inherited, (DupFd(self._number),)


def _inherited(duplicate: Any) -> int:
    return int(duplicate.detach())


def start(
    module: str, arguments: Sequence[str], environment: Mapping[str, str], *, output: int, errors: int
) -> ForkServerProcess:
    """Run ``python -m`` *module*, with these descriptors as its standard output and standard error."""
    process = _CONTEXT.Process(
        target=_become,
        args=(module, tuple(arguments), dict(environment), _Descriptor(output), _Descriptor(errors)),
        daemon=True,  # one that a broken test leaves is ended with the tests, which do not wait for it
    )
    process.start()
    return process


def _become(module: str, arguments: Sequence[str], environment: Mapping[str, str], output: int, errors: int) -> None:
    gc.freeze()  # a collection would write to, and so copy, every page that is shared with the other forks
    _end_with_the_tests()
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(ROOT)
    nothing = os.open(os.devnull, os.O_RDONLY)
    for number, descriptor in enumerate((nothing, output, errors)):
        os.dup2(descriptor, number)
        os.close(descriptor)
    sys.stdin = _stream(0, "r")
    sys.stdout = _stream(1, "w")
    sys.stderr = _stream(2, "w", errors="backslashreplace", line_buffering=True)
    if environment.get("PYTHONFAULTHANDLER"):
        faulthandler.enable()
    sys.argv = [module, *arguments]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


def _end_with_the_tests() -> None:
    """Be killed as soon as the process of the tests is gone, even if that was killed."""
    # The server of forks ends when the last copy of this descriptor is closed, and each fork is given one.
    os.close(forkserver._forkserver._forkserver_alive_fd)  # type: ignore[attr-defined]
    die_with_parent(os.getppid(), signal.SIGKILL)


def _stream(descriptor: int, mode: str, **options: Any) -> io.TextIOWrapper:
    raw = open(descriptor, f"{mode}b", closefd=False)  # noqa: SIM115 (a descriptor, for the process's life)
    return io.TextIOWrapper(raw, **options)


class Piped:
    """A process whose output is read."""

    def __init__(self, process: ForkServerProcess, stdout: asyncio.StreamReader, stderr: asyncio.StreamReader) -> None:
        self._process = process
        self.stdout = stdout
        self.stderr = stderr

    @property
    def returncode(self) -> int | None:
        """The exit code; None while it runs."""
        return self._process.exitcode

    def send_signal(self, which: signal.Signals) -> None:
        if self._process.is_alive():
            os.kill(self._process.pid or 0, which)

    async def communicate(self) -> tuple[bytes, bytes]:
        """Read everything until it ends."""
        said = await asyncio.gather(self.stdout.read(), self.stderr.read())
        await asyncio.to_thread(self._process.join)
        return said


@contextlib.asynccontextmanager
async def piped(module: str, arguments: Sequence[str], environment: Mapping[str, str]) -> AsyncIterator[Piped]:
    """Run ``python -m`` *module*; it is killed if it still runs at the end."""
    async with contextlib.AsyncExitStack() as stack:
        (stdout, output), (stderr, errors) = [await _open_pipe(stack) for _ in range(2)]
        process = start(module, arguments, environment, output=output, errors=errors)
        os.close(output)
        os.close(errors)
        piped = Piped(process, stdout, stderr)
        try:
            yield piped
        finally:
            piped.send_signal(signal.SIGKILL)
            await piped.communicate()


async def _open_pipe(stack: contextlib.AsyncExitStack) -> tuple[asyncio.StreamReader, int]:
    """Open a pipe; returns what reads it, and the descriptor to write to."""
    reading, writing = os.pipe()
    reader = asyncio.StreamReader()
    transport, _ = await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(reader), os.fdopen(reading, "rb", buffering=0)
    )
    stack.callback(transport.close)
    return reader, writing
