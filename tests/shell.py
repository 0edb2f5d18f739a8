"""A terminal in which a tester types `modelswap`."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from tests.stack import ROOT


class Shell:
    """A terminal with the settings of the running product."""

    def __init__(self, settings: dict[str, str]) -> None:
        own = {name: text for name, text in os.environ.items() if not name.startswith("MODELSWAP_")}
        self._environment = {**own, **settings}

    @asynccontextmanager
    async def started(self, *arguments: str) -> AsyncIterator[asyncio.subprocess.Process]:
        pipe = asyncio.subprocess.PIPE
        command = (sys.executable, "-m", "services.cli", *arguments)
        process = await asyncio.create_subprocess_exec(
            *command, cwd=ROOT, env=self._environment, stdout=pipe, stderr=pipe
        )
        try:
            yield process
        finally:
            if process.returncode is None:
                process.kill()
            await process.communicate()

    async def run(self, *arguments: str) -> tuple[int | None, str, str]:
        """Its exit code, what it said, and what it complained of."""
        async with self.started(*arguments) as process, asyncio.timeout(40):
            out, err = await process.communicate()
        return process.returncode, out.decode(), err.decode()

    async def json(self, *arguments: str) -> Any:
        code, out, err = await self.run(*arguments, "-o", "json")
        assert (code, err) == (0, "")
        return json.loads(out)
