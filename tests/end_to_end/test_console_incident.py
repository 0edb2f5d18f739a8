"""The incident of deploy/runbook.md at the console, from the alert to the undo."""

from __future__ import annotations

from collections.abc import Sequence
from uuid import uuid4

import pytest
from playwright.async_api import Browser, Page, expect

from tests.end_to_end.conftest import RECORDED, SELF_STARTED
from tests.end_to_end.test_replays import (
    ask,
    in_parallel,
    planted_bug,
    register,
    succeed,
    told,
    until_ended,
    until_open,
)
from tests.operator import Keyboard, Mouse, sign_in, watch
from tests.stack import READER_TOKEN, Stack

_WHY = "the parser is mended"


async def hurt(stack: Stack, count: int) -> list[str]:
    """A parser that finds no model hurts so many users, half of whom had one before; it is mended already."""
    users = [f"victim-{uuid4().hex[:8]}" for _ in range(count)]
    retrained = users[: count // 2]
    await in_parallel(lambda user: register(stack, f"first-{user}", user), retrained)
    await in_parallel(lambda user: succeed(stack, f"first-{user}", user, SELF_STARTED), retrained)
    for user in retrained:
        await stack.until_stage(f"first-{user}", "active")
    await in_parallel(lambda user: register(stack, f"t-{user}", user), users)
    async with planted_bug(stack):
        await in_parallel(lambda user: succeed(stack, f"t-{user}", user), users)
        await until_open(stack, count, error_class="NoModel")
    return users


async def versions(stack: Stack, users: Sequence[str]) -> list[str | None]:
    models = [await stack.model(user) for user in users]
    return [None if model is None else model["version"] for model in models]


async def replayed(hands: Mouse | Keyboard, users: Sequence[str], *, rate: str = "") -> None:
    """From any screen to a replay that runs, after a look at what it would do."""
    page = hands.page
    await hands.go_to("d", "Dead letters")
    await hands.first_row()
    await hands.press("link", "Replay all open")
    await hands.type("Reason", _WHY)
    if rate:
        await page.get_by_label("Dead letters a second").fill(rate)
    await hands.press("button", "See what would happen")
    state = page.locator("#replay-state")
    await expect(state).to_contain_text(f"{len(users)} of {len(users)} dead letters predicted")
    for user in users:
        await expect(page.locator("#replay-table tr", has_text=user)).to_contain_text("→")
    await hands.press("button", f"Start the replay of {len(users)}")


async def undone(hands: Mouse | Keyboard, users: Sequence[str]) -> None:
    """From the page of a replay that is done to the models before it."""
    page = hands.page
    await hands.press("link", "Undo")
    for user in users:
        await expect(page.locator("tr", has_text=user)).to_contain_text("→")
    await hands.type("Reason", "they are all blurred")
    await hands.press("button", "Undo the replay")
    await expect(page.locator("#replay-state")).to_contain_text(f"{len(users)} users have their earlier model again")


@pytest.mark.parametrize("hands", [Mouse, Keyboard])
async def test_an_incident_is_repaired_and_taken_back(browser: Browser, stack: Stack, hands: type[Mouse | Keyboard]):
    users = await hurt(stack, 6)
    before = await versions(stack, users)
    async with await browser.new_context(base_url=stack.url("ops")) as context:
        heard = await watch(context)
        page = await sign_in(context)
        operator = hands(page)

        await replayed(operator, users)
        done = page.locator("#replay-state")
        await expect(done).to_contain_text("6 of 6 dead letters have their outcome")
        await expect(done).to_contain_text("6 swapped")
        after, to_replay = await versions(stack, users), operator.effort
        await undone(operator, users)
        again, to_undo = await versions(stack, users), operator.effort - to_replay
        (replay,) = [each for each in (await ask(stack, "/replays"))["items"] if page.url.endswith(each["id"])]
        await operator.go_to("a", "Audit")
        await expect(page.locator("main")).to_contain_text("they are all blurred")

    assert before == again == [SELF_STARTED] * 3 + [None] * 3
    assert after == [RECORDED] * 6
    assert [action for _, action, _ in await told(stack, replay)][:2] == ["replay.planned", "replay.started"]
    assert heard == []
    if hands is Mouse:
        assert (to_replay, to_undo) == (6, 3)


async def test_two_people_see_the_same_replay_and_it_goes_on_when_ops_dies(browser: Browser, stack: Stack):
    users = await hurt(stack, 12)
    address = stack.url("ops")
    async with (
        await browser.new_context(base_url=address) as operators,
        await browser.new_context(base_url=address) as readers,
    ):
        page, other = await sign_in(operators), await sign_in(readers, READER_TOKEN)
        operator = Mouse(page)
        await replayed(operator, users, rate="2")
        await expect(page.locator("#replay-state")).to_contain_text("running")
        replay = {"id": page.url.rpartition("/")[2]}
        await other.goto(f"/replays/{replay['id']}")
        pages = (page, other)
        await mark(*pages)

        await until_ended(stack, replay, 2)
        stack.processes["ops"].kill()
        stack.processes["ops"].start()
        for each in pages:
            await expect(each.locator("#replay-state")).to_contain_text("12 of 12 dead letters have their outcome")
        was_loaded_again = [not await is_marked(each) for each in pages]
        buttons = await other.locator("#replay-actions button").count()
        await undone(operator, users)
        await expect(other.locator("#replay-state")).to_contain_text("12 users have their earlier model again")

    assert was_loaded_again == [False, False]
    assert buttons == 0


async def mark(*pages: Page) -> None:
    for page in pages:
        await page.evaluate("window.marked = true")


async def is_marked(page: Page) -> bool:
    return bool(await page.evaluate("window.marked === true"))
