"""A terminal in which a tester types `modelswap`."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from contextlib import AbstractAsyncContextManager
from typing import Any, Final

from tests.forks import Piped, piped

_PATIENCE_SECONDS: Final = 240


class Shell:
    """A terminal with the settings of the running product."""

    def __init__(self, settings: dict[str, str]) -> None:
        own = {name: text for name, text in os.environ.items() if not name.startswith("MODELSWAP_")}
        # On SIGABRT, a command that takes too long then says where it is.
        self._environment = {**own, **settings, "PYTHONFAULTHANDLER": "1"}

    def started(self, *arguments: str) -> AbstractAsyncContextManager[Piped]:
        return piped("services.cli", arguments, self._environment)

    async def run(self, *arguments: str) -> tuple[int | None, str, str]:
        """Its exit code, what it said, and what it complained of."""
        async with self.started(*arguments) as process:
            ending = asyncio.get_running_loop().call_later(_PATIENCE_SECONDS, process.send_signal, signal.SIGABRT)
            try:
                out, err = await process.communicate()
            finally:
                ending.cancel()
        in_time = process.returncode != -signal.SIGABRT
        assert in_time, f"{arguments} took more than {_PATIENCE_SECONDS} s:\n{out.decode()}{err.decode()}"
        return process.returncode, out.decode(), err.decode()

    async def json(self, *arguments: str) -> Any:
        code, out, err = await self.run(*arguments, "-o", "json")
        assert (code, err) == (0, "")
        return json.loads(out)
