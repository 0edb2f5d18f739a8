"""Runs schemathesis, in a process of its own, against what an OpenAPI document describes."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path
from typing import Final

_HOOKS: Final = Path(__file__).with_name("schemathesis_hooks.py")
#: It takes a minute; on a busy machine, more than five.
_SECONDS: Final = 840


async def schemathesis(document: Path, url: str, *options: str, most_examples: int) -> tuple[int, str]:
    """What schemathesis finds, the same at each run: its exit code, and what it says."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-m", "schemathesis.cli", "run", str(document), "--url", url, *options),
        *("--continue-on-failure", "--no-color", "--max-examples", str(most_examples)),
        *("--generation-deterministic", "--seed", "1"),
        *("--request-timeout", "60", "--suppress-health-check", "all", "--warnings", "off"),
        cwd=document.parent,
        env={**os.environ, "PYTHONWARNINGS": "ignore", "SCHEMATHESIS_HOOKS": str(_HOOKS)},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    try:
        async with asyncio.timeout(_SECONDS):
            said, _ = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    return process.returncode or 0, said.decode(errors="replace")
