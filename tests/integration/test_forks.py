"""Do the processes that tests start end with the tests?"""

from __future__ import annotations

import asyncio
import sys

from tests.forks import ROOT
from tests.proc import is_alive

#: A test run with one process, which would go on for ever.
_RUN = """
from tests import forks
forks._CONTEXT.set_forkserver_preload([])
server = forks.start("http.server", ["0"], {}, output=2, errors=2)
print(server.pid, flush=True)
server.join()
"""


async def test_a_fork_ends_with_a_test_run_that_is_killed():
    run = await asyncio.create_subprocess_exec(sys.executable, "-c", _RUN, cwd=ROOT, stdout=asyncio.subprocess.PIPE)
    assert run.stdout is not None
    async with asyncio.timeout(60):
        fork = int(await run.stdout.readline())
        assert is_alive(fork)
        run.kill()
        await run.wait()
        while is_alive(fork):
            await asyncio.sleep(0.02)
