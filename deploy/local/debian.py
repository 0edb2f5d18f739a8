"""
Unpacks RabbitMQ from Debian's or Ubuntu's packages without root, also those of another release. Edge: apt.

apt runs with folders of its own, so it neither needs nor changes what is installed, and uses the mirror, proxy and
credentials that the machine's own apt uses. The unpacked programs run with the C library they came with: each is
replaced by a two-line script that calls that library's loader. So any release runs on any other, for any user.

Why not a chroot (2026-11): it takes root or a user namespace, and containers and hardened machines deny the latter.
"""

from __future__ import annotations

import os
import platform
import re
import subprocess
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from deploy.local.cache import cache_folder, made_once
from deploy.local.errors import LocalServersError, Say


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


@dataclass(frozen=True)
class Mirror:
    """A source of apt's packages, and the keyring that verifies them."""

    uri: str
    keyring: str | None

    @property
    def name(self) -> str:
        return without_credentials(self.uri)

    def line(self, codename: str) -> str:
        options = f"[signed-by={self.keyring}] " if self.keyring else ""
        return f"deb {options}{self.uri} {codename} main\n"


def releases(series: str) -> list[Release]:
    """Return the releases with a RabbitMQ of *series* ("auto": any) that this machine's mirrors may have."""
    own = _os_release()
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
        refusals = []
        for mirror in mirrors():
            try:
                _download_and_unpack(mirror, release, draft, say)
            except LocalServersError as error:
                refusals.append(str(error))
            else:
                return
        raise LocalServersError("; ".join(refusals) or "the apt sources name no mirror")

    return made_once(unpacked(release), make, say)


# ---- the machine's own mirrors


def mirrors(apt: Path = Path("/etc/apt")) -> list[Mirror]:
    """Return the distribution's own mirrors that the machine's apt sources name, in their order."""
    own = _os_release()
    default = Path(f"/usr/share/keyrings/{own.get('ID')}-archive-keyring.gpg")
    found: dict[str, Mirror] = {}
    for uri, signed_by in _sources(apt):
        keyring = signed_by or (str(default) if default.exists() else None)
        found.setdefault(uri.rstrip("/"), Mirror(uri.rstrip("/"), keyring))
    return list(found.values())


def _sources(apt: Path) -> Iterator[tuple[str, str | None]]:
    folder = apt / "sources.list.d"
    files = [apt / "sources.list", *sorted(folder.glob("*.list")), *sorted(folder.glob("*.sources"))]
    for file in files:
        if file.is_file() and os.access(file, os.R_OK):
            parse = deb822_sources if file.suffix == ".sources" else one_line_sources
            yield from parse(file.read_text(errors="replace"))


def one_line_sources(text: str) -> Iterator[tuple[str, str | None]]:
    """Read lines like ``deb [signed-by=KEYRING] URI SUITE COMPONENT...``. Pure."""
    for line in text.splitlines():
        match = re.match(
            r"deb\s+(?:\[(?P<options>[^]]*)\]\s+)?(?P<uri>\S+)\s+(?P<suite>\S+)\s+(?P<components>[^#]+)", line
        )
        if match and _is_the_archive([match["suite"]], match["components"].split()):
            signed_by = re.search(r"signed-by=(/\S+)", match["options"] or "", re.IGNORECASE)
            yield match["uri"], signed_by and signed_by[1]


def deb822_sources(text: str) -> Iterator[tuple[str, str | None]]:
    """Read paragraphs like ``Types: deb``, ``URIs: ...``, ``Suites: ...``, ``Components: ...``. Pure."""
    for paragraph in re.split(r"\n\s*\n", "\n".join(line for line in text.splitlines() if not line.startswith("#"))):
        fields = {
            match[1].lower(): match[2].split()
            for match in re.finditer(r"^([\w-]+):((?:.|\n[ \t])*)", paragraph, re.MULTILINE)
        }
        if "deb" not in fields.get("types", []) or fields.get("enabled") == ["no"]:
            continue
        if _is_the_archive(fields.get("suites", []), fields.get("components", [])):
            signed_by = fields.get("signed-by", [])
            keyring = signed_by[0] if len(signed_by) == 1 and signed_by[0].startswith("/") else None
            for uri in fields.get("uris", []):
                yield uri, keyring


def _is_the_archive(suites: Iterable[str], components: Iterable[str]) -> bool:
    """Tell a distribution's main archive from its updates and from third parties, which rarely call theirs *main*."""
    return "main" in components and any(re.fullmatch(r"[a-z]+", suite) for suite in suites)


def _os_release() -> dict[str, str]:
    try:
        return platform.freedesktop_os_release()
    except OSError:  # neither Debian nor Ubuntu, then
        return {}


def without_credentials(text: str) -> str:
    """Remove user names and passwords from the addresses in *text*. Pure."""
    return re.sub(r"(?<=://)[^/@\s]+@", "", text)


# ---- apt


def _download_and_unpack(mirror: Mirror, release: Release, root: Path, say: Say) -> None:
    with tempfile.TemporaryDirectory(dir=root, prefix="apt-") as folder:
        apt = Path(folder)
        for needed in ("lists/partial", "cache/archives/partial", "packages"):
            (apt / needed).mkdir(parents=True)
        (apt / "sources.list").write_text(mirror.line(release.codename))
        say(f"RabbitMQ: asking {mirror.name} what {release.codename} has")
        _apt(apt, "update")
        names = list(_worth_unpacking(_apt(apt, "install", "--simulate", "rabbitmq-server")))
        say(f"RabbitMQ: downloading {len(names)} packages of {release.codename}, about 50 MB")
        _apt(apt, "download", *names, cwd=apt / "packages")
        say(f"RabbitMQ: unpacking them into {unpacked(release)}")
        for package in sorted((apt / "packages").glob("*.deb")):
            _run(["dpkg-deb", "--extract", str(package), str(root)])
    _let_programs_find_their_libraries(root)


def _worth_unpacking(plan: str) -> Iterator[str]:
    """Pick what RabbitMQ needs at run time from all that apt would install on an empty machine."""
    for name in re.findall(r"^Inst (\S+)", plan, re.MULTILINE):
        if re.fullmatch(r"rabbitmq-server|erlang-.*|zlib1g|lib(?!perl|python|pam).*", name):
            yield name


def _apt(folder: Path, *arguments: str, cwd: Path | None = None) -> str:
    options = {
        "Dir::Etc::SourceList": folder / "sources.list",
        "Dir::Etc::SourceParts": "-",
        "Dir::Etc::Preferences": "-",
        "Dir::Etc::PreferencesParts": "-",
        "Dir::State::Lists": folder / "lists",
        "Dir::State::Status": "/dev/null",  # as if nothing were installed: apt then names all of it
        "Dir::Cache": folder / "cache",
        "Debug::NoLocking": "true",
        "APT::Sandbox::User": "",
        "APT::Install-Recommends": "false",
        "Acquire::Languages": "none",
        "Acquire::Retries": "2",
        "Acquire::http::Timeout": "30",
    }
    return _run(["apt-get", "-qq", *(f"-o{name}={value}" for name, value in options.items()), *arguments], cwd=cwd)


def _run(command: Sequence[str], cwd: Path | None = None) -> str:
    environment = {**os.environ, "LC_ALL": "C"}
    try:
        done = subprocess.run(command, env=environment, cwd=cwd, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        raise LocalServersError(f"this machine has no {command[0]}") from None
    if done.returncode:
        errors = [line for line in done.stderr.splitlines() if line.startswith("E:")] or done.stderr.splitlines()
        raise LocalServersError(without_credentials(f"{command[0]}: {' '.join(errors[-2:])}"))
    return done.stdout


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
