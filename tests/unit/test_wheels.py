"""
The wheels: the base one has no private servers, the one of the extra "local" has nothing else, and that of subscribers
has only what it needs of the contract, below its own name.
"""

from __future__ import annotations

import hashlib
import os
import re
import subprocess
import sys
import sysconfig
import tomllib
import zipfile
from email.message import Message
from email.parser import Parser
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
LOCAL = ROOT / "deploy/local"
CLIENT = ROOT / "shared/subscriber"
#: Whatever else runs on this machine.
_FREE_PORTS = {
    f"MODELSWAP_{name}_PORT": "0" for name in ("SIMULATOR", "RECEIVER", "EXTRACTOR", "STATE", "OPS", "NOTIFIER")
}

UP = "import sys; from services.cli.main import main; sys.exit(main(['up', '--embedded']))"


def build(project: Path, folder: Path) -> zipfile.ZipFile:
    command = [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", str(folder)]
    subprocess.run(command, cwd=project, check=True, capture_output=True, timeout=60)
    (wheel,) = folder.glob("*.whl")
    return zipfile.ZipFile(wheel)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    return build(ROOT, tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    return build(LOCAL, tmp_path_factory.mktemp("local"))


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    return build(CLIENT, tmp_path_factory.mktemp("client"))


def metadata(wheel: zipfile.ZipFile) -> Message:
    (file,) = (name for name in wheel.namelist() if name.endswith("/METADATA"))
    return Parser().parsestr(wheel.read(file).decode())


def rooms(wheel: zipfile.ZipFile) -> set[str]:
    folders = {str(Path(name).parent) for name in wheel.namelist()}
    return {folder for folder in folders if not folder.partition("/")[0].endswith(".dist-info")}


def run(command: str, *wheels: zipfile.ZipFile, folder: Path) -> subprocess.CompletedProcess[str]:
    """Run *command* where only *wheels* and their dependencies are installed, not this checkout."""
    for wheel in wheels:
        wheel.extractall(folder)
    # Without `site`, the .pth file that names this checkout is not read.
    path = os.pathsep.join((str(folder), sysconfig.get_path("purelib")))
    return subprocess.run(
        [sys.executable, "-S", "-c", command],
        cwd=folder,
        env={"PYTHONPATH": path, "PATH": os.environ["PATH"], **_FREE_PORTS},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_the_base_wheel_has_no_private_servers_and_no_client(base):
    assert {room.partition("/")[0] for room in rooms(base)} == {"services", "shared"}
    assert [room for room in rooms(base) if "subscriber" in room] == []


def test_the_wheel_of_the_extra_has_nothing_else(local):
    assert rooms(local) == {"deploy/local"}
    assert {Path(name).name for name in local.namelist() if name.endswith(".py")} == {
        file.name for file in LOCAL.glob("*.py")
    }


def test_the_image_is_built_without_private_servers():
    copied = re.findall(r"(?m)^COPY (?!--from)(.+) \S+$", (ROOT / "deploy/Dockerfile").read_text())

    assert [name for line in copied for name in line.split() if name.startswith("deploy")] == []


def test_both_wheels_have_one_version_and_ask_for_each_other(base, local):
    told = metadata(base)
    project = tomllib.loads((LOCAL / "pyproject.toml").read_text())["project"]
    by_hand = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]

    assert project["version"] == told["Version"]
    assert f"modelswap-local=={told['Version']}; extra == 'local'" in told.get_all("Requires-Dist", [])
    assert project["dependencies"] == [f"modelswap=={told['Version']}", *by_hand["dev-postgres"]]


def test_whatever_names_a_version_names_this_one():
    pages = (
        *("pyproject.toml", "deploy/local/pyproject.toml", "shared/subscriber/pyproject.toml", "deploy/README.md"),
        *("deploy/kubernetes/modelswap/Chart.yaml", "shared/subscriber/README.md"),
    )
    named = r"(?m)(?:^version = \"|^(?:version|appVersion): |modelswap(?:-\w+)?==|dist/modelswap\w*-)(\d[\w.]+\d)"

    told = {page: set(re.findall(named, (ROOT / page).read_text())) for page in pages}

    assert set(map(len, told.values())) == {1}
    assert set().union(*told.values()) == {
        tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"],
    }


def test_embedded_without_the_extra_names_the_remedy(base, tmp_path):
    done = run(UP, base, folder=tmp_path)

    problem, then = done.stderr.splitlines()
    assert done.returncode == 1
    assert problem == "modelswap: private servers are not part of this installation"
    assert then.startswith("Next: pip install both wheels")


def test_the_extra_brings_the_private_servers(base, local, tmp_path):
    import_servers = (
        "from services.cli.local.private import private_servers; import deploy.local; print(deploy.local.__file__)"
    )

    done = run(import_servers, base, local, folder=tmp_path)

    assert (done.stderr, Path(done.stdout.strip()).parent) == ("", tmp_path / "deploy/local")


def test_the_clients_wheel_has_no_other_package_and_two_dependencies(base, client):
    told = metadata(client)

    assert rooms(client) == {"modelswap_events", "modelswap_events/contract"}
    assert told["Version"] == metadata(base)["Version"]
    assert [each.partition(">")[0].partition("<")[0] for each in told.get_all("Requires-Dist", [])] == [
        "aio-pika",
        "pydantic",
    ]
    assert "modelswap_events/py.typed" in client.namelist()


def test_the_clients_wheel_has_the_one_source_of_the_contract(client):
    copied = {name for name in client.namelist() if name.startswith("modelswap_events/contract/")}

    assert "modelswap_events/contract/events.py" in copied
    for name in copied:
        source = (ROOT / "shared/contract" / Path(name).name).read_text()
        assert client.read(name).decode() == source.replace("shared.contract", "modelswap_events.contract")


def test_a_subscriber_imports_nothing_of_ours_but_the_client(client, tmp_path):
    code = "import modelswap_events.testing, sys; print([name for name in sys.modules if name.startswith('shared')])"

    done = run(code, client, folder=tmp_path)

    assert (done.stderr, done.stdout) == ("", "[]\n")


def test_the_consoles_templates_and_static_files_are_in_the_wheel(base: zipfile.ZipFile) -> None:
    here = ROOT / "services/ops/console"
    files = [file.relative_to(ROOT) for folder in ("templates", "static") for file in (here / folder).iterdir()]

    assert {str(file) for file in files} <= set(base.namelist())


def test_the_consoles_htmx_is_the_one_that_was_published() -> None:
    """Version 4.0.1, byte for byte: what is mended in it would be lost with the next version."""
    content = (ROOT / "services/ops/console/static/htmx.min.js").read_bytes()

    assert hashlib.sha256(content).hexdigest() == "a0abb04f2f45a1f89d1d4844023245537e5e6014c87b144553e0607b4cc32130"
