"""A subscriber who has nothing of us but its README and the client's wheel, in a virtual environment of its own."""

from __future__ import annotations

import asyncio
import os
import re
import subprocess
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from importlib.metadata import requires
from pathlib import Path
from typing import Final

from packaging.requirements import Requirement

from tests.readme import README
from tests.up import Talking

ROOT: Final = Path(__file__).parents[1]
_SECTION: Final = README.partition("## In Python")[2].partition("\n## ")[0]
_CONSTRAINTS: Final = (ROOT / "constraints.txt").read_text()


def block(language: str) -> list[str]:
    """The lines of the section's only block in *language*."""
    (found,) = re.findall(rf"```{language}\n(.*?)```", _SECTION, re.DOTALL)
    return str(found).splitlines()


def pinned(*names: str) -> str:
    """The lines of constraints.txt for these packages and all that they need: each has its version and its hashes."""
    needed: set[str] = set()
    waiting = list(names)
    while waiting:
        name = waiting.pop()
        if name not in needed:
            needed.add(name)
            found = [Requirement(each) for each in requires(name) or ()]
            waiting += [each.name for each in found if each.marker is None or each.marker.evaluate({"extra": ""})]
    pins = {pin.partition("==")[0]: pin for pin in re.split(r"(?m)^(?=\w)", _CONSTRAINTS) if pin}
    return "".join(pins[name] for name in sorted(needed))


def install(folder: Path, typed: str) -> Path:
    """Make a virtual environment in *folder*, type the README's pip *typed* there; returns its Python."""
    python = folder / "venv/bin/python"

    def run(*command: object, at: Path = folder) -> None:
        done = subprocess.run([str(each) for each in command], cwd=at, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr

    pip = (sys.executable, "-m", "pip", "--python", python, "--disable-pip-version-check", "install", "-q")
    (folder / "pinned.txt").write_text(pinned("aio-pika", "pydantic"))
    build = ("-m", "hatchling", "build", "--target", "wheel", "--directory", folder / "dist")
    run(sys.executable, *build, at=ROOT / "shared/subscriber")
    run(sys.executable, "-m", "venv", "--without-pip", folder / "venv")
    run(*pip, "--no-compile", "--no-deps", "--require-hashes", "-r", "pinned.txt")
    # What it asks for is there by now, so the network is not needed.
    run(*pip, "--no-index", *typed.removeprefix("pip install ").split())
    return python


@asynccontextmanager
async def started(python: Path, lines: list[str], environment: Mapping[str, str]) -> AsyncIterator[Talking]:
    """A script of these *lines*; killed at the end."""
    process = await asyncio.create_subprocess_exec(
        python,
        "-c",
        "\n".join(lines),
        cwd=python.parents[2],
        env={"PATH": os.environ["PATH"], **environment},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    script = Talking(process)
    try:
        yield script
    finally:
        await script.end()
