"""What the console asks of the operators' API, against a real Postgres: trends, suggestions, users, edits, streams."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import httpx
import pytest

from services.ops.api import create_api
from services.ops.letters.views import DROP
from services.ops.replays.plan import Outcome, Status
from services.ops.replays.store import Store as Replays
from services.ops.replays.streams import MOST_LETTERS, Follower, ReplayStreams
from services.ops.replays.waiting import Waiting
from shared.contract.events import ModelReverted
from shared.contract.topology import EXTRACTOR_QUEUE, RECEIVER, STATE_QUEUE, topology
from shared.contract.values import Effect
from shared.runtime.broker import Outgoing
from shared.runtime.clock import now
from shared.runtime.health import reporter
from shared.runtime.http import create_app
from shared.runtime.lifecycle import serve
from shared.runtime.settings_base import Settings
from shared.runtime.tokens import read_token
from tests.described import DescribedTransport
from tests.ops import NOON, OPERATOR, Letters, archived, dead, routers_of
from tests.replays import (
    Answering,
    Listed,
    archive,
    archive_many,
    letter_of,
    nothing_seen,
    opened_repairs,
    order,
    routes,
    running_engine,
    say,
    settled,
    until,
)
from tests.sse import events
from tests.stack import free_port
from tests.state import connected, execute, model_of, ready, succeeded

PLAN = topology()
HOUR = timedelta(hours=1)
TOKENS = [read_token(f"operator/olga:{OPERATOR}")]
HEADERS = {"Authorization": f"Bearer {OPERATOR}"}


@dataclass
class Ops:
    """The operators' API, and what stands behind it."""

    client: httpx.AsyncClient
    letters: Letters
    replays: Replays
    services: Answering

    async def get(self, path: str, **query: Any) -> Any:
        answer = await self.client.get(path, params=query)
        assert answer.status_code == 200, answer.text
        return answer.json()


@pytest.fixture
async def ops(database_url: str) -> AsyncIterator[Ops]:
    services = Answering()
    async with opened_repairs(database_url) as (letters, replays):
        api = create_api(*routers_of(letters), routes(replays, services), tokens=TOKENS)
        async with httpx.AsyncClient(
            transport=DescribedTransport(api), base_url="http://ops/v1", headers=HEADERS
        ) as client:
            yield Ops(client, letters, replays, services)


def letter(training_id: str, **options: Any) -> Outgoing:
    return dead(training_id, PLAN, **options)


# Groups and filters


async def test_a_group_has_its_failures_of_each_hour(ops):
    ages = [HOUR / 2, HOUR / 2, 2.5 * HOUR, 23.5 * HOUR, 25 * HOUR]
    await archived(ops.letters, *(letter(f"t{number}", at=now() - age) for number, age in enumerate(ages)))

    (group,) = (await ops.get("/dead-letter-groups"))["items"]

    assert group["hourly"] == [1, *[0] * 20, 1, 0, 2]
    assert sum(group["hourly"]) == group["last_day"]


async def test_letters_above_the_last_seen_are_new(ops):
    await archived(ops.letters, letter("t1"), letter("t2"))
    seen = (await ops.get("/dead-letters"))["items"][0]["number"]
    await archived(ops.letters, letter("t3"), letter("t4", text="another cause"))

    found = (await ops.get("/dead-letter-groups", seen=seen))["items"]

    assert [(group["error_text"], group["new"]) for group in found] == [
        ("another cause", 1),
        ("no version in the output", 1),
    ]
    assert {group["new"] for group in (await ops.get("/dead-letter-groups"))["items"]} == {0}


async def test_one_group_is_found_by_its_fingerprint(ops):
    await archived(ops.letters, letter("t1"), letter("t2"), letter("t3", text="another cause"))
    found = (await ops.get("/dead-letter-groups"))["items"]

    one = (await ops.get("/dead-letter-groups", fingerprint=found[1]["fingerprint"]))["items"]

    assert [(each["error_text"], each["open"]) for each in one] == [("no version in the output", 2)]
    assert (await ops.get("/dead-letter-groups", fingerprint="none"))["items"] == []


async def test_suggestions_count_what_the_filter_finds(ops, database_url):
    await archived(
        ops.letters,
        letter("t1"),
        letter("t2"),
        letter("t3", queue=STATE_QUEUE),
        letter("t4", code="no_model", text="the model is gone"),
    )
    await execute(database_url, "UPDATE ops.letters SET user_id = 'ada' WHERE training_id = 't1'")

    everything = await ops.get("/dead-letter-suggestions")
    narrowed = await ops.get("/dead-letter-suggestions", queue=EXTRACTOR_QUEUE, error_code="no_version")

    assert (everything["letters"], everything["is_complete"]) == (4, True)
    assert everything["values"]["queue"] == [
        {"value": EXTRACTOR_QUEUE, "letters": 3},
        {"value": STATE_QUEUE, "letters": 1},
    ]
    assert everything["values"]["user_id"] == [{"value": "ada", "letters": 1}]
    assert narrowed["values"]["error_code"] == [{"value": "no_version", "letters": 2}]
    assert [each["value"] for each in narrowed["values"]["training_id"]] == ["t1", "t2"]


async def test_suggestions_without_letters_are_empty(ops):
    found = await ops.get("/dead-letter-suggestions", text="nothing like it")

    assert (found["letters"], set(map(len, found["values"].values()))) == (0, {0})


# Bodies


async def test_a_body_is_saved_byte_for_byte(ops):
    body = b"<script>alert(1)</script>\xff\x00"
    await archived(ops.letters, Outgoing("modelswap.dead", "q", body, {}, content_type="text/html"))

    saved = await ops.client.get("/dead-letters/1/body")

    assert saved.content == body
    assert saved.headers["content-type"] == "application/octet-stream"
    assert saved.headers["content-disposition"] == 'attachment; filename="dead-letter-1"'
    assert saved.headers["x-content-type-options"] == "nosniff"
    assert (await ops.client.get("/dead-letters/2/body")).status_code == 404


@pytest.mark.parametrize(("limit", "text"), [(0, ""), (4, "a€"), (3, "a"), (100, "a€b")])
async def test_of_a_large_body_only_its_beginning_is_shown(ops, limit, text):
    await archived(ops.letters, Outgoing("modelswap.dead", "q", "a€b".encode(), {}, content_type="text/plain"))

    shown = await ops.get("/dead-letters/1", body_limit_bytes=limit)

    assert (shown["body_text"], shown["body_bytes"]) == (text, 5)


async def test_ten_megabytes_are_shown_in_part_and_saved_whole(ops):
    body = b'{"a": "' + b"x" * 10_000_000 + b'"}'
    await archived(ops.letters, Outgoing("modelswap.dead", "q", body, {}, content_type="application/json"))

    shown = await ops.client.get("/dead-letters/1", params={"body_limit_bytes": 1000})
    saved = await ops.client.get("/dead-letters/1/body")

    assert len(shown.content) < 10_000
    assert saved.content == body


# The audit


async def audited(ops: Ops, database_url: str) -> None:
    """Three entries at noon, an hour later, and two hours later."""
    await archived(ops.letters, letter("t1"), letter("t2"))
    await ops.letters.move(1, DROP, actor="olga", reason="of the load test")
    await ops.letters.move(2, DROP, actor="rita", reason="a duplicate")
    await ops.replays.note_rollbacks(
        [
            ModelReverted(
                training_id="t1",
                user_id="ada",
                generation=7,
                model=model_of("t0"),
                previous=model_of("t1"),
                actor="olga",
                reason="faces are too dark",
            )
        ]
    )
    await execute(database_url, "UPDATE ops.audit SET at = $1::timestamptz + (number - 1) * interval '1 hour'", NOON)


@pytest.mark.parametrize(
    ("query", "targets"),
    [
        ({}, ["user ada", "dead letter 2", "dead letter 1"]),
        ({"since": "2026-11-24T13:00:00Z"}, ["user ada", "dead letter 2"]),
        ({"until": "2026-11-24T13:00:00Z"}, ["dead letter 1"]),
        ({"since": "2026-11-24T13:00:00Z", "until": "2026-11-24T14:00:00Z"}, ["dead letter 2"]),
        ({"since": "2027-01-01T00:00:00Z"}, []),
        ({"until": "2020-01-01T00:00:00Z"}, []),
        ({"text": "load"}, ["dead letter 1"]),
        ({"text": "open dropped", "actor": "rita"}, ["dead letter 2"]),
        ({"text": "faces dark"}, ["user ada"]),
        ({"text": "%"}, []),
    ],
)
async def test_the_audit_is_found_by_time_and_by_words(ops, database_url, query, targets):
    await audited(ops, database_url)

    found = await ops.get("/audit", **query)

    assert [entry["target"] for entry in found["items"]] == targets


async def test_a_page_of_the_audit_of_long_ago_is_whole(ops, database_url):
    async with connected(database_url) as connection:
        await connection.execute(
            "INSERT INTO ops.audit (at, actor, action, target, reason, outcome) "
            "SELECT $1::timestamptz + n * interval '1 minute', 'olga', 'a', 't', '', '' "
            "FROM generate_series(1, 20000) AS n",
            NOON,
        )
    counts = []
    for end in (NOON + timedelta(minutes=60), NOON + timedelta(minutes=19_000)):
        found = await ops.get("/audit", until=end.isoformat(), limit=200)
        counts.append(len(found["items"]))

    assert counts == [59, 200]


# Replays: users, edits, undo


async def test_users_of_a_dry_run_are_shown_with_their_new_models(ops, database_url):
    numbers = await archive(database_url, *(letter_of(ready(f"t{number}")) for number in range(1, 5)))
    await execute(database_url, "UPDATE ops.letters SET user_id = CASE WHEN number < 3 THEN 'ada' ELSE 'bob' END")
    record = await ops.replays.create(order(numbers, is_dry_run=True))
    await execute(
        database_url,
        "UPDATE ops.replay_letters SET predicted = CASE WHEN letter < 3 THEN 'swapped' ELSE 'failed' END, "
        "generation = 10 - letter, model = 'new-' || letter, previous = 'old' WHERE letter <> 4",
    )

    found = (await ops.get(f"/replays/{record.id}/users"))["items"]
    changed = (await ops.get(f"/replays/{record.id}/users", outcome="swapped"))["items"]

    ada = {"letters": 2, "outcomes": {"swapped": 2}, "changes": True, "before": "old", "after": "new-1"}
    bob = {"letters": 2, "outcomes": {"failed": 1, "planned": 1}, "changes": False, "before": "new-3", "after": "new-3"}
    assert found == [{"user_id": "ada", **ada}, {"user_id": "bob", **bob}]
    assert changed == found[:1]


async def test_users_of_a_replay_are_paged(ops, database_url):
    numbers = await archive_many(database_url, 5)
    await execute(database_url, "UPDATE ops.letters SET user_id = 'u' || (6 - number)")
    record = await ops.replays.create(order(numbers))

    seen, query = [], {"limit": 2}
    while query:
        page = await ops.get(f"/replays/{record.id}/users", **query)
        seen += [each["user_id"] for each in page["items"]]
        query = {"limit": 2, "cursor": page["next_cursor"]} if page["next_cursor"] else {}

    assert seen == ["u5", "u4", "u3", "u2", "u1"]


async def replayed(ops: Ops, database_url: str) -> Any:
    """A replay that swapped two models of ada and one each of bob and eve, who had none."""
    numbers = await archive_many(database_url, 4)
    record = await ops.replays.create(order(numbers))
    marks = [f"{record.id}:{number}" for number in numbers]
    await say(
        ops.replays,
        settled(marks[0], user_id="ada", generation=5, model=model_of("t1"), previous=model_of("t0")),
        settled(marks[1], user_id="ada", generation=7, model=model_of("t2"), previous=model_of("t1")),
        settled(marks[2], user_id="bob", generation=3),
        settled(marks[3], user_id="eve", generation=1, previous=None),
    )
    return record


async def test_users_of_a_replay_are_shown_with_what_they_had(ops, database_url):
    record = await replayed(ops, database_url)

    found = (await ops.get(f"/replays/{record.id}/users"))["items"]

    assert [(each["user_id"], each["before"], each["after"]) for each in found] == [
        ("ada", str(model_of("t0")), str(model_of("t2"))),
        ("bob", str(model_of("t0")), str(model_of("t1"))),
        ("eve", None, str(model_of("t1"))),
    ]


async def test_an_undo_is_previewed_for_each_user(ops, database_url):
    record = await replayed(ops, database_url)
    ops.services.kept = {"bob": "the model of user bob has generation 9 now"}

    first = await ops.get(f"/replays/{record.id}/undo-preview", limit=2)
    second = await ops.get(f"/replays/{record.id}/undo-preview", limit=2, cursor=first["next_cursor"])

    assert [(each["user_id"], each["to"], each["kept_because"]) for each in first["items"]] == [
        ("ada", str(model_of("t0")), ""),
        ("bob", str(model_of("t0")), "the model of user bob has generation 9 now"),
    ]
    assert [(each["user_id"], each["model"], each["to"]) for each in second["items"]] == [
        ("eve", str(model_of("t1")), None)
    ]
    assert (second["next_cursor"], ops.services.reverted) == (None, [])


async def test_a_preview_of_an_undo_without_state_is_a_503(ops, database_url):
    record = await replayed(ops, database_url)
    ops.services.unknown = {"ada"}

    answer = await ops.client.get(f"/replays/{record.id}/undo-preview")

    assert answer.status_code == 503


async def test_an_edit_is_predicted_before_it_goes(ops, database_url):
    (number,) = await archive(database_url, letter_of(succeeded("t1"), queue=EXTRACTOR_QUEUE))
    body = json.loads(letter_of(succeeded("t1")).body)
    body["output"] = {"version": str(model_of("t2"))}
    broker = Listed()

    planned = await ops.client.post(
        f"/dead-letters/{number}/edit-and-replay", json={"body": body, "reason": "cut off", "dry_run": True}
    )
    async with running_engine(ops.replays, broker):
        made = await until(ops.replays, planned.json()["id"], Status.PREVIEWED)
        sent_before = len(broker.taken)
        await ops.replays.start(made.id, actor="olga", reason="looks good")
        async with asyncio.timeout(60):
            await broker.changed.wait()
    shown = (await ops.get(f"/dead-letters/{number}/replays"))["items"]

    assert (sent_before, json.loads(broker.taken[0].body)["output"]) == (0, body["output"])
    assert [(each["reason"], json.loads(each["edited_body"])["output"]) for each in shown] == [
        ("cut off", body["output"])
    ]


@pytest.mark.parametrize("value", [r'"\ud800"', r'"a\u0000"', "NaN", "[-Infinity]", r'{"\udfff": 1}'])
@pytest.mark.parametrize("queue", [EXTRACTOR_QUEUE, RECEIVER])
async def test_an_edit_that_can_not_be_stored_is_refused(ops, database_url, queue, value):
    (number,) = await archive(database_url, letter_of(succeeded("t1"), queue=queue))
    body = {"id": "t1", "training_id": "t1", "status": "succeeded", "output": "here"}
    text = json.dumps({"reason": "cut off", "body": body}).replace('"here"', value)

    answer = await ops.client.post(
        f"/dead-letters/{number}/edit-and-replay", content=text, headers={"Content-Type": "application/json"}
    )

    assert (answer.status_code, answer.json()["errors"][0]["pointer"]) == (422, "#/body")


async def test_replays_of_a_letter_are_listed_newest_first(ops, database_url):
    (number,) = await archive_many(database_url, 1)
    first = await ops.replays.create(order([number], reason="first", is_dry_run=True))
    second = await ops.replays.create(order([number], reason="second"))

    found = (await ops.get(f"/dead-letters/{number}/replays"))["items"]

    assert [(each["replay_id"], each["reason"], each["outcome"], each["edited_body"]) for each in found] == [
        (str(second.id), "second", "waiting", None),
        (str(first.id), "first", "planned", None),
    ]


async def test_letters_of_a_dry_run_are_found_by_prediction(ops, database_url):
    record = await ops.replays.create(order(await archive_many(database_url, 3), is_dry_run=True))
    await execute(database_url, "UPDATE ops.replay_letters SET predicted = 'failed' WHERE position = 2")

    found = (await ops.get(f"/replays/{record.id}/letters", predicted="failed"))["items"]

    assert [each["position"] for each in found] == [2]


# Following


class Process:
    """What of an ops process serves streams."""

    def __init__(self, replays: Replays, *, port: int, limit: int = 10) -> None:
        self.stopping = asyncio.Event()
        waiting = Waiting(nothing_seen)
        self.streams = ReplayStreams(replays, waiting, self.stopping, limit=limit, tick_seconds=0.02)
        api = create_api(routes(replays, waiting=waiting, streams=self.streams), tokens=TOKENS)
        self._app, self._port = create_app(api, reporter({})), port

    async def run(self) -> None:
        await asyncio.gather(self.streams.run(), serve(self._app, Settings(), port=self._port, stopping=self.stopping))


@contextlib.asynccontextmanager
async def running(replays: Replays, *, port: int, limit: int = 10) -> AsyncIterator[httpx.AsyncClient]:
    process = Process(replays, port=port, limit=limit)
    serving = asyncio.create_task(process.run())
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}/v1", headers=HEADERS, timeout=60) as client:
        try:
            async with asyncio.timeout(60):
                while True:
                    with contextlib.suppress(httpx.TransportError):
                        await client.get("/replays")
                        break
                    await asyncio.sleep(0.02)
            yield client
        finally:
            process.stopping.set()
            await serving


@contextlib.asynccontextmanager
async def following(
    client: httpx.AsyncClient, replay_id: Any, last_event_id: str | None = None
) -> AsyncIterator[AsyncIterator[Any]]:
    headers = {} if last_event_id is None else {"Last-Event-ID": last_event_id}
    async with client.stream("GET", f"/replays/{replay_id}/events", headers=headers) as answer:
        assert (answer.status_code, answer.headers["content-type"].split(";")[0]) == (200, "text/event-stream")
        yield events(answer)


def told(event: Any) -> dict[int, str]:
    return {each["letter"]: each["outcome"] for each in event.training["letters"]}


async def until_told(stream: AsyncIterator[Any], is_it: Callable[[Any], bool]) -> Any:
    """The first event that is as wanted: outcomes of the last seconds may be told again before."""
    async with asyncio.timeout(60):
        async for event in stream:
            if is_it(event):
                return event
    raise AssertionError("the stream has ended")


async def until_sent(follower: Follower, text: bytes) -> None:
    async with asyncio.timeout(60), contextlib.aclosing(follower.chunks()) as chunks:
        async for chunk in chunks:
            if text in chunk:
                return


def is_undone(replay: dict[str, Any]) -> bool:
    return replay["undo"] is not None and replay["undo"]["status"] == "undone"


async def test_a_followed_replay_tells_each_outcome(ops, database_url):
    one, two = await archive_many(database_url, 2)
    record = await ops.replays.create(order([one, two]))

    async with running(ops.replays, port=free_port()) as client, following(client, record.id) as stream:
        first = await anext(stream)
        await say(ops.replays, settled(f"{record.id}:{one}"))
        second = await until_told(stream, lambda event: one in told(event))
        await say(ops.replays, settled(f"{record.id}:{two}", Effect.NOTHING))
        third = await until_told(stream, lambda event: two in told(event))

    assert (first.training["replay"]["outcomes"], first.training["letters"]) == ({"waiting": 2}, [])
    assert [told(second), told(third)] == [{one: "swapped"}, {two: "nothing"}]
    assert third.training["replay"]["outcomes"] == {"swapped": 1, "nothing": 1}


async def test_after_a_restart_a_client_misses_no_outcome(ops, database_url):
    one, two, three = await archive_many(database_url, 3)
    record = await ops.replays.create(order([one, two, three]))
    port = free_port()

    async with running(ops.replays, port=port) as client, following(client, record.id) as stream:
        await anext(stream)
        await say(ops.replays, settled(f"{record.id}:{one}"))
        last = await anext(stream)
    await say(ops.replays, settled(f"{record.id}:{two}", Effect.MOVED))
    async with running(ops.replays, port=port) as client, following(client, record.id, last.id) as stream:
        again = await anext(stream)
        await say(ops.replays, settled(f"{record.id}:{three}", Effect.NOTHING))
        after = await until_told(stream, lambda event: three in told(event))

    assert told(again).get(two) == "moved"
    assert again.training["replay"]["outcomes"] == {"swapped": 1, "moved": 1, "waiting": 1}
    assert told(after).get(three) == "nothing"


async def test_a_replay_is_followed_beyond_its_end(ops, database_url):
    (number,) = await archive_many(database_url, 1)
    record = await ops.replays.create(order([number]))
    await say(ops.replays, settled(f"{record.id}:{number}"))

    async with running(ops.replays, port=free_port()) as client, running_engine(ops.replays, Listed(), Answering()):
        await until(ops.replays, record.id, Status.DONE)
        async with following(client, record.id) as stream:
            done = await anext(stream)
            await ops.replays.undo(record.id, actor="bob", reason="blurred")
            undone = await until_told(stream, lambda event: is_undone(event.training["replay"]))

    assert (done.training["replay"]["status"], done.training["replay"]["undo"]) == ("done", None)
    assert undone.training["replay"]["undo"]["reverted"] == 1


async def test_many_outcomes_at_once_are_bounded(ops, database_url):
    numbers = await archive_many(database_url, MOST_LETTERS + 10)
    record = await ops.replays.create(order(numbers))
    await execute(
        database_url,
        "UPDATE ops.replay_letters SET outcome = 'failed', sent_at = now(), "
        "ended_at = now() + letter * interval '1 ms'",
    )

    async with running(ops.replays, port=free_port()) as client, following(client, record.id, "1") as stream:
        event = await anext(stream)

    assert len(event.training["letters"]) == MOST_LETTERS
    assert event.training["letters"][-1]["letter"] == numbers[-1]
    assert event.training["omitted"] == 10
    assert event.training["replay"]["outcomes"] == {Outcome.FAILED: len(numbers)}


async def test_outcomes_that_do_not_fit_an_event_are_counted(ops, database_url):
    numbers = await archive_many(database_url, 3 * MOST_LETTERS)
    record = await ops.replays.create(order(numbers))

    async with running(ops.replays, port=free_port()) as client, following(client, record.id) as stream:
        await anext(stream)
        for letters in (numbers[:250], numbers[250:]):
            await say(ops.replays, *(settled(f"{record.id}:{number}", Effect.NOTHING) for number in letters))
        counted = 0
        async with asyncio.timeout(60):
            while counted < len(numbers):
                event = await anext(stream)
                counted += len(told(event)) + event.training["omitted"]

    assert counted == len(numbers)


async def test_a_client_that_comes_late_gets_what_changed_meanwhile(ops, database_url):
    (number,) = await archive_many(database_url, 1)
    record = await ops.replays.create(order([number]))
    stopping = asyncio.Event()
    streams = ReplayStreams(ops.replays, Waiting(nothing_seen), stopping, limit=10, tick_seconds=0.02)
    running = asyncio.create_task(streams.run())
    early, late = [await streams.follower(record.id, None) for _ in range(2)]

    with streams.followed(record.id, early):
        await say(ops.replays, settled(f"{record.id}:{number}"))
        await until_sent(early, b'"outcome":"swapped"')
        with streams.followed(record.id, late):
            await until_sent(late, b'"outcome":"swapped"')
    stopping.set()
    await running


async def test_too_many_followers_are_refused(ops, database_url):
    record = await ops.replays.create(order(await archive_many(database_url, 1)))

    async with running(ops.replays, port=free_port(), limit=1) as client, following(client, record.id) as stream:
        await anext(stream)
        refused = await client.get(f"/replays/{record.id}/events")

    assert refused.status_code == 503


@pytest.mark.parametrize("odd", ["", "x", "-1", "9" * 40, "1e3", "\u00b3"])
async def test_an_id_of_no_event_is_as_none(ops, database_url, odd):
    record = await ops.replays.create(order(await archive_many(database_url, 1)))

    async with ops.client.stream(
        "GET", f"/replays/{record.id}/events", headers=[(b"Last-Event-ID", odd.encode())]
    ) as answer:
        assert answer.status_code == 200
