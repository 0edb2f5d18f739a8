"""
Runs the image check in a process of its own, with limits on time and memory. Edge.

The image comes from a model trained by strangers. A small file can take 24 s to decode (a JPEG of 3,000 scans) or a
third of a gigabyte (a PNG of one very long line), and a decoding thread cannot be killed (measured 2026-11).
"""

from __future__ import annotations

import asyncio
import os
import resource
import signal
import sys
from typing import Final

from services.extractor.picture import Flaw, find_flaw
from shared.contract.errors import TransientError

#: The largest allowed image takes about a second.
_CPU_SECONDS: Final = 5
#: Limit of address space, most of which Python and its libraries only reserve.
_MEMORY_BYTES: Final = 768 * 1024 * 1024
#: Longer than the CPU limit, because the machine may be busy.
_WALL_SECONDS: Final = 60.0
_AT_A_TIME: Final = 2
_FINE: Final = "fine"
#: Signals that the image can cause: beyond the limit of CPU time, or a crash of the decoder. Any other has another
#: cause: memory ran out, or the extractor is stopped with all its processes.
_OF_THE_IMAGE: Final = (
    signal.SIGXCPU,
    signal.SIGSEGV,
    signal.SIGBUS,
    signal.SIGILL,
    signal.SIGFPE,
    signal.SIGABRT,
    signal.SIGSYS,
)
_ENVIRONMENT: Final = ("PATH", "PYTHONPATH", "LD_LIBRARY_PATH")
_MODULE: Final = "services.extractor.picture_process"


class NotLookedAt(TransientError):
    """The image could not be checked: this machine is too busy, or the process was killed or could not start."""

    code = "picture_not_looked_at"


_slots = asyncio.Semaphore(_AT_A_TIME)


async def find_flaw_apart(data: bytes) -> Flaw | None:
    """
    Run `find_flaw` on *data* in a process; an image that exceeds the time or memory limit is broken.

    Raises:
        NotLookedAt: if this machine is too busy, or the process ends for another reason than the image.

    """
    async with _slots:
        process = await _start()
        try:
            async with asyncio.timeout(_WALL_SECONDS):
                answer, _ = await process.communicate(data)
        except TimeoutError:
            raise NotLookedAt(f"a picture was not looked at within {_WALL_SECONDS:g} s") from None
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
    status = await process.wait()
    if -status in _OF_THE_IMAGE:
        return Flaw.BROKEN
    if status:
        raise NotLookedAt(f"the process that looks at a picture ended with {status}")
    text = answer.decode()
    return None if text == _FINE else Flaw(text)


async def _start() -> asyncio.subprocess.Process:
    pipe = asyncio.subprocess.PIPE
    try:
        return await asyncio.create_subprocess_exec(
            sys.executable,
            *("-m", _MODULE),
            stdin=pipe,
            stdout=pipe,
            stderr=asyncio.subprocess.DEVNULL,
            # The process that decodes untrusted data gets no secrets.
            env={name: os.environ[name] for name in _ENVIRONMENT if name in os.environ},
        )
    except OSError as error:
        raise NotLookedAt(f"no process that looks at a picture could be started: {error}") from error


def main() -> None:
    """Check the image on standard input, within the limits; write its flaw to standard output."""
    resource.setrlimit(resource.RLIMIT_AS, (_MEMORY_BYTES, _MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_CPU, (_CPU_SECONDS, _CPU_SECONDS + 1))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    # Ctrl-C reaches the whole process group; the parent ends this process.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.nice(5)
    try:
        flaw = find_flaw(sys.stdin.buffer.read())
    except Exception:  # noqa: BLE001 (no memory is left, or it is none of those that are known: the image is the cause)
        flaw = Flaw.BROKEN
    sys.stdout.write(flaw or _FINE)


if __name__ == "__main__":
    main()
