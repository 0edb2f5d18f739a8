"""Our processes as children: none outlives the others or us."""

import asyncio
import contextlib
import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from services.cli.local import supervisor
from services.cli.local.children import Children
from services.cli.local.stack import Plan
from services.cli.local.supervisor import Supervisor, keep_server
from services.cli.problem import Problem
from tests.proc import is_alive
from tests.stack import free_port

ROOT = Path(__file__).parent.parent.parent


def settings(port: int) -> dict[str, str]:
    return {**os.environ, "MODELSWAP_SIMULATOR_PORT": str(port), "MODELSWAP_LOG_FORMAT": "console"}


async def until_gone(pid: int) -> None:
    async with asyncio.timeout(60):
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


async def test_one_that_ends_again_and_again_starts_later_each_time():
    port, said = free_port(), asyncio.Queue[str]()
    # It starts with the settings of the test, and is started again with those of the plan, which it refuses.
    broken = {**settings(port), "MODELSWAP_SIMULATOR_SPEED": "-1"}
    plan = Plan(("simulator",), broken, {"simulator": f"http://127.0.0.1:{port}"})

    async with Children(lambda *_: None) as children, asyncio.timeout(240):  # four starts of Python
        await children.start("simulator", broken)
        keeping = asyncio.create_task(keep(children, plan, said.put_nowait))
        reports = [await said.get() for _ in range(3)]
        keeping.cancel()
        await asyncio.wait([keeping])

    assert [report.partition("restarted in ")[2].partition(" s")[0] for report in reports] == ["0.5", "1", "2"]
    assert reports[0] == "simulator ended with exit code 2; it is restarted in 0.5 s"
    assert "MODELSWAP_SIMULATOR_SPEED" in reports[2]


class Broken:
    """A private server that cannot run."""

    title = "Postgres"
    running = False

    def launch(self) -> None:
        """It ends at once."""

    def last_lines(self) -> str:
        return "no space left on device"


async def test_a_server_that_ends_again_and_again_says_why(monkeypatch):
    monkeypatch.setattr(supervisor, "_FIRST_DELAY_SECONDS", 0.001)
    said = asyncio.Queue[str]()

    keeping = asyncio.create_task(keep_server(Broken(), said.put_nowait))
    first, _, third = [await said.get() for _ in range(3)]
    keeping.cancel()
    await asyncio.wait([keeping])

    assert first == "Postgres ended; it is restarted in 0.001 s"
    assert third.startswith("Postgres ended, 3 times in a row soon after its start; it is restarted in ")
    assert third.endswith("It said:\nno space left on device")


async def keep(children: Children, plan: Plan, say: Callable[[str], object]) -> None:
    async with asyncio.TaskGroup() as group:
        Supervisor(children, plan, group, say)


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel's signal at the parent's end is Linux's")
async def test_none_outlives_us_even_after_kill_9():
    program = """
import asyncio, os, sys
from services.cli.local.children import Children
from services.cli.local.supervisor import Supervisor
from services.cli.local.stack import Plan
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
    said = b""
    try:
        async with asyncio.timeout(90):
            async for said in parent.stdout:
                if said.startswith(b"children="):
                    break
    finally:
        with contextlib.suppress(ProcessLookupError):
            parent.kill()
        await parent.wait()

    assert said.startswith(b"children="), said
    await until_gone(int(said.decode().removeprefix("children=")))
