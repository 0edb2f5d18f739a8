"""Is the right mirror asked, and is what it has picked rightly?"""

from pathlib import Path

import pytest

from deploy.local.apt import Mirror, deb822_sources, one_line_sources, planned, without_credentials
from deploy.local.binaries import _is_of
from deploy.local.debian import RELEASES, needed
from tests import chromium

SAMPLES = sorted((Path(__file__).parent.parent / "fixtures" / "apt").iterdir())


@pytest.mark.parametrize("sample", SAMPLES, ids=lambda sample: sample.name)
def test_only_the_main_archive_is_used_as_a_mirror(sample):
    text = sample.read_text()
    parse = deb822_sources if sample.suffix == ".sources" else one_line_sources

    found = [f"{uri} {keyring or '-'}" for uri, keyring in parse(text)]

    assert found == [line.removeprefix("# expected: ") for line in text.splitlines() if line.startswith("# expected")]


def test_another_release_of_a_mirror_keeps_its_key():
    mirror = Mirror("http://mirror.example/debian", "/usr/share/keyrings/debian-archive-keyring.gpg")

    line = mirror.line("forky")

    assert line == (
        "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] http://mirror.example/debian forky main\n"
    )


def test_a_password_in_a_mirrors_address_is_not_shown():
    said = "E: Failed to fetch https://ci:s3cret@mirror.example/debian/dists/forky/InRelease 401"

    shown = without_credentials(said)

    assert shown == "E: Failed to fetch https://mirror.example/debian/dists/forky/InRelease 401"


def test_only_what_rabbitmq_needs_to_run_is_unpacked():
    plan = """\
Inst libc6 (2.41-12 Debian:13.1/stable [amd64])
Inst perl-base (5.40.1-6 Debian:13.1/stable [amd64])
Inst libperl5.40 (5.40.1-6 Debian:13.1/stable [amd64])
Inst zlib1g (1:1.3.dfsg Debian:13.1/stable [amd64])
Inst passwd (1:4.17.4-2 Debian:13.1/stable [amd64])
Inst erlang-base (1:27.3.4.1 Debian:13.1/stable [amd64])
Inst rabbitmq-server (4.0.5-6 Debian:13.1/stable [all])
Conf rabbitmq-server (4.0.5-6 Debian:13.1/stable [all])
"""

    names = [name for name in planned(plan) if needed(name)]

    assert names == ["libc6", "zlib1g", "erlang-base", "rabbitmq-server"]


def test_chromium_runs_with_the_c_library_of_the_machine():
    plan = ["libc6", "libcap2", "libllvm15", "libgl1-mesa-dri", "libgbm1", "x11-utils", "fonts-dejavu-core"]

    names = [name for name in plan if chromium.needed(name)]

    assert names == ["libcap2", "libgbm1", "fonts-dejavu-core"]


@pytest.mark.parametrize(
    ("series", "version", "fits"),
    [
        ("auto", "of unknown version", True),
        ("4", "4.3.6", True),
        ("4", "41.0", False),
        ("3.10", "3.10.8", True),
        ("3.10", "3.1.0", False),
        ("4", "of unknown version", False),
    ],
)
def test_a_series_is_the_beginning_of_a_version(series, version, fits):
    assert _is_of(series, version) is fits


def test_both_tested_rabbitmq_series_have_a_debian_release():
    assert {"3.10", "4"} <= {release.series for release in RELEASES if release.distribution == "debian"}
