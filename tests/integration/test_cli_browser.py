"""`modelswap console` opens a browser, here a program that keeps its arguments; none of them is the link."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from pathlib import Path
from typing import Final

import pytest

from tests.forks import ROOT

LINK: Final = "http://127.0.0.1:8083/sign-in?code=the-code&then=x"
_BROWSER: Final = """\
#!/bin/sh
printf '%s\\n' "$0" "$@" > "{kept}/arguments"
file=${{1#file://}}
ls -ld "$(dirname "$file")" "$file" | cut -c 1-10 > "{kept}/modes"
cp "$file" "{kept}/page"
exit {code}
"""
_SHOW: Final = """\
import sys
from datetime import timedelta
from services.cli.local.console import show
show(sys.argv[1], only_print=False, lasts=timedelta(seconds=float(sys.argv[2])))
"""


async def shown(folder: Path, *, code: int, lasts_seconds: float = 600) -> tuple[str, str]:
    """Show the link where the browser ends with *code*; standard output and standard error."""
    browser, temporary = folder / "browser", folder / "tmp"
    browser.write_text(_BROWSER.format(kept=folder, code=code))
    browser.chmod(0o700)
    temporary.mkdir()
    done = await asyncio.to_thread(
        subprocess.run,
        [sys.executable, "-c", _SHOW, LINK, str(lasts_seconds)],
        cwd=ROOT,
        # Otherwise the next browser in the list is tried.
        env={**os.environ, "BROWSER": str(browser), "TMPDIR": str(temporary), "DISPLAY": "", "TERM": ""},
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout, done.stderr


async def test_a_browser_is_given_a_private_file_not_the_link(tmp_path):
    out, err = await shown(tmp_path, code=0, lasts_seconds=0)

    _, address = (tmp_path / "arguments").read_text().splitlines()
    assert (address.startswith("file:///"), "the-code" in address) == (True, False)
    assert (tmp_path / "modes").read_text().split() == ["drwx------", "-rw-------"]
    refresh = 'content="0; url=http://127.0.0.1:8083/sign-in?code=the-code&amp;then=x"'
    assert refresh in (tmp_path / "page").read_text()
    assert "the-code" not in out + err


async def test_the_file_is_removed_when_the_link_has_expired(tmp_path):
    await shown(tmp_path, code=0, lasts_seconds=0.2)

    async with asyncio.timeout(60):
        while any((tmp_path / "tmp").iterdir()):
            await asyncio.sleep(0.05)
    assert "the-code" in (tmp_path / "page").read_text()


@pytest.mark.parametrize("code", [1, 127])
async def test_without_a_browser_the_link_is_printed_and_no_file_left(tmp_path, code):
    out, err = await shown(tmp_path, code=code)

    assert out == f"{LINK}\n"
    assert "there is no browser here" in err
    assert list((tmp_path / "tmp").iterdir()) == []
