"""Tools of other ecosystems that tests need: installed once per machine, and skipped where that is not possible."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Final

import pytest

from deploy.local.cache import cache_folder, made_once

_SECONDS: Final = 300


def node_modules(*packages: str, instead: str = "") -> Path:
    """
    The folder of node's modules that has *packages*, each with its version; skips where they cannot be had.

    *instead* says what was done without them.
    """
    if not (shutil.which("node") and shutil.which("npm")):
        pytest.skip(_because("node and npm are not installed", instead))

    def install(folder: Path) -> None:
        # Without a network it is soon known.
        options = ["--no-save", "--no-audit", "--no-fund", "--ignore-scripts", "--fetch-retries=1"]
        _run("npm", "install", *options, "--prefix", str(folder), *packages)

    return _installed("npm", packages, install, instead) / "node_modules"


def python_path(*packages: str) -> Path:
    """The folder for PYTHONPATH that has *packages*, each with its version; skips where they cannot be had."""

    def install(folder: Path) -> None:
        _run(sys.executable, "-m", "pip", "install", "--quiet", "--retries=1", "--target", str(folder), *packages)

    return _installed("pip", packages, install)


def _installed(kind: str, packages: tuple[str, ...], install: Callable[[Path], None], instead: str = "") -> Path:
    name = packages[0] if len(packages) == 1 else hashlib.sha256(" ".join(packages).encode()).hexdigest()[:16]
    try:
        return made_once(cache_folder() / f"{kind}-{name.replace('/', '-')}", install, print)
    except (subprocess.CalledProcessError, subprocess.TimeoutExpired) as error:
        why = f"exit code {error.returncode}" if isinstance(error, subprocess.CalledProcessError) else "no answer"
        pytest.skip(_because(f"{', '.join(packages)} cannot be installed ({kind}: {why})", instead))


def _because(reason: str, instead: str) -> str:
    return f"{reason}; {instead}" if instead else reason


def _run(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True, timeout=_SECONDS)
