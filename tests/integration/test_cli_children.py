"""Our processes as children: none outlives the others or us."""

import asyncio
import os
import signal
import sys
from pathlib import Path

import pytest

from services.cli.machine.children import Children
from services.cli.problem import Problem
from tests.proc import is_alive
from tests.stack import free_port

ROOT = Path(__file__).parent.parent.parent


def settings(port: int) -> dict[str, str]:
    return {**os.environ, "MODELSWAP_SIMULATOR_PORT": str(port), "MODELSWAP_LOG_FORMAT": "console"}


async def until_gone(pid: int) -> None:
    async with asyncio.timeout(20):
        while is_alive(pid):
            await asyncio.sleep(0.02)


async def test_they_run_until_the_end_and_say_what_they_say():
    port, heard = free_port(), list[tuple[str, str]]()

    async with Children(lambda name, line: heard.append((name, line))) as children:
        await children.start("simulator", settings(port))
        await children.until_ready({"simulator": f"http://127.0.0.1:{port}"})

    assert {name for name, _ in heard} == {"simulator"}
    assert "simulator.listening" in heard[1][1]
    assert "process.stopped" in heard[-1][1]


async def test_one_that_ends_is_named_with_its_last_words():
    async with Children(lambda *_: None) as children:
        await children.start("simulator", {**settings(free_port()), "MODELSWAP_SIMULATOR_SPEED": "-1"})
        with pytest.raises(Problem, match=r"simulator ended with exit code 2.*\n.*\n.*SIMULATOR_SPEED"):
            await children.until_ready({"simulator": "http://127.0.0.1:1"})


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel's signal at the parent's end is Linux's")
async def test_none_outlives_us_even_after_kill_9():
    program = """
import asyncio, os, sys
from services.cli.machine.children import Children
async def main():
    async with Children(lambda name, line: print(line, flush=True)) as children:
        await children.start("simulator", dict(os.environ))
        await children.until_ready({"simulator": "http://127.0.0.1:" + os.environ["MODELSWAP_SIMULATOR_PORT"]})
        print("children=" + open(f"/proc/{os.getpid()}/task/{os.getpid()}/children").read().strip(), flush=True)
        await children.death()
asyncio.run(main())
"""
    parent = await asyncio.create_subprocess_exec(
        sys.executable, "-c", program, env=settings(free_port()), cwd=ROOT, stdout=asyncio.subprocess.PIPE
    )
    assert parent.stdout is not None
    said = ""
    while not said.startswith("children="):
        said = (await parent.stdout.readline()).decode()

    parent.send_signal(signal.SIGKILL)
    await parent.wait()

    await until_gone(int(said.removeprefix("children=")))
