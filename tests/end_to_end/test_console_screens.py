"""Every screen of the console in a real browser: clean, readable, accessible, without a button for readers."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator, Mapping
from datetime import timedelta
from html import unescape
from pathlib import Path
from pprint import pformat
from typing import Final
from urllib.parse import quote
from uuid import UUID

import pytest
from axe_playwright_python.async_playwright import Axe
from playwright.async_api import Browser, Page, ViewportSize, expect

from services.simulator.simulator import Simulator
from shared.contract.events import TrainingSucceeded
from tests.end_to_end.conftest import open_stack
from tests.forged import described, filled, routes, session
from tests.fuzzer import schemathesis
from tests.operator import Mouse, sign_in, watch
from tests.replays import archive, letter_of
from tests.scene import EMPTY, HOSTILE, Scene, set_scene
from tests.servers import Urls
from tests.stack import OPS_TOKEN, READER_TOKEN, Stack
from tests.state import connected, envelope

#: What every person has, a reader too.
_HARMLESS: Final = {"Sign out", "Keyboard ?", "Close"}
#: Screens that only ask whether to write, which a reader may be refused.
_TO_WRITE: Final = {"dead-letter-edit", "dead-letter-drop", "user-rollback", "user-withdraw"}
_AT_ONCE: Final = 3
_USUAL: Final[ViewportSize] = {"width": 1280, "height": 720}
#: Requests to each route.
_CASES: Final = 12
#: The methods of the routes that are asked. A reader's writes are refused before anything of them is read.
_ASKED: Final = {OPS_TOKEN: ("GET", "POST"), READER_TOKEN: ("GET",)}


@pytest.fixture(scope="module")
async def opened(servers: Urls, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[tuple[Stack, Simulator]]:
    """The services, with nothing in their database."""
    settings = {"MODELSWAP_RETRY_DELAYS": "100ms,200ms"}
    if servers.management_url:
        settings["MODELSWAP_MANAGEMENT_URL"] = servers.management_url
    async with open_stack(tmp_path_factory.mktemp("console"), servers, settings=settings) as opened:
        yield opened


@pytest.fixture(scope="module")
def stack(opened: tuple[Stack, Simulator]) -> Stack:
    return opened[0]


@pytest.fixture(scope="module")
async def scene(opened: tuple[Stack, Simulator]) -> Scene:
    return await set_scene(*opened)


async def look(browser: Browser, stack: Stack, screens: Mapping[str, str]) -> dict[str, list[str]]:
    """Visit *screens*, a few at a time; return what is wrong with each of them."""
    found: dict[str, list[str]] = {}
    left, asked_again = iter(screens.items()), 0

    async def visit_some(page: Page) -> None:
        nonlocal asked_again
        for name, path in left:
            await page.set_viewport_size(_USUAL)
            # A busy machine may be asked again; what is broken stays so.
            async with asyncio.timeout(120):
                while (answer := await page.goto(path)) is not None and answer.status == 503:
                    asked_again += 1
                    await asyncio.sleep(1)
            status = [] if answer is not None and answer.ok else ["it is not there"]
            found[name] = [*status, *await _accessibility(page), *await _sizes(page)]

    async with await browser.new_context(base_url=stack.url("ops")) as context:
        heard = await watch(context)
        # Few pages for all screens: to open another one costs Chromium as much as to show a screen.
        pages = [await sign_in(context), *[await context.new_page() for _ in range(1, _AT_ONCE)]]
        await asyncio.gather(*map(visit_some, pages))
    for late in [line for line in heard if "the server responded with a status of 503" in line][:asked_again]:
        heard.remove(late)
    return {name: wrong for name, wrong in {**found, "heard": heard}.items() if wrong}


async def _accessibility(page: Page) -> list[str]:
    wrong = []
    # The same document is looked at in both schemes: to load it again costs Chromium as much.
    for scheme in ("light", "dark"):
        await page.emulate_media(color_scheme=scheme)
        results = await Axe().run(page)
        wrong += [
            f"{each['id']} ({scheme}): {node['html'][:200]} {node.get('failureSummary', '')[:300]}"
            for each in results.response["violations"]
            for node in each["nodes"]
        ]
    return wrong


async def _sizes(page: Page) -> list[str]:
    wrong = []
    for width in (360, 2560):
        await page.set_viewport_size({"width": width, "height": 900})
        needed = await page.evaluate("document.documentElement.scrollWidth")
        if needed > width:
            wrong.append(f"scrolls sideways: {needed} px at {width}")
        wrong += [f"a cell has no room at {width}: {cell}" for cell in await page.evaluate(_WITHOUT_ROOM)]
    content = await page.evaluate("document.querySelector('main').getBoundingClientRect().width")
    return wrong if content < 2000 else [*wrong, f"lines are {content} px wide"]


#: Cells that are narrower than a few characters.
_WITHOUT_ROOM: Final = """() => [...document.querySelectorAll("td[data-label]")].filter(cell => {
    const style = getComputedStyle(cell)
    const room = cell.clientWidth - parseFloat(style.paddingLeft) - parseFloat(style.paddingRight)
    return cell.textContent.trim() && style.display !== "none" && room < 40
}).map(cell => cell.outerHTML.slice(0, 200))"""


async def test_an_empty_database_is_shown_well(browser: Browser, stack: Stack):
    wrong = await look(browser, stack, EMPTY)

    assert not wrong, pformat(wrong, width=200)


async def test_every_screen_is_clean_fits_and_is_accessible_in_the_light_and_in_the_dark(
    browser: Browser, stack: Stack, scene: Scene
):
    wrong = await look(browser, stack, scene.screens())

    assert not wrong, pformat(wrong, width=200)


async def test_a_reader_sees_every_screen_and_no_button(browser: Browser, stack: Stack, scene: Scene):
    buttons: dict[str, list[str]] = {}
    async with await browser.new_context(base_url=stack.url("ops")) as context:
        page = await sign_in(context, READER_TOKEN)
        for name, path in scene.screens().items():
            if name == "sign-in":
                continue
            answer = await page.goto(path)
            assert answer is not None
            assert answer.ok or name in _TO_WRITE, f"{name}: {answer.status}"
            said = await page.locator("button, input[type=submit], [hx-post]").all_text_contents()
            buttons[name] = sorted({" ".join(each.split()) for each in said} - _HARMLESS)
            forms = await page.locator("form[method=post]:not([action='/sign-out'])").count()
            assert forms == 0, name

    assert {name: said for name, said in buttons.items() if [each for each in said if each not in _ASKING]} == {}


#: Buttons of forms that only ask.
_ASKING: Final = {"Search", "Filter", "Find"}


async def test_a_readers_forged_write_is_refused(stack: Stack):
    async with session(stack, READER_TOKEN) as (client, csrf):
        writes = [path for path in routes("POST") if not path.startswith("/sign-")]

        said = {path: (await client.post(filled(path), data={"csrf": csrf})).status_code for path in writes}

    assert len(said) > 5
    assert said == dict.fromkeys(writes, 403)


async def test_a_write_from_elsewhere_is_refused(stack: Stack):
    async with session(stack, OPS_TOKEN) as (client, csrf):
        writes = [path for path in routes("POST") if path != "/sign-in"]

        without = {path: (await client.post(filled(path), data={})).status_code for path in writes}
        elsewhere = {
            path: (
                await client.post(filled(path), data={"csrf": csrf}, headers={"Origin": "https://evil.example"})
            ).status_code
            for path in writes
        }

    assert without == elsewhere == dict.fromkeys(writes, 403)


async def test_hostile_texts_are_shown_literally(browser: Browser, stack: Stack, scene: Scene):
    screens = scene.screens()
    odd = [screens[name] for name in ("training-hostile", "user-hostile", "dead-letter-hostile", "replay-undone")]
    asked: list[str] = []
    async with await browser.new_context(base_url=stack.url("ops")) as context:
        context.on("dialog", lambda dialog: asked.append(dialog.message))
        heard = await watch(context)
        page = await sign_in(context)
        for path in (*odd, "/audit", f"/search?q={quote(HOSTILE)}"):
            await page.goto(path)
            shown = page.locator("main").get_by_text(HOSTILE[:60]).first
            await expect(shown, f"it is not on {page.url}").to_be_attached()
            assert await page.locator("main img, main script").count() == 0, path

    assert (asked, heard) == ([], [])


async def test_a_newcomer_finds_out_why_a_user_has_no_new_model(browser: Browser, stack: Stack, scene: Scene):
    user = scene.unverified.removeprefix("t-")
    async with await browser.new_context(base_url=stack.url("ops")) as context:
        newcomer = Mouse(await sign_in(context))

        await newcomer.search(user)
        await newcomer.press("link", scene.unverified)
        await expect(newcomer.page.locator("main")).to_contain_text("the output names no model")

    assert newcomer.effort == 2


async def test_a_newcomer_finds_what_was_swapped_at_a_time(browser: Browser, stack: Stack, scene: Scene):
    async with connected(stack.database_url) as connection:
        swap = await connection.fetchrow(
            "SELECT user_id, at FROM state.model_history WHERE at < now() - interval '1 day' ORDER BY at DESC LIMIT 1"
        )
    assert swap is not None
    async with await browser.new_context(base_url=stack.url("ops"), timezone_id="UTC") as context:
        newcomer = Mouse(await sign_in(context))

        await newcomer.go_to("t", "Trainings")
        await newcomer.press("link", "Changes")
        await newcomer.page.get_by_label("From (UTC)").fill(f"{swap['at']:%Y-%m-%dT%H:%M}")
        await newcomer.page.get_by_label("Until (UTC)").fill(f"{swap['at'] + timedelta(minutes=1):%Y-%m-%dT%H:%M}")
        await newcomer.press("button", "Filter")
        await expect(newcomer.page.locator("main tbody tr").last).to_contain_text("crowd-")
        await expect(newcomer.page.locator("main tbody")).to_contain_text(swap["user_id"])

    # Beside them, one into each of the two fields.
    assert newcomer.effort == 3


async def test_keys_open_what_an_entry_of_the_audit_is_of(browser: Browser, stack: Stack, scene: Scene):
    replay = scene.replays["undone"]
    async with await browser.new_context(base_url=stack.url("ops")) as context:
        page = await sign_in(context)
        await page.goto(f"/audit?target={quote(f'replay {replay}')}")
        await expect(page.locator("main tbody tr").first).to_be_visible()
        await page.keyboard.press("j")
        await page.keyboard.press("Enter")

        await page.wait_for_url(f"**/replays/{replay}")


async def test_a_letter_of_ten_megabytes_is_shown_in_part_and_downloaded_whole(stack: Stack):
    event = envelope(TrainingSucceeded(training_id="large", output={}))
    body = json.dumps({"training_id": "large", "output": {"logs": "<wide> " * 1_500_000}}).encode()
    (number,) = await archive(stack.database_url, letter_of(event, body=body))
    async with session(stack, OPS_TOKEN) as (client, _):
        page = await client.get(f"/dead-letters/{number}")
        (link,) = set(re.findall(r'href="([^"]+)"[^>]*download', page.text))
        whole = await client.get(unescape(link))

    assert (page.status_code, whole.status_code) == (200, 200), whole.text[:3000]
    assert len(page.content) < 1_000_000
    assert whole.content == body


@pytest.mark.parametrize("token", [READER_TOKEN, OPS_TOKEN], ids=["reader", "operator"])
async def test_no_request_breaks_a_page(stack: Stack, scene: Scene, tmp_path: Path, token: str):
    known = {"training": scene.training, "user": scene.user, "number": str(scene.letter), "endpoint": scene.endpoint}
    known |= {"replay": scene.replays["undone"], "delivery": str(UUID(int=1)), "name": "console.css"}
    document = tmp_path / "console.json"
    async with session(stack, token) as (client, csrf):
        document.write_text(json.dumps(described(known, csrf, _ASKED[token])))
        cookies = "; ".join(f"{each.name}={each.value}" for each in client.cookies.jar)
        options = ("--header", f"Cookie: {cookies}", "--checks", "not_a_server_error", "--phases", "fuzzing")

        code, said = await schemathesis(document, stack.url("ops"), *options, most_examples=_CASES)

    assert code == 0, said
    assert f"Tested: {sum(len(routes(method)) for method in _ASKED[token])}\n" in said
