"""
Unpacks RabbitMQ from Debian's or Ubuntu's packages without root, also those of another release. Edge: apt.

The unpacked programs run with the C library they came with: each is replaced by a two-line script that calls that
library's loader. So any release runs on any other, for any user.

Why not a chroot (2026-11): it takes root or a user namespace, and containers and hardened machines deny the latter.
"""

from __future__ import annotations

import os
import platform
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from deploy.local import apt
from deploy.local.cache import cache_folder, made_once
from deploy.local.errors import Say


@dataclass(frozen=True)
class Release:
    """A release of a distribution, and the series of RabbitMQ it has."""

    distribution: str
    codename: str
    series: str


#: The newest first. An Ubuntu that is not named here still offers its own.
RELEASES: Final = (
    Release("debian", "forky", "4"),
    Release("debian", "trixie", "4"),
    Release("debian", "bookworm", "3.10"),
    Release("ubuntu", "resolute", "4"),
)


def releases(series: str) -> list[Release]:
    """Return the releases with a RabbitMQ of *series* ("auto": any) that this machine's mirrors may have."""
    own = apt.os_release()
    kinds = {own.get("ID", ""), *own.get("ID_LIKE", "").split()}
    known = [each for each in RELEASES if each.distribution in kinds]
    codename = own.get("UBUNTU_CODENAME") or own.get("VERSION_CODENAME")
    if codename and codename not in {each.codename for each in known}:
        known.append(Release(own["ID"], codename, "auto"))
    return [each for each in known if series in ("auto", each.series)]


def unpacked(release: Release) -> Path:
    """Return the folder of the packages of *release*, which may not exist yet."""
    return cache_folder() / "rabbitmq" / f"{release.codename}-{platform.machine()}"


def fetch(release: Release, say: Say) -> Path:
    """
    Download and unpack RabbitMQ of *release*, unless it is in the cache.

    Raises: LocalServersError, with apt's message.
    """

    def make(draft: Path) -> None:
        apt.unpack(apt.Wanted("RabbitMQ", release.codename, ["rabbitmq-server"], needed, megabytes=50), draft, say)
        _let_programs_find_their_libraries(draft)

    return made_once(unpacked(release), make, say)


def needed(name: str) -> bool:
    """Tell what RabbitMQ needs at run time from all that apt would install on an empty machine. Pure."""
    return bool(re.fullmatch(r"rabbitmq-server|erlang-.*|zlib1g|lib(?!perl|python|pam).*", name))


# ---- programs and libraries of one release on another


def _let_programs_find_their_libraries(root: Path) -> None:
    loader = next(root.glob("**/lib/*-linux-gnu*/ld*.so.*"))
    libraries = [root / folder / loader.parent.name for folder in ("lib", "usr/lib")]
    for file in list((root / "usr/lib/erlang").rglob("*")):
        if _is_program(file):
            _wrap(file, loader, libraries)
    for erl in (root / "usr/lib/erlang").glob("erts-*/bin/erl"):
        _tell_where_it_is(erl)


def _is_program(file: Path) -> bool:
    if file.is_symlink() or not file.is_file() or not os.access(file, os.X_OK) or ".so" in file.name:
        return False
    with file.open("rb") as content:
        return content.read(4) == b"\x7fELF"


def _wrap(program: Path, loader: Path, libraries: Sequence[Path]) -> None:
    """Replace *program* by a script that runs it with its own libraries, also after the whole tree was moved."""

    def from_here(path: Path) -> str:
        return f'"$here/{os.path.relpath(path, program.parent)}"'

    real = program.rename(program.with_name(f"{program.name}.elf"))
    paths = ":".join(from_here(each) for each in libraries)
    _write_script(program, f'here=${{0%/*}}\nexec {from_here(loader)} --library-path {paths} {from_here(real)} "$@"\n')


def _tell_where_it_is(erl: Path) -> None:
    """Replace Debian's `erl`, which has /usr/lib/erlang written into it."""
    erl.unlink()
    _write_script(
        erl,
        "BINDIR=${0%/*}\nROOTDIR=$BINDIR/../..\nEMU=beam\nPROGNAME=erl\nexport BINDIR ROOTDIR EMU PROGNAME\n"
        'exec "$BINDIR/erlexec" "$@"\n',
    )


def _write_script(file: Path, text: str) -> None:
    file.write_text(f"#!/bin/sh\n{text}")
    file.chmod(0o755)
