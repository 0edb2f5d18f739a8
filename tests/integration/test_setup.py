"""`make setup`: how it installs, and what it says where it can not go on: what is missing, and what to type."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

OLD = 'case "$1" in -c) exit 1 ;; *) echo "Python 3.9.2" ;; esac'
BARE = 'case "$*" in *ensurepip* | "-m pip"*) exit 1 ;; esac'
#: An environment is made, but no package comes.
OFFLINE = """
case "$*" in
    "-m venv"*) mkdir -p "$4/bin" && cp "$0" "$4/bin/python" ;;
    *"pip install"*) exit 1 ;;
esac
"""
#: Says which pip it runs; there is no uv.
TELLING = """
case "$*" in
    "-m venv"*) mkdir -p "$4/bin" && cp "$0" "$4/bin/python" ;;
    "-m pip config list") echo "{}" ;;
    *"pip install"*) echo "$*" >> "{}" ;;
esac
"""


def setup_with(python: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """Set up in *folder* with a Python that does as the script says."""
    fake = folder / "python"
    fake.write_text(f"#!/bin/sh\n{python}\n")
    fake.chmod(0o755)
    return subprocess.run(
        ["sh", "deploy/setup.sh", str(folder / "venv")],
        env={**os.environ, "PYTHON": str(fake)},
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize(
    ("python", "seen", "typed"),
    [
        (OLD, "Python 3.9.2 is too old", "make PYTHON=python3.11 setup"),
        (BARE, "neither ensurepip nor pip", "sudo apt-get install -y python3-venv"),
        (OFFLINE, "pip could not install them", "PIP_INDEX_URL=https://… make setup"),
    ],
    ids=["old", "bare", "offline"],
)
def test_it_names_what_is_missing_and_what_to_type(python, seen, typed, tmp_path):
    done = setup_with(python, tmp_path)

    assert done.returncode == 1
    assert done.stderr.startswith("setup: ")
    assert seen in done.stderr
    assert done.stderr.endswith(f"type: {typed}\n") or done.stderr.endswith(f"Type: {typed}\n")


@pytest.mark.parametrize(
    ("configuration", "installed"),
    [
        ("global.extra-index-url='file:///opt/more'", ["uv.txt", "constraints.txt", "."]),
        (":env:.index-url='https://pypi.example.com/simple'", ["constraints.txt", "."]),
    ],
    ids=["uv fails", "mirror"],
)
def test_pip_installs_what_uv_does_not(configuration, installed, tmp_path):
    told = tmp_path / "told"

    done = setup_with(TELLING.format(configuration, told), tmp_path)

    assert done.returncode == 0, done.stderr
    assert [line.rpartition(" ")[2].rpartition("/")[2] for line in told.read_text().splitlines()] == installed
    assert all("--require-hashes" in line for line in told.read_text().splitlines()[:-1])
