"""
Downloads and unpacks packages of Debian or Ubuntu without root. Edge: apt.

apt runs with folders of its own, so it neither needs nor changes what is installed, and uses the mirror, proxy and
credentials that the machine's own apt uses.
"""

from __future__ import annotations

import os
import platform
import re
import subprocess
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from email import message_from_string
from pathlib import Path

from deploy.local.errors import LocalServersError, Say


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


@dataclass(frozen=True)
class Wanted:
    """
    Packages of one release; messages name them by *title*.

    apt is asked for *packages* with all that they depend on; *needed* says of each name whether it is unpacked.
    """

    title: str
    codename: str
    packages: Sequence[str]
    needed: Callable[[str], bool]
    megabytes: int


def unpack(wanted: Wanted, root: Path, say: Say) -> None:
    """
    Download what is *wanted* from the first mirror that has it, and unpack it into the folder *root*.

    Raises: LocalServersError, with apt's message.
    """
    refusals = []
    for mirror in mirrors():
        try:
            _unpack_from(mirror, wanted, root, say)
        except LocalServersError as error:
            refusals.append(str(error))
        else:
            return
    raise LocalServersError("; ".join(refusals) or "the apt sources name no mirror")


def _unpack_from(mirror: Mirror, wanted: Wanted, root: Path, say: Say) -> None:
    with tempfile.TemporaryDirectory(dir=root, prefix="apt-") as folder:
        apt = Path(folder)
        for needed in ("lists/partial", "cache/archives/partial", "packages"):
            (apt / needed).mkdir(parents=True)
        (apt / "sources.list").write_text(mirror.line(wanted.codename))
        say(f"{wanted.title}: asking {mirror.name} what {wanted.codename} has")
        _apt(apt, "update")
        names = [name for name in planned(_apt(apt, "install", "--simulate", *wanted.packages)) if wanted.needed(name)]
        say(f"{wanted.title}: downloading {len(names)} packages of {wanted.codename}, about {wanted.megabytes} MB")
        _apt(apt, "download", *names, cwd=apt / "packages")
        say(f"{wanted.title}: unpacking them into {root.with_suffix('')}")
        for package in sorted((apt / "packages").glob("*.deb")):
            _run(["dpkg-deb", "--extract", str(package), str(root)])


def planned(plan: str) -> list[str]:
    """Read the names of all packages that apt would install. Pure."""
    return re.findall(r"^Inst (\S+)", plan, re.MULTILINE)


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


# ---- the machine's own mirrors


def mirrors() -> list[Mirror]:
    """Return the distribution's own mirrors that the machine's apt sources name, in their order."""
    own = os_release()
    default = Path(f"/usr/share/keyrings/{own.get('ID')}-archive-keyring.gpg")
    found: dict[str, Mirror] = {}
    for uri, signed_by in _sources():
        keyring = signed_by or (str(default) if default.exists() else None)
        found.setdefault(uri.rstrip("/"), Mirror(uri.rstrip("/"), keyring))
    return list(found.values())


def _sources() -> Iterator[tuple[str, str | None]]:
    folder = Path("/etc/apt/sources.list.d")
    files = [Path("/etc/apt/sources.list"), *sorted(folder.glob("*.list")), *sorted(folder.glob("*.sources"))]
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
        fields = {name.lower(): value.split() for name, value in message_from_string(paragraph).items()}
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


def os_release() -> dict[str, str]:
    try:
        return platform.freedesktop_os_release()
    except OSError:  # neither Debian nor Ubuntu, then
        return {}


def without_credentials(text: str) -> str:
    """Remove user names and passwords from the addresses in *text*. Pure."""
    return re.sub(r"(?<=://)[^/@\s]+@", "", text)
