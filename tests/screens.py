"""
Screenshots of every screen of the console, with simulated data: ``make screenshots``.

    .venv/bin/python -m tests.screens FOLDER
    .venv/bin/python -m tests.screens FOLDER --only dead-letters,replay-half --widths 360 --schemes dark
    .venv/bin/python -m tests.screens FOLDER --keep     # until Ctrl-C, with an address to sign in at
    .venv/bin/python -m tests.screens deploy/screenshots --chosen     # those of the README and the runbook, small files

One file for each screen, width and colour scheme: ``dead-letters-360-dark.png``.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import sys
import tempfile
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from PIL import Image
from playwright.async_api import Browser, BrowserContext, FloatRect

from deploy.local import local_servers
from tests.chromium import chromium
from tests.end_to_end.conftest import open_stack
from tests.operator import sign_in
from tests.scene import EMPTY, set_scene
from tests.stack import OPS_TOKEN, Stack

Scheme = Literal["light", "dark"]

_WIDTHS: Final = (360, 1280, 2560)
_SCHEMES: Final[tuple[Scheme, ...]] = ("light", "dark")
#: A screenshot shows the whole page, and no more than this.
_HEIGHTS: Final = {360: 740, 1280: 800, 2560: 1300}
_MOST: Final = 4000
#: The screens of the README and the runbook.
_CHOSEN: Final = ("now", "dead-letters", "replay-previewed", "replay-half")
_CHOSEN_WIDTH: Final = 1280
_CHOSEN_HEIGHT: Final = 900
_SETTINGS: Final = {"MODELSWAP_RETRY_DELAYS": "100ms,200ms"}


async def main(options: argparse.Namespace) -> None:
    async with contextlib.AsyncExitStack() as opened:
        servers = opened.enter_context(local_servers(say=print))
        folder = Path(opened.enter_context(tempfile.TemporaryDirectory()))
        settings = {**_SETTINGS, "MODELSWAP_MANAGEMENT_URL": servers.management_url}
        stack, simulator = await opened.enter_async_context(open_stack(folder, servers, settings=settings))
        print("screens: the services run; now the scene is set")
        screens = (
            EMPTY
            if options.empty
            else (await set_scene(stack, simulator, crowd=options.past, made_up=not options.chosen)).screens()
        )
        browser = await opened.enter_async_context(chromium(print))
        options.folder.mkdir(parents=True, exist_ok=True)
        wanted = _wanted(screens, _CHOSEN if options.chosen else options.only, whole=options.chosen)
        for scheme in options.schemes:
            for width in [_CHOSEN_WIDTH] if options.chosen else options.widths:
                async with _window(browser, stack, width, scheme) as window:
                    await _shoot(window, wanted, options.folder)
        if options.chosen:
            for file in options.folder.glob("*.png"):
                _make_small(file)
        if options.keep:
            print(f"screens: {stack.url('ops')}/ with the token {OPS_TOKEN}. Ctrl-C stops everything.")
            print("\n".join(f"  {name:24} {address}" for name, address in screens.items()))
            await asyncio.Event().wait()


def _wanted(screens: Mapping[str, str], only: Sequence[str], *, whole: bool) -> dict[str, str]:
    """Those whose names are in *only*, or begin like one of it, unless that is the *whole* name; all if it is empty."""
    fits = only.__contains__ if whole else lambda name: not only or name.startswith(tuple(only))
    return {name: path for name, path in screens.items() if fits(name)}


def _make_small(file: Path) -> None:
    with Image.open(file) as picture:
        top = picture.convert("RGB").crop((0, 0, picture.width, min(picture.height, _CHOSEN_HEIGHT)))
    top.save(file.with_suffix(".webp"), quality=80, method=6)
    file.unlink()


@dataclass(frozen=True)
class _Window:
    context: BrowserContext
    width: int
    scheme: Scheme

    @property
    def height(self) -> int:
        return _HEIGHTS.get(self.width, 900)

    def file(self, folder: Path, name: str) -> Path:
        return folder / f"{name}-{self.width}-{self.scheme}.png"


@contextlib.asynccontextmanager
async def _window(browser: Browser, stack: Stack, width: int, scheme: Scheme) -> AsyncIterator[_Window]:
    context = await browser.new_context(
        base_url=stack.url("ops"),
        viewport={"width": width, "height": _HEIGHTS.get(width, 900)},
        color_scheme=scheme,
        timezone_id="Europe/Berlin",
        locale="en-GB",
        reduced_motion="reduce",
    )
    async with context:
        yield _Window(context, width, scheme)


async def _shoot(window: _Window, screens: Mapping[str, str], folder: Path) -> None:
    if "sign-in" in screens:
        await _shoot_one(window, screens["sign-in"], window.file(folder, "sign-in"))
    await sign_in(window.context)
    for name, path in screens.items():
        if name != "sign-in":
            await _shoot_one(window, path, window.file(folder, name))


async def _shoot_one(window: _Window, path: str, file: Path) -> None:
    page = await window.context.new_page()
    try:
        answer = await page.goto(path)
        status = answer.status if answer else 0
        size = await page.evaluate("[document.documentElement.scrollWidth, document.documentElement.scrollHeight]")
        height = min(max(size[1], window.height), _MOST)
        clip: FloatRect = {"x": 0, "y": 0, "width": window.width, "height": height}
        await page.screenshot(path=file, full_page=True, animations="disabled", clip=clip)
        complaints = [f"status {status}"] * (status != 200) + [f"{size[0]} px wide"] * (size[0] > window.width)
        print(f"screens: {file}" + (f"  ({', '.join(complaints)})" if complaints else ""))
    finally:
        await page.close()


def _list(text: str) -> list[str]:
    return [each for each in text.split(",") if each]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--only", type=_list, default=[], help="the beginnings of screens' names")
    parser.add_argument("--widths", type=lambda text: [int(each) for each in _list(text)], default=_WIDTHS)
    parser.add_argument("--schemes", type=_list, default=_SCHEMES)
    parser.add_argument("--chosen", action="store_true", help="only those of the README and the runbook, small files")
    parser.add_argument("--empty", action="store_true", help="with nothing in the database")
    parser.add_argument("--no-past", dest="past", action="store_false", help="without the trainings of 30 days")
    parser.add_argument("--keep", action="store_true", help="run on until Ctrl-C")
    with contextlib.suppress(KeyboardInterrupt):
        sys.exit(asyncio.run(main(parser.parse_args())))
