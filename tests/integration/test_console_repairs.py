"""The screens of dead letters, replays and the audit over a real Postgres, as a browser without scripts sees them."""

from __future__ import annotations

import asyncio
import html
import json
import re
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import pytest

from services.ops.api import create_api
from services.ops.replays.plan import Status
from services.ops.replays.store import Store as Replays
from shared.contract.topology import EXTRACTOR_QUEUE, topology
from shared.runtime.broker import Outgoing
from shared.runtime.http import Api
from tests.console import TOKENS, Browser, signed_in
from tests.ops import READER, Letters, archived, dead, routers_of
from tests.replays import (
    Answering,
    Listed,
    archive,
    archive_many,
    letter_of,
    opened_repairs,
    order,
    routes,
    running_engine,
    say,
    settled,
    until,
)
from tests.scene import HOSTILE
from tests.state import execute, model_of, succeeded

PLAN = topology()


@dataclass
class Ops:
    """The operators' API, and what stands behind it."""

    api: Api
    letters: Letters
    replays: Replays
    services: Answering


@pytest.fixture
async def ops(database_url: str) -> AsyncIterator[Ops]:
    services = Answering()
    async with opened_repairs(database_url) as (letters, replays):
        api = create_api(*routers_of(letters), routes(replays, services), tokens=TOKENS)
        yield Ops(api, letters, replays, services)


@pytest.fixture
async def browser(ops: Ops) -> AsyncIterator[Browser]:
    async with signed_in(ops.api) as browser:
        yield browser


def letter(training_id: str, **options: Any) -> Outgoing:
    return dead(training_id, PLAN, **options)


async def page(browser: Browser, path: str) -> str:
    answer = await browser.get(path)
    assert answer.status_code == 200, answer.text
    return answer.text


def said(text: str) -> str:
    """What a page says, without its tags."""
    return re.sub(r"\s+", " ", html.unescape(re.sub(r"<[^>]*>", " ", text)))


def hidden(text: str) -> dict[str, list[str]]:
    """The hidden fields of a page's forms."""
    found: dict[str, list[str]] = {}
    for name, value in re.findall(r'<input type="hidden" name="([^"]+)" value="([^"]*)">', text):
        found.setdefault(name, []).append(html.unescape(value))
    return found


ALL_SCREENS = ("/dead-letters", "/dead-letters?show=list", "/replays", "/replays/new", "/audit")


@pytest.mark.parametrize(
    ("path", "sentence"),
    [
        ("/dead-letters", "No dead letter is open"),
        ("/dead-letters?status=any", "No group has such a dead letter"),
        ("/dead-letters?show=list", "No dead letter fits this filter"),
        ("/dead-letters?queue=nothing", "No dead letter fits this filter"),
        ("/replays", "No dead letter was replayed yet"),
        ("/replays/new", "Choose dead letters first"),
        ("/audit", "Nobody has changed anything yet"),
        ("/audit?actor=olga", "No entry fits this filter"),
    ],
)
async def test_an_empty_database_is_told_in_a_sentence(browser, path, sentence):
    assert sentence in said(await page(browser, path))


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/dead-letters/9", 404),
        ("/dead-letters/none", 404),
        ("/dead-letters/9%3Fx=1", 404),
        ("/dead-letters/9/body", 404),
        ("/dead-letters/9/edit", 404),
        ("/dead-letters?status=lost", 422),
        ("/dead-letters?since=yesterday", 422),
        ("/dead-letters?cursor=x", 422),
        ("/replays/9", 422),
        ("/replays/00000000-0000-0000-0000-000000000000", 404),
        ("/replays/00000000-0000-0000-0000-000000000000/undo", 404),
        ("/audit?until=x", 422),
        ("/dead-letters/drop?letters=9", 404),
        ("/dead-letters/drop", 422),
    ],
)
async def test_what_is_not_there_is_a_problem_with_its_status(browser, path, status):
    answer = await browser.get(path)

    assert answer.status_code == status
    assert 'class="narrow"' in answer.text


# Dead letters


async def test_a_group_leads_to_its_letters_and_one_of_them(ops, browser):
    trace_id = "4bf92f3577b34da6a3ce929d0e0e4736"
    await archived(ops.letters, letter("t1", traceparent=f"00-{trace_id}-00f067aa0ba902b7-01"), letter("t2"))

    groups = await page(browser, "/dead-letters")
    address = html.unescape(re.findall(r'href="(/dead-letters\?fingerprint=[^"]+)"', groups)[0])
    found = await page(browser, address)
    one, other = [await page(browser, f"/dead-letters/{number}") for number in (1, 2)]

    assert "no version in the output" in said(groups)
    assert "2 dead letters" in said(found)
    assert re.findall(r'href="/dead-letters/(\d+)"', found) == ["2", "1"]
    assert "training_id" in one
    assert "Traceback" in one
    assert f"Trace {trace_id}" in said(one)
    assert "Trace 4" not in said(other)


async def test_the_navigation_counts_what_the_page_counts(ops, browser):
    await archived(ops.letters, letter("t1"))
    await page(browser, "/audit")  # counts for all pages of the next seconds
    await archived(ops.letters, letter("t2"))

    groups = await page(browser, "/dead-letters")

    assert 'title="open dead letters">2<' in groups


async def test_what_came_since_the_last_look_is_marked(ops, browser):
    await archived(ops.letters, letter("t1"))
    first = await page(browser, "/dead-letters")
    await archived(ops.letters, letter("t2"))
    again = await page(browser, "/dead-letters")
    await browser.post("/dead-letters/seen", page="/dead-letters")
    seen = await page(browser, "/dead-letters")

    assert ["1 new since you looked" in said(each) for each in (first, again, seen)] == [False, True, False]


async def test_a_filter_stays_in_the_addresses_of_its_page(ops, browser):
    await archived(ops.letters, *(letter(f"t{number}") for number in range(60)))

    found = await page(browser, f"/dead-letters?queue={EXTRACTOR_QUEUE}&since=9999w")
    following = html.unescape(re.findall(r'href="([^"]+)" rel="next"', found)[0])
    second = await page(browser, following)

    assert f'value="{EXTRACTOR_QUEUE}"' in found
    assert "since=9999w" in following
    assert len(re.findall(r'name="letters" value="\d+"', second)) == 10


_INSERT_HOSTILE = """
    INSERT INTO ops.letters
        (digest, queue, exchange, routing_key, content_type, headers, body, event_type, event_id, training_id, user_id,
         error_code, error_class, error_text, traceback, attempts, first_failed_at, last_failed_at, fingerprint)
    SELECT 'd', $3, $1, $1, $1, json_build_object($1::text, $1), $2, $1, $1, $1, $1, $1, $1, $1, $1, 1, now(), now(), $1
"""


async def test_hostile_strings_are_shown_as_they_are(ops, browser, database_url):
    body = json.dumps({"training_id": "odd", "output": {HOSTILE: HOSTILE}}).encode()
    await execute(database_url, _INSERT_HOSTILE, HOSTILE, body, EXTRACTOR_QUEUE)
    record = await ops.replays.create(order([1], reason=HOSTILE, is_dry_run=True))
    screens = (*ALL_SCREENS, "/dead-letters/1", f"/replays/{record.id}", "/replays/new?letters=1")

    pages = {path: await page(browser, path) for path in screens}

    for path, text in pages.items():
        assert "<script>alert" not in text, path
        assert "<img src=x" not in text, path
    for path in set(screens) - {"/replays/new", "/replays/new?letters=1"}:
        assert HOSTILE in html.unescape(pages[path]), path


async def test_an_id_with_slashes_is_one_part_of_its_address(ops, browser, database_url):
    await archived(ops.letters, letter("t1"))
    # Browsers take /users/shop/../ada for /users/ada.
    await execute(database_url, "UPDATE ops.letters SET user_id = 'shop/../ada', training_id = 'a/../b'")
    record = await ops.replays.create(order([1]))

    pages = [await page(browser, f"/{path}") for path in ("dead-letters/1", "dead-letters?show=list")]
    pages += [await page(browser, f"/replays/{record.id}{query}") for query in ("", "?show=letters")]

    assert all('href="/users/shop%2F..%2Fada"' in each for each in pages)
    assert all('href="/trainings/a%2F..%2Fb"' in each for each in pages[:2])


async def test_ten_megabytes_are_a_small_page_and_a_whole_file(ops, browser):
    body = b'{"a": "' + b"x" * 10_000_000 + b'"}'
    await archived(ops.letters, Outgoing("modelswap.dead", "q", body, {}, content_type="application/json"))

    shown = await page(browser, "/dead-letters/1")
    saved = await browser.get("/dead-letters/1/body")

    assert len(shown) < 200_000
    assert "only its beginning is shown" in said(shown)
    assert saved.content == body
    assert saved.headers["content-disposition"].startswith("attachment")
    assert saved.headers["content-type"] == "application/octet-stream"


async def test_a_binary_body_is_shown_as_bytes(ops, browser):
    await archived(ops.letters, Outgoing("modelswap.dead", "q", b"\xff\x00<b>", {}, content_type=None))

    shown = await page(browser, "/dead-letters/1")

    assert "ff 00 3c 62 3e" in shown
    assert "··&lt;b&gt;" in shown


async def test_a_letter_is_dropped_and_restored_with_a_reason(ops, browser):
    await archived(ops.letters, letter("t1"))

    form = await page(browser, "/dead-letters/drop?letters=1")
    dropped = await browser.post("/dead-letters/drop", letters="1", up_to="1", reason="of the load test")
    after = await page(browser, "/dead-letters/1")
    restored = await browser.post("/dead-letters/restore", letters="1", reason="it matters")
    audit = await page(browser, "/audit")

    assert "1 dead letter would be dropped" in said(form)
    assert hidden(form)["up_to"] == ["1"]
    assert (dropped.status_code, dropped.headers["location"]) == (303, "/dead-letters/1")
    assert "1 dead letter is dropped" in said(after)
    assert "/dead-letters/restore?letters=1" in after
    assert restored.status_code == 303
    assert all(each in said(audit) for each in ("of the load test", "it matters", "olga", "open to dropped"))
    assert 'href="/dead-letters/1"' in audit


async def test_all_that_were_dropped_are_restored_at_once(ops, browser):
    await archived(ops.letters, letter("t1"), letter("t2"))
    some = f"queue={EXTRACTOR_QUEUE}"
    await browser.post("/dead-letters/drop", queue=EXTRACTOR_QUEUE, reason="of the load test")

    found = await page(browser, f"/dead-letters?{some}&status=dropped")
    form = await page(browser, f"/dead-letters/restore?{some}")
    await browser.post("/dead-letters/restore", queue=EXTRACTOR_QUEUE, reason="it matters")
    counts = await ops.letters.counts()

    assert f'href="/dead-letters/restore?{some}">Restore all dropped…' in found
    assert "Drop all open" not in found
    assert "2 dead letters would be open again" in said(form)
    assert (counts.open, counts.dropped) == (2, 0)


async def test_a_drop_without_a_reason_is_refused(ops, browser):
    await archived(ops.letters, letter("t1"))

    refused = await browser.post("/dead-letters/drop", letters="1", reason=" ")

    assert refused.status_code == 422
    assert "#/reason" in refused.text


async def test_an_edited_letter_is_predicted_and_its_change_shown(ops, browser, database_url):
    (number,) = await archive(database_url, letter_of(succeeded("t1"), queue=EXTRACTOR_QUEUE))
    body = json.loads(letter_of(succeeded("t1")).body)

    form = await page(browser, f"/dead-letters/{number}/edit")
    no_json = await browser.post(f"/dead-letters/{number}/edit", body="{no", reason="cut off")
    other_id = await browser.post(
        f"/dead-letters/{number}/edit", body=json.dumps({**body, "training_id": "t2"}), reason="cut off"
    )
    made = await browser.post(
        f"/dead-letters/{number}/edit", body=json.dumps({**body, "output": {"version": "corrected"}}), reason="cut off"
    )
    planned = await page(browser, made.headers["location"])
    past = await page(browser, f"/dead-letters/{number}")

    assert "&#34;training_id&#34;" in form
    assert (no_json.status_code, "{no" in no_json.text) == (422, True)
    assert (other_id.status_code, "cannot be edited" in other_id.text) == (422, True)
    assert "Start the replay of 1" in said(planned)
    assert "corrected" in past
    assert 'class="added"' in past


async def test_of_a_large_letter_no_difference_is_shown(ops, browser, database_url):
    body = json.dumps({"training_id": "t1", "output": "x" * 70_000}).encode()
    (number,) = await archive(database_url, letter_of(succeeded("t1"), queue=EXTRACTOR_QUEUE, body=body))

    await browser.post(f"/dead-letters/{number}/edit", body=body.decode().replace("xx", "y", 1), reason="cut off")
    shown = await page(browser, f"/dead-letters/{number}")

    assert "Sent with an edited body." in said(shown)
    assert 'class="added"' not in shown


async def test_headers_of_too_many_parts_are_shown_as_text(ops, browser, database_url):
    (number,) = await archive(database_url, letter_of(succeeded("t1"), body=b"", headers={"x": [[0] * 100] * 100}))

    shown = await page(browser, f"/dead-letters/{number}")

    assert 'class="leaf"' not in shown
    assert "&#34;x&#34;: [" in shown


async def test_of_an_event_in_structured_mode_its_data_is_edited(ops, browser, database_url):
    kind = succeeded("t1").headers()["ce-type"]
    body = json.dumps({"type": kind, "data": {"training_id": "t1", "output": "\ud83d"}}).encode()
    content_type = "application/cloudevents+json"
    letter = letter_of(succeeded("t1"), queue=EXTRACTOR_QUEUE, body=body, content_type=content_type)
    (number,) = await archive(database_url, letter)

    shown = await page(browser, f"/dead-letters/{number}")
    form = await page(browser, f"/dead-letters/{number}/edit")
    (prefilled,) = re.findall(r'<textarea[^>]* name="body"[^>]*>(.*?)</textarea>', form, re.DOTALL)
    refused = await browser.post(f"/dead-letters/{number}/edit", body=html.unescape(prefilled), reason="cut off")
    whole = html.unescape(prefilled).replace("\\ud83d", "sense")
    made = await browser.post(f"/dead-letters/{number}/edit", body=whole, reason="cut off")

    assert "\\ud83d" in shown
    assert json.loads(whole) == {"training_id": "t1", "output": "sense"}
    assert (refused.status_code, "half a surrogate pair" in refused.text) == (422, True)
    assert made.status_code == 303


async def test_a_number_that_json_does_not_know_is_a_mistake(ops, browser, database_url):
    (number,) = await archive_many(database_url, 1)

    edited = await browser.post(f"/dead-letters/{number}/edit", body='{"loss": NaN}', reason="cut off")
    paced = await browser.post("/replays", letters=str(number), reason="fixed", rate="inf", steps="1", stop="20")
    dropped = await browser.post("/dead-letters/drop", letters=str(number), reason="old", up_to="9" * 5000)

    assert (edited.status_code, paced.status_code, dropped.status_code) == (422, 422, 422)


# Replays


async def test_a_group_is_replayed_after_a_look_at_users_old_and_new(ops, browser, database_url):
    numbers = await archive_many(database_url, 3)
    await execute(database_url, "UPDATE ops.letters SET user_id = 'ada'")
    broker = Listed()

    form = await page(browser, "/replays/new?fingerprint=a-cause")
    made = await browser.post(
        "/replays",
        fingerprint=hidden(form)["fingerprint"][0],
        reason="parser fixed",
        rate="100",
        steps="1, rest",
        stop="20",
        key="once",
    )
    address = made.headers["location"]
    await execute(
        database_url,
        "UPDATE ops.replay_letters SET predicted = 'swapped', generation = position, model = $1, previous = $2",
        str(model_of("t2")),
        str(model_of("t1")),
    )
    planned = await page(browser, address)
    sent_before = len(broker.taken)
    started = await browser.post(f"{address}/start", reason="")
    async with running_engine(ops.replays, broker):
        async with asyncio.timeout(60):
            while not broker.taken:
                await broker.changed.wait()
    running = await page(browser, address)

    assert "Open of these: 3 dead letters" in said(form)
    assert f"acme/ada:{model_of('t1').version[:8]}… → acme/ada:{model_of('t2').version[:8]}…" in said(planned)
    assert (sent_before, started.status_code) == (0, 303)
    assert broker.marks[0].endswith(f":{numbers[0]}")
    assert f"{address}/pause" in running


async def test_a_form_that_is_refused_keeps_what_was_typed(ops, browser, database_url):
    await archive_many(database_url, 1)

    refused = await browser.post(
        "/replays", letters="1", reason="parser fixed", rate="fast", steps="1, many", stop="20"
    )

    assert refused.status_code == 422
    assert all(f'value="{typed}"' in refused.text for typed in ("fast", "1, many"))
    assert "parser fixed" in refused.text
    assert hidden(refused.text)["letters"] == ["1"]
    assert (await page(browser, "/replays")).count("/replays/") == 0


async def test_a_replay_is_paused_resumed_and_canceled(ops, browser, database_url):
    record = await ops.replays.create(order(await archive_many(database_url, 2)))
    address, seen = f"/replays/{record.id}", []

    for verb in ("pause", "resume", "cancel", "pause"):
        answer = await browser.post(f"{address}/{verb}", reason=f"to {verb}")
        seen.append((answer.status_code, (await ops.replays.find(record.id)).status))
    shown = await page(browser, address)

    assert seen == [(303, "paused"), (303, "running"), (303, "canceled"), (409, "canceled")]
    assert "to cancel" in said(shown)


async def test_an_undo_is_shown_for_each_user_before_the_button(ops, browser, database_url):
    numbers = await archive_many(database_url, 2)
    record = await ops.replays.create(order(numbers))
    await say(
        ops.replays,
        settled(f"{record.id}:{numbers[0]}", user_id="ada"),
        settled(f"{record.id}:{numbers[1]}", user_id="bob"),
    )
    ops.services.kept = {"bob": "user bob has another model by now"}
    async with running_engine(ops.replays, Listed(), ops.services):
        await until(ops.replays, record.id, Status.DONE)

        before = await page(browser, f"/replays/{record.id}/undo")
        reverted_before = len(ops.services.reverted)
        await browser.post(f"/replays/{record.id}/undo", reason="all blurred")
        async with asyncio.timeout(60):
            while (found := await ops.replays.find(record.id)).undo.status != "undone":
                await asyncio.sleep(0.02)
    after = await page(browser, f"/replays/{record.id}")
    again = await page(browser, f"/replays/{record.id}/undo")

    assert f"→ acme/ada:{model_of('t0').version[:8]}…" in said(before)
    assert "user bob has another model by now" in said(before)
    assert (reverted_before, found.undo.reverted) == (0, 1)
    assert "Undone by olga: all blurred" in said(after)
    assert "There is nothing to undo" in said(again)
    assert "Undo the replay" not in said(again)


async def test_an_undo_is_not_previewed_while_state_is_away(ops, browser, database_url):
    (number,) = await archive_many(database_url, 1)
    record = await ops.replays.create(order([number]))
    await say(ops.replays, settled(f"{record.id}:{number}", user_id="ada"))
    ops.services.unknown = {"ada"}

    shown = await page(browser, f"/replays/{record.id}/undo")

    assert "What an undo would do cannot be shown now" in said(shown)


# Readers


async def test_a_reader_sees_every_screen_and_no_button(ops, database_url):
    numbers = await archive_many(database_url, 2)
    record = await ops.replays.create(order(numbers, is_dry_run=True))
    async with signed_in(ops.api, token=READER) as reader:
        pages = {
            path: await page(reader, path)
            for path in (
                *ALL_SCREENS,
                "/dead-letters/1",
                "/dead-letters/1/edit",
                "/replays/new?letters=1",
                f"/replays/{record.id}",
                f"/replays/{record.id}/undo",
            )
        }
        refused = await reader.post(f"/replays/{record.id}/start", reason="")
        drop = await reader.get("/dead-letters/drop?letters=1")

    for path, text in pages.items():
        buttons = re.findall(r'method="post" action="([^"]+)"', text) + re.findall(r'formaction="([^"]+)"', text)
        assert set(buttons) <= {"/sign-out"}, path
    assert (refused.status_code, drop.status_code) == (403, 403)
    assert (await ops.replays.find(record.id)).status is Status.PREVIEWING


# Live


async def test_the_page_of_a_replay_asks_for_itself_again(ops, browser, database_url):
    (number,) = await archive_many(database_url, 1)
    await execute(database_url, "UPDATE ops.letters SET user_id = 'ada'")
    record = await ops.replays.create(order([number]))
    address = f"/replays/{record.id}?show=letters"
    before = await page(browser, address)

    await say(ops.replays, settled(f"{record.id}:{number}", user_id="ada"))
    again = re.findall(r'id="replay" hx-get="([^"]+)" hx-trigger="every 2s" hx-select="#replay"', before)
    after = await page(browser, again[0])

    assert again == [address]
    assert ("swapped" in said(before), "swapped" in said(after)) == (False, True)
