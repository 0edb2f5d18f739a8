"""
A Chromium for the tests of the console and its screenshots.

    given       MODELSWAP_TEST_CHROMIUM names the program
    installed   by the machine's packages, or by `playwright install`
    unpacked    Debian's packages in the cache, without root

Where none can be had, the tests that need one are skipped, and say why.
"""

from __future__ import annotations

import os
import platform
import re
import shutil
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

from playwright.async_api import Browser, Playwright, async_playwright

from deploy.local import apt
from deploy.local.cache import cache_folder, made_once
from deploy.local.errors import LocalServersError, Unavailable

GIVEN: Final = "MODELSWAP_TEST_CHROMIUM"
_NAMES: Final = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
#: Beside those of Playwright.
_FLAGS: Final = (
    "--no-sandbox",  # containers deny what it needs; all pages are our own
    "--disable-gpu",
    "--font-render-hinting=none",
)
#: Screenshots look the same on every machine.
_FONTS: Final = """\
<?xml version="1.0"?>
<!DOCTYPE fontconfig SYSTEM "fonts.dtd">
<fontconfig>
  <dir prefix="relative">usr/share/fonts</dir>
  <cachedir>{cache}</cachedir>
  <alias binding="strong"><family>system-ui</family><prefer><family>Inter</family></prefer></alias>
  <alias binding="strong"><family>sans-serif</family><prefer><family>Inter</family></prefer></alias>
  <alias binding="strong"><family>monospace</family><prefer><family>DejaVu Sans Mono</family></prefer></alias>
</fontconfig>
"""

Say = Callable[[str], object]


@asynccontextmanager
async def chromium(say: Say) -> AsyncIterator[Browser]:
    """
    A browser that runs without a window.

    Raises: Unavailable.
    """
    async with async_playwright() as playwright:
        program, settings = _find(playwright) or _unpacked(say)
        say(f"browser: {program}")
        browser = await playwright.chromium.launch(
            executable_path=program, args=_FLAGS, env={**os.environ, **settings}, handle_sigint=False
        )
        try:
            yield browser
        finally:
            await browser.close()


def _find(playwright: Playwright) -> tuple[str, dict[str, str]] | None:
    found = [os.environ.get(GIVEN), *map(shutil.which, _NAMES), playwright.chromium.executable_path]
    return next(((program, {}) for program in found if program and Path(program).exists()), None)


def _unpacked(say: Say) -> tuple[str, dict[str, str]]:
    release = apt.os_release()
    # Of its own release alone: it runs with the machine's C library. Ubuntu's package is an empty one.
    if release.get("ID") != "debian" or not (codename := release.get("VERSION_CODENAME")):
        raise Unavailable("no Chromium: none is installed, and this is no Debian. Type `playwright install chromium`")
    wanted = apt.Wanted(
        "Chromium",
        codename,
        ["chromium-headless-shell", "fonts-inter-variable", "fonts-dejavu-core"],
        needed,
        megabytes=120,
    )

    def make(draft: Path) -> None:
        apt.unpack(wanted, draft, say)

    try:
        root = made_once(cache_folder() / "chromium" / f"{codename}-{platform.machine()}", make, say)
    except LocalServersError as error:
        raise Unavailable(f"no Chromium: none is installed, and {error}") from None
    folders = ("lib/*-linux-gnu*", "usr/lib/*-linux-gnu*", "usr/lib/*-linux-gnu*/pulseaudio")
    libraries = [path for folder in folders for path in root.glob(folder)]
    # An absolute path: fontconfig would take a relative one from the folder where the tests run.
    fonts, text = root / "fonts.conf", _FONTS.format(cache=root / "fonts-cache")
    if not fonts.exists() or fonts.read_text() != text:
        fonts.write_text(text)
    settings = {
        "LD_LIBRARY_PATH": ":".join(map(str, libraries)),
        "FONTCONFIG_FILE": str(fonts),
    }
    return str(root / "usr/lib/chromium/chromium-headless-shell"), settings


def needed(name: str) -> bool:
    """Tell what Chromium needs at run time from all that apt would install on an empty machine."""
    # Of the drivers of graphics cards, which are large, only the interface is loaded.
    return bool(re.fullmatch(r"chromium-.*|fonts-.*|zlib1g|lib(?!c6$|llvm|z3|gl1-mesa|perl|python|pam).*", name))
