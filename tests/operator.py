"""An operator at a real browser: signed in, and with all that a page complains about written down."""

from __future__ import annotations

from playwright.async_api import BrowserContext, Page, expect

from tests.stack import OPS_TOKEN

#: Written down by the page itself: Chromium tells the console of some violations only.
_LISTEN = """
document.addEventListener("securitypolicyviolation", event =>
    console.error(`policy violated: ${event.violatedDirective} ${event.blockedURI} ${event.sourceFile}`));
"""


async def sign_in(context: BrowserContext, token: str = OPS_TOKEN) -> Page:
    """Sign in as a person does; returns the page, which shows what happens now."""
    page = await context.new_page()
    await page.goto("/sign-in")
    await page.get_by_label("Token").fill(token)
    await page.get_by_role("button", name="Sign in").click()
    await expect(page.get_by_role("button", name="Sign out")).to_be_visible()
    return page


async def watch(context: BrowserContext) -> list[str]:
    """Return a list that grows with all that the context's pages complain about: scripts, policy, what is not there."""
    heard: list[str] = []
    await context.add_init_script(_LISTEN)

    def listen(page: Page) -> None:
        page.on("console", lambda line: heard.append(f"{page.url}: {line.text}") if line.type == "error" else None)
        page.on("pageerror", lambda error: heard.append(f"{page.url}: {error}"))

    context.on("page", listen)
    return heard
