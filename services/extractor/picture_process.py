"""
Looks at a picture in a process of its own, with an end to its time and memory. Edge.

A picture is made by a model that strangers trained. A small file can take 24 s to decode (a JPEG of 3,000 scans) or a
third of a gigabyte (a PNG of one very long line), and a thread that decodes can not be ended (measured 2026-11).
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

#: A picture of the most pixels that are looked at takes about a second.
_CPU_SECONDS: Final = 5
#: Of address space, most of which Python and its libraries only reserve.
_MEMORY_BYTES: Final = 768 * 1024 * 1024
#: On a machine that is busy, CPU seconds take longer.
_WALL_SECONDS: Final = 60.0
_AT_A_TIME: Final = 2
_FINE: Final = "fine"
_ENVIRONMENT: Final = ("PATH", "PYTHONPATH", "LD_LIBRARY_PATH")
_MODULE: Final = "services.extractor.picture_process"


class NotLookedAt(TransientError):  # noqa: N818 (it is a condition, and reads as one)
    """The picture could not be looked at in time, because this machine is too busy."""

    code = "picture_not_looked_at"


_slots = asyncio.Semaphore(_AT_A_TIME)


async def find_flaw_apart(data: bytes) -> Flaw | None:
    """
    Return what `find_flaw` says of *data*; a picture that takes too much time or memory is broken.

    Raises:
        NotLookedAt: if this machine is too busy.

    """
    async with _slots:
        pipe = asyncio.subprocess.PIPE
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            *("-m", _MODULE),
            stdin=pipe,
            stdout=pipe,
            stderr=asyncio.subprocess.DEVNULL,
            # No secret of ours is where a stranger's picture is decoded.
            env={name: os.environ[name] for name in _ENVIRONMENT if name in os.environ},
        )
        try:
            async with asyncio.timeout(_WALL_SECONDS):
                said, _ = await process.communicate(data)
        except TimeoutError:
            raise NotLookedAt(f"a picture was not looked at within {_WALL_SECONDS:g} s") from None
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
    text = said.decode()
    # Ended by a limit, it says nothing.
    return None if text == _FINE else Flaw(text or Flaw.BROKEN)


def main() -> None:
    """Look at the picture on standard input, within the limits."""
    resource.setrlimit(resource.RLIMIT_AS, (_MEMORY_BYTES, _MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_CPU, (_CPU_SECONDS, _CPU_SECONDS + 1))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    # Ctrl-C is for the process that waits for this one.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.nice(5)
    try:
        flaw = find_flaw(sys.stdin.buffer.read())
    except MemoryError:
        flaw = Flaw.BROKEN
    sys.stdout.write(flaw or _FINE)


if __name__ == "__main__":
    main()
