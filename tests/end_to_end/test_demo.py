"""The demo keeps its promise, and leaves nothing behind."""

from __future__ import annotations

import asyncio
import re
import sys
from collections.abc import Iterator

import pytest

from tests.proc import is_alive, look_into
from tests.stack import ROOT


def descendants(pid: int) -> Iterator[int]:
    for child in map(int, look_into(f"/proc/{pid}/task/{pid}/children").split()):
        yield child
        yield from descendants(child)


@pytest.mark.own_servers
@pytest.mark.skipif(sys.platform != "linux", reason="the family of a process is found in /proc")
async def test_three_trainings_end_as_promised_and_nothing_is_left():
    demo = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-m", "services.cli", "demo"),
        cwd=ROOT,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    assert demo.stdout is not None
    lines, family = [], set[int]()
    async with asyncio.timeout(240):
        while line := (await demo.stdout.readline()).decode():
            lines.append(line)
            family |= set(descendants(demo.pid))
        code = await demo.wait()

    said = "".join(lines)
    assert code == 0, said
    assert len(family) >= len(("receiver", "extractor", "state", "simulator", "postgres", "rabbitmq"))
    assert not [pid for pid in family if is_alive(pid)]
    assert re.search(r"(?m)^console: http://127\.0\.0\.1:\d+/sign-in\?code=[\w-]{43} ", said)
    assert len(re.findall(r"^ yes ", said, re.MULTILINE)) == 4
    assert re.search(r"cleo uses the model that her retrain made; asked [1-9][0-9]+ times", said)
    for what in ("received", "verified", "committed", "published"):
        assert re.search(rf"^  {what} +(ann|ben|cleo) ", said, re.MULTILINE), what
