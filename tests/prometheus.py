"""
Prometheus and promtool for the tests of alerts and dashboards.

    installed   by the machine's packages
    unpacked    Debian's package in the cache, without root

Where none can be had, the tests that need one are skipped, and say why.
"""

from __future__ import annotations

import platform
import shutil
from pathlib import Path
from typing import Final

import pytest

from deploy.local import apt
from deploy.local.cache import cache_folder, made_once
from deploy.local.errors import LocalServersError

_PACKAGE: Final = "prometheus"


def program(name: str) -> str:
    """Find *name*, which is `prometheus` or `promtool`; skips where it cannot be had."""
    if found := shutil.which(name):
        return found
    release = apt.os_release()
    # Of its own release alone: it runs with the machine's C library.
    if not (codename := release.get("VERSION_CODENAME")):
        pytest.skip(f"{name} is not installed, and this is neither Debian nor Ubuntu")
    wanted = apt.Wanted("Prometheus", codename, [_PACKAGE], {_PACKAGE}.__contains__, megabytes=45)
    try:
        root = made_once(
            cache_folder() / _PACKAGE / f"{codename}-{platform.machine()}",
            lambda draft: apt.unpack(wanted, draft, print),
            print,
        )
    except LocalServersError as error:
        pytest.skip(f"{name} is not installed, and {error}")
    return str(Path(root) / "usr/bin" / name)
