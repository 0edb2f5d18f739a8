"""An operator at a real browser: signed in, with a mouse or a keyboard, and all that a page complains about kept."""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass

from playwright.async_api import BrowserContext, Locator, Page, expect
from playwright.async_api import TimeoutError as TimedOut

from tests.stack import OPS_TOKEN

#: A busy machine takes its time, and when all is well it is never waited for.
_PATIENCE_MS = 60_000
#: Written down by the page itself: Chromium tells its console of some violations only.
_LISTEN = """
document.addEventListener("securitypolicyviolation", event =>
    console.error(`policy violated: ${event.violatedDirective} ${event.blockedURI} ${event.sourceFile}`));
"""
expect.set_options(timeout=_PATIENCE_MS)


async def sign_in(context: BrowserContext, token: str = OPS_TOKEN) -> Page:
    """Sign in as a person does; returns the page, which shows what happens now."""
    context.set_default_timeout(_PATIENCE_MS)
    page = await context.new_page()
    await page.goto("/sign-in")
    await page.get_by_label("Token").fill(token)
    await page.get_by_role("button", name="Sign in").click()
    await expect(page.get_by_role("button", name="Sign out")).to_be_visible()
    # Keys do nothing before the page's script has run.
    await page.wait_for_load_state()
    return page


async def watch(context: BrowserContext) -> list[str]:
    """Return a list that grows with all that pages complain about: errors of scripts, policy, what is not there."""
    heard: list[str] = []
    await context.add_init_script(_LISTEN)

    def listen(page: Page) -> None:
        page.on("console", lambda line: heard.append(f"{page.url}: {line.text}") if line.type == "error" else None)
        page.on("pageerror", lambda error: heard.append(f"{page.url}: {error}"))

    context.on("page", listen)
    return heard


@dataclass
class Mouse:
    """Clicks, and counts them; a text that is typed counts as none."""

    page: Page
    effort: int = 0

    async def press(self, role: str, name: str) -> None:
        """Click on the first link or button with that name."""
        await self._click(found(self.page, role, name))

    async def type(self, label: str, text: str) -> None:
        await self._click(self.page.get_by_label(label, exact=True))
        await self.page.keyboard.type(text)

    async def first_row(self) -> None:
        """Open the first row of the list."""
        await self._click(rows(self.page).first)

    async def search(self, text: str) -> None:
        await self._click(self.page.get_by_role("searchbox", name="Search"))
        await self.page.keyboard.type(text)
        await self.page.keyboard.press("Enter")

    async def go_to(self, _: str, section: str) -> None:
        await self._click(self.page.get_by_role("navigation", name="Screens").get_by_role("link", name=section))

    async def _click(self, target: Locator) -> None:
        await target.click()
        self.effort += 1


@dataclass
class Keyboard:
    """Reaches everything by keys alone, and counts them; a letter that is typed counts as none."""

    page: Page
    effort: int = 0

    async def press(self, role: str, name: str) -> None:
        await self._reach(found(self.page, role, name))
        await self._key("Enter")

    async def type(self, label: str, text: str) -> None:
        await self._reach(self.page.get_by_label(label, exact=True))
        await self.page.keyboard.type(text)

    async def first_row(self) -> None:
        await expect(rows(self.page).first).to_be_visible()
        await self._key("j")
        await expect(rows(self.page).first).to_be_focused()
        await self._key("Enter")

    async def go_to(self, key: str, _: str) -> None:
        before = self.page.url
        self.effort += 2
        async with asyncio.timeout(_PATIENCE_MS / 1000):
            # The page forgets the first key if the second one comes too late, as on a busy machine.
            while self.page.url == before:
                await self.page.keyboard.press("g")
                await self.page.keyboard.press(key)
                with contextlib.suppress(TimedOut):
                    await self.page.wait_for_url(lambda url: url != before, timeout=_PATIENCE_MS / 6)

    async def _reach(self, target: Locator) -> None:
        """Press Tab until *target* has the focus."""
        await expect(target).to_be_visible()
        for _ in range(80):
            if await target.evaluate("element => element === document.activeElement"):
                return
            await self._key("Tab")
        raise AssertionError(f"{target} is not reached by Tab")

    async def _key(self, key: str) -> None:
        await self.page.keyboard.press(key)
        self.effort += 1


def found(page: Page, role: str, name: str) -> Locator:
    assert role in ("link", "button")
    return page.get_by_role("link" if role == "link" else "button", name=name).first


def rows(page: Page) -> Locator:
    """The links that lead from the rows of a page's list."""
    return page.locator("main .list tbody tr td a:not([class*=button])")
