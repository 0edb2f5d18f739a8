"""Dead letters in Postgres: stored once, found by everything, dropped and restored, never lost."""

from __future__ import annotations

import asyncio
import base64
import io
import sys
from collections.abc import AsyncIterator, Sequence
from datetime import timedelta
from typing import Any
from uuid import UUID

import asyncpg
import httpx
import pytest

from services.cli.operators.client import Operators
from services.cli.operators.dead_letters import change_if_confirmed
from services.cli.problem import Problem
from services.ops.audit.views import AuditFilter
from services.ops.letters.housekeeping import closing, owners, purge_some
from services.ops.letters.letter import LetterTraining
from services.ops.letters.views import DROP, Filter, LetterStatus
from services.ops.letters.where import where
from services.ops.migrate import ROLE
from services.ops.where import by_number
from shared.contract.envelope import REPLAY_HEADER
from shared.contract.topology import DELIVERIES_QUEUE, EXTRACTOR_QUEUE, STATE_QUEUE, topology
from shared.runtime.aside import SetAside
from shared.runtime.broker import Outgoing
from shared.runtime.client import ServiceFailed
from shared.runtime.postgres import connect_pool
from tests.crowd import fill
from tests.databases import refuse
from tests.ops import NOON, OPERATOR, READER, Letters, archived, opened_letters, operators_api
from tests.ops import dead as dead_letter
from tests.replays import rows
from tests.state import connected, execute, until_blocked_by

PLAN = topology()
HOUR = timedelta(hours=1)
REPLAY = UUID(int=7)
MODEL = f"acme/user-1:{'5c' * 32}"
MARK = {REPLAY_HEADER: f"{REPLAY}:1"}


def dead(training_id: str, **options: Any) -> Outgoing:
    return dead_letter(training_id, PLAN, **options)


@pytest.fixture
async def store(database_url: str) -> AsyncIterator[Letters]:
    async with opened_letters(database_url) as store:
        yield store


@pytest.fixture
async def client(store: Letters) -> AsyncIterator[httpx.AsyncClient]:
    async with operators_api(store) as client:
        yield client


async def letters(store: Letters, **wanted: Any) -> list[Any]:
    return await store.list_letters(Filter(**wanted), limit=100)


async def the_letter(store: Letters) -> Any:
    (found,) = await letters(store)
    return found


# Storing


async def test_a_letter_is_kept_byte_for_byte(store, client):
    message = dead("t1", at=NOON)
    await archived(store, message)

    shown = (await client.get("/dead-letters/1")).json()

    assert base64.b64decode(shown["body_base64"]) == message.body == shown["body_text"].encode()
    assert shown["headers"] == {name: value for name, value in message.headers.items() if name.startswith("ce-")}
    assert (shown["queue"], shown["exchange"], shown["routing_key"]) == (
        "modelswap.extractor",
        "modelswap.training",
        "training.succeeded.v1",
    )
    assert (shown["training_id"], shown["status"], shown["error_code"]) == ("t1", "open", "no_version")
    assert "PermanentError: no version in the output" in shown["traceback"]


async def test_what_can_not_be_read_is_kept_too(store, client):
    odd = {"x-nul": "a\x00b", "x-table": {"deep": [{"er": b"\xff\x00"}]}, "ce-id": "\x00", "x-half": "\ud800"}
    await archived(store, Outgoing("modelswap.dead", "who\x00knows", b"\xff\x00\xfe", odd, content_type=None))

    shown = (await client.get("/dead-letters/1")).json()

    assert base64.b64decode(shown["body_base64"]) == b"\xff\x00\xfe"
    assert (shown["body_text"], shown["error_code"], shown["queue"]) == (None, "unknown", "whoknows")
    assert shown["headers"]["x-nul"] == {"base64": "YQBi"}
    assert shown["headers"]["x-table"] == {"deep": [{"er": {"base64": "/wA="}}]}


async def test_what_is_handed_over_twice_is_there_once(store):
    for _ in range(2):
        await archived(store, dead("t1"), dead("t1"), dead("t2"))

    assert [letter.training_id for letter in await letters(store)] == ["t2", "t1"]


@pytest.mark.parametrize(
    ("was", "later", "is_now"),
    [
        ("open", HOUR, "open"),
        ("replaying", HOUR, "replaying"),
        ("dropped", HOUR, "dropped"),
        ("resolved", HOUR, "open"),
        ("resolved", timedelta(0), "resolved"),
    ],
)
async def test_repeated_failure_reopens_only_resolved_letters(store, database_url, was, later, is_now):
    await archived(store, dead("t1", text="first"))
    await execute(database_url, f"UPDATE ops.letters SET status = '{was}', replay_id = '{REPLAY}'")

    await archived(store, dead("t1", text="second", at=NOON + later))

    letter = await the_letter(store)
    assert (letter.status, letter.error_text) == (is_now, "second" if was == "resolved" and later else "first")


async def test_a_replayed_letter_that_fails_again_is_the_same_one(database_url):
    told: list[tuple[UUID, int, str]] = []

    async def failed(_: Any, replay_id: UUID, number: int, text: str) -> None:
        told.append((replay_id, number, text))

    async with opened_letters(database_url, failed=failed) as store:
        await archived(store, dead("t1"))
        await execute(database_url, f"UPDATE ops.letters SET status = 'replaying', replay_id = '{REPLAY}'")

        for _ in range(2):
            await archived(store, dead("t1", text="worse", code="worse", at=NOON + HOUR, **MARK))

        letter = await the_letter(store)
    assert (letter.number, letter.status, letter.returns, letter.error_code) == (1, "open", 1, "worse")
    assert (letter.first_failed_at, letter.last_failed_at) == (NOON, NOON + HOUR)
    assert told == [(REPLAY, 1, "worse")] * 2


@pytest.mark.parametrize("other", [{"queue": STATE_QUEUE}, {"ce-id": "another"}])
async def test_failure_at_another_queue_is_a_new_letter(store, database_url, other):
    await archived(store, dead("t1"))
    await execute(database_url, f"UPDATE ops.letters SET status = 'replaying', replay_id = '{REPLAY}'")

    await archived(store, dead("t1", **MARK, **other))

    assert [(letter.status, letter.returns) for letter in await letters(store)] == [("open", 0), ("replaying", 0)]


async def test_letter_with_unknown_mark_is_kept(store):
    await archived(store, dead("t1", **MARK))

    assert (await the_letter(store)).number == 1


async def test_only_settled_letters_are_purged(store, database_url):
    await archived(store, *(dead(f"t{n}") for n in range(4)))
    await execute(database_url, f"UPDATE ops.letters SET replay_id = '{REPLAY}'")
    for number, status in enumerate(("replaying", "resolved", "dropped"), start=2):
        await execute(database_url, f"UPDATE ops.letters SET status = '{status}' WHERE number = {number}")

    aside: SetAside[int] = SetAside("test")
    assert await purge_some(store, HOUR, aside) == 0
    assert await purge_some(store, timedelta(0), aside) == 2
    (entry,) = await store.list_audit(AuditFilter(action="dead_letter.forgotten"), limit=9)
    assert (entry.actor, entry.target, entry.outcome) == ("ops", "dead letters 3 to 4", "2 dead letters forgotten")
    assert [letter.status for letter in await letters(store)] == ["replaying", "open"]


async def test_a_letter_that_can_not_be_forgotten_keeps_no_other(store, database_url):
    await archived(store, dead("t1"), dead("t2"), dead("t3"))
    for number in (1, 2, 3):
        await store.move(number, DROP, actor="olga", reason="old")
    await refuse(database_url, "DELETE ON ops.letters", "old.training_id = 't1'")
    aside: SetAside[int] = SetAside("test")

    looked_at = [await purge_some(store, timedelta(0), aside) for _ in range(2)]

    assert [letter.training_id for letter in await letters(store)] == ["t1"]
    assert (looked_at, aside.waiting(), len(aside)) == ([3, 0], [1], 1)


async def test_idempotency_keys_are_kept_for_a_day(store, database_url):
    for hours in (1, 23, 25):
        await execute(
            database_url,
            "INSERT INTO ops.idempotency_keys (key, request_digest, made, created_at) "
            f"VALUES ('{hours}', '-', '-', now() - interval '{hours} hours')",
        )

    deleted = await purge_some(store, HOUR, SetAside("test"))

    left = await rows(database_url, "SELECT key FROM ops.idempotency_keys ORDER BY key")
    assert (deleted, left) == (1, [("1",), ("23",)])


@pytest.mark.parametrize("error", [KeyError("poison"), ServiceFailed("500")], ids=repr)
async def test_a_training_that_can_not_be_asked_about_hides_no_owner(store, error):
    await archived(store, dead("t1"), dead("t2"), dead("t3"))
    asked = []

    async def ask(training_ids: Sequence[str]) -> dict[str, LetterTraining]:
        asked.append([*training_ids])
        if "t1" in training_ids:
            raise error
        return {each: LetterTraining(user_id="ada", stage="active") for each in training_ids}

    look_ups = owners(store, ask)

    assert [await look_ups.round() for _ in range(2)] == [3, 0]

    assert {letter.training_id for letter in await letters(store, user_id="ada")} == {"t2", "t3"}
    assert (asked, look_ups.aside.waiting()) == ([["t1", "t2", "t3"], ["t1"], ["t2"], ["t3"]], ["t1"])


async def test_an_owner_is_written_on_all_letters_of_a_training(store):
    await archived(store, dead("t1"), dead("t1", queue=STATE_QUEUE), dead("t2"))

    async def ask(training_ids: Sequence[str]) -> dict[str, LetterTraining]:
        return {"t1": LetterTraining(user_id="ada", stage="active")}

    await owners(store, ask).round()

    assert {letter.training_id for letter in await letters(store, user_id="ada")} == {"t1"}
    assert [training for _, training in await store.without_user(after=0, limit=9)] == ["t2"]


async def closed(store: Letters, stage: str) -> None:
    """As if state, asked about each open dead letter's training, had answered with this stage."""

    async def ask(training_ids: Sequence[str]) -> dict[str, LetterTraining]:
        return {"t1": LetterTraining(user_id="ada", stage=stage, reference=MODEL)}

    look_ups = closing(store, ask)
    while await look_ups.round():
        pass


async def test_the_end_of_a_training_closes_its_letters(store):
    await archived(store, dead("t1"), dead("t1", queue=STATE_QUEUE), dead("t1", queue=DELIVERIES_QUEUE), dead("t2"))

    await closed(store, "verifying")
    before = [letter.status for letter in await letters(store)]
    await closed(store, "active")
    await closed(store, "active")

    why = f"by another event the training got its model, {MODEL}, and is active"
    assert before == ["open"] * 4
    assert [(each.number, each.status, each.status_reason) for each in reversed(await letters(store))] == [
        (1, "resolved", why),
        (2, "resolved", why),
        (3, "open", ""),
        (4, "open", ""),
    ]
    entries = await store.list_audit(AuditFilter(action="dead_letter.resolved"), limit=9)
    assert [(each.actor, each.target, each.reason) for each in reversed(entries)] == [
        ("ops", "dead letter 1", why),
        ("ops", "dead letter 2", why),
    ]


async def test_state_is_asked_about_many_trainings_at_once(store, database_url):
    await fill(database_url, trainings=3, letters=500, groups=2)
    await execute(database_url, "UPDATE ops.letters SET status = 'open'")
    asked = []

    async def ask(training_ids: Sequence[str]) -> dict[str, LetterTraining]:
        asked.append(len(training_ids))
        return {each: LetterTraining(user_id="ada", stage="canceled") for each in training_ids}

    look_ups = closing(store, ask)
    while await look_ups.round():
        pass

    assert (asked, (await store.counts()).resolved) == ([200, 200, 100], 500)


@pytest.mark.parametrize(
    ("wanted", "first", "again"),
    [
        ({"letters": [1, 2]}, ["open to dropped"] * 2, ["unchanged: it is dropped"] * 2),
        (
            {"filter": {"queue": EXTRACTOR_QUEUE}},
            ["2 dead letters open to dropped"],
            ["0 dead letters open to dropped; unchanged: 2 dropped"],
        ),
    ],
    ids=["by number", "by filter"],
)
async def test_a_drop_that_is_sent_twice_is_audited_once(store, client, wanted, first, again):
    await archived(store, dead("t1"), dead("t2"))
    body = {**wanted, "reason": "of the load test"}

    for key in ("k1", "k1", "k2"):
        await client.post("/dead-letters/drop", json=body, headers={"Idempotency-Key": key})

    entries = await store.list_audit(AuditFilter(action="dead_letter.dropped"), limit=9)
    assert [each.outcome for each in reversed(entries)] == first + again


async def test_a_key_hides_no_other_entry_of_the_audit(store, database_url):
    """Or one request with a key would let others with it go by unseen."""
    entry = ("olga", "webhook_endpoint.edited", "webhook endpoint 1", "tidy up", "asked: description: x")

    for said in (entry, entry, ("otto", *entry[1:]), (*entry[:3], "other", entry[4]), (*entry[:4], "asked: url: y")):
        await store.audit(*said, key="k1")

    assert [each.number for each in await store.list_audit(AuditFilter(), limit=9)] == [4, 3, 2, 1]
    async with connected(database_url) as connection:
        keys = [row["key"] for row in await connection.fetch("SELECT key FROM ops.idempotency_keys")]
    # No request's own key has a space, so none can take an entry's.
    assert [" " in key for key in keys] == [True] * 4


async def test_a_letter_in_a_replay_is_left_to_the_replay(store, database_url):
    await archived(store, dead("t1"))
    await execute(database_url, f"UPDATE ops.letters SET status = 'replaying', replay_id = '{REPLAY}'")

    await closed(store, "active")

    assert (await the_letter(store)).status == "replaying"


async def test_the_reason_ends_with_the_status_it_explains(store):
    await archived(store, dead("t1"))
    await closed(store, "canceled")
    resolved = await the_letter(store)

    await archived(store, dead("t1", at=NOON + HOUR))

    opened = await the_letter(store)
    assert (resolved.status, resolved.status_reason) == ("resolved", "by another event the training is canceled")
    assert (opened.status, opened.status_reason) == ("open", "")


# Looking


async def test_letters_are_found_by_everything_that_is_known_of_them(store, client):
    await archived(
        store,
        dead("t1", text="out of memory on cuda:0"),
        dead("t2", text="no prompt", code="no_prompt", queue=STATE_QUEUE, at=NOON + HOUR),
        dead("t3", text="ошибка: 出力がない 50% v3→v5 'größer'", code="odd", at=NOON - HOUR),
    )
    await store.set_users({2: "ada"})
    group = (await client.get("/dead-letters/2")).json()["fingerprint"]

    for query, found in {
        "status=open": [3, 2, 1],
        "status=dropped": [],
        "queue=modelswap.state": [2],
        "error_code=no_prompt": [2],
        "error_class=PermanentError": [3, 2, 1],
        "training_id=t1": [1],
        "user_id=ada": [2],
        "event_type=training.succeeded.v1": [3, 2, 1],
        f"fingerprint={group}": [2],
        "since=2026-11-24T12:30:00Z": [2],
        "until=2026-11-24T12:30:00Z": [3, 1],
        "until=2026-11-24T12:30:00%2B01:00": [3],
        "text=MEMORY": [1],
        "text=mem+out": [1],
        "text=cuda:0": [1],
        "text=%26+%7C+!": [],
        "text=%25": [],
        "text=_": [],
        "text=mem%25ry": [],
        "text=50%25": [3],
        "text=ошиб": [3],
        "text=出力": [3],
        "text=größer": [3],
        "text=v3→v5": [3],
        "text=→": [],
        "text=memory&queue=modelswap.state": [],
    }.items():
        answer = await client.get(f"/dead-letters?{query}")
        assert [letter["number"] for letter in answer.json()["items"]] == found, query


async def test_search_without_match_uses_the_word_index(store, database_url):
    await archived(store, *(dead(f"t{n}") for n in range(200)))
    wanted = Filter(text="absent")
    conditions, values = where(wanted)
    statement = f"SELECT number FROM ops.letters WHERE {conditions} ORDER BY {by_number(wanted.text)} DESC LIMIT 1"
    pool = await connect_pool(database_url, application_name="test", role=ROLE, min_size=1, max_size=1)
    try:
        async with pool.acquire() as connection:
            plan = "".join(row[0] for row in await connection.fetch(f"EXPLAIN {statement}", *values))
    finally:
        pool.terminate()

    assert "letters_by_words" in plan
    assert await letters(store, text="absent") == []


@pytest.mark.parametrize(
    "query",
    [
        "status=odd",
        "since=yesterday",
        "since=2026-11-24T12:00:00",
        "since=0",
        "until=2026-11-24",
        "limit=0",
        "cursor=odd",
        "colour=red",
        "queue=",
    ],
)
async def test_a_question_that_makes_no_sense_is_refused(client, query):
    answer = await client.get(f"/dead-letters?{query}")

    assert (answer.status_code, answer.json()["title"]) == (422, "invalid")


async def test_pages_stay_as_they_are_while_letters_arrive(store, client):
    await archived(store, *(dead(f"t{n}", code=f"code{n % 2}") for n in range(1, 21)))
    seen: list[int] = []
    query = {"error_code": "code1", "limit": "3"}

    page = (await client.get("/dead-letters", params=query)).json()
    for n in range(100, 120):
        seen += [letter["number"] for letter in page["items"]]
        if page["next_cursor"] is None:
            break
        await archived(store, dead(f"t{n}", code="code1"))
        page = (await client.get("/dead-letters", params={**query, "cursor": page["next_cursor"]})).json()

    expected = [letter.number for letter in await letters(store, error_code="code1") if letter.number <= 20]
    assert seen == expected
    assert len(seen) == 10


async def test_groups_count_what_has_one_cause(store, client):
    await archived(
        store,
        *(dead(f"t{n}", text=f"no version in '{n}'") for n in range(3)),
        dead("p1", text="no prompt", at=NOON + HOUR),
    )
    await store.move(1, DROP, actor="olga", reason="known")

    newest, oldest = (await client.get("/dead-letter-groups")).json()["items"]
    first = (await client.get("/dead-letter-groups?limit=1")).json()
    second = (await client.get("/dead-letter-groups", params={"limit": 1, "cursor": first["next_cursor"]})).json()
    dropped = (await client.get("/dead-letter-groups?status=dropped")).json()

    assert (newest["open"], newest["error_text"], newest["newest"]) == (1, "no prompt", 4)
    assert (oldest["open"], oldest["dropped"], oldest["newest"], oldest["oldest"]) == (2, 1, 3, 1)
    assert [*first["items"], *second["items"]] == [newest, oldest]
    assert second["next_cursor"] is None
    assert dropped["items"] == [oldest]


async def test_the_trend_says_how_many_failed_lately(store, client, database_url):
    await archived(store, *(dead(f"t{n}") for n in range(4)))
    for number, age in enumerate(("10 minutes", "3 hours", "3 days", "30 days"), start=1):
        await execute(
            database_url, f"UPDATE ops.letters SET last_failed_at = now() - interval '{age}' WHERE number = {number}"
        )

    (group,) = (await client.get("/dead-letter-groups")).json()["items"]

    assert (group["last_hour"], group["last_day"], group["last_week"]) == (1, 2, 3)


async def test_a_letter_that_is_not_there_is_a_404(client):
    for method, path in (("GET", "/dead-letters/7"), ("POST", "/dead-letters/7/drop")):
        answer = await client.request(method, path, json={"reason": "x"} if method == "POST" else None)

        assert (answer.status_code, answer.json()["title"]) == (404, "no-letter")


# Dropping


async def test_drop_and_restore_are_audited_with_reason(store, client):
    await archived(store, dead("t1"))

    dropped = await client.post("/dead-letters/1/drop", json={"reason": "a test of mine"})
    again = await client.post("/dead-letters/1/drop", json={"reason": "a double click"})
    restored = await client.post("/dead-letters/1/restore", json={"reason": "it was none"})
    audit = (await client.get("/audit?target=dead+letter+1")).json()["items"]

    assert [answer.json()["status"] for answer in (dropped, again, restored)] == ["dropped", "dropped", "open"]
    assert [(entry["actor"], entry["action"], entry["reason"], entry["outcome"]) for entry in audit] == [
        ("olga", "dead_letter.restored", "it was none", "dropped to open"),
        ("olga", "dead_letter.dropped", "a double click", "unchanged: it is dropped"),
        ("olga", "dead_letter.dropped", "a test of mine", "open to dropped"),
    ]


@pytest.mark.parametrize(("status", "verb"), [("replaying", "drop"), ("resolved", "drop"), ("resolved", "restore")])
async def test_what_a_replay_has_or_had_is_not_dropped(store, client, database_url, status, verb):
    await archived(store, dead("t1"))
    await execute(database_url, f"UPDATE ops.letters SET status = '{status}', replay_id = '{REPLAY}'")

    answer = await client.post(f"/dead-letters/1/{verb}", json={"reason": "x"})

    assert (answer.status_code, answer.json()["title"]) == (409, "wrong-status")
    assert (await the_letter(store)).status == status


async def test_a_whole_group_is_dropped_and_restored(store, client):
    await archived(store, *(dead(f"t{n}") for n in range(5)), dead("p1", code="no_prompt"))
    group = (await client.get("/dead-letters/1")).json()["fingerprint"]
    body = {"filter": {"fingerprint": group}, "reason": "known"}

    dropped = (await client.post("/dead-letters/drop", json=body)).json()
    left = await letters(store, status=LetterStatus.OPEN)
    restored = (await client.post("/dead-letters/restore", json=body)).json()
    audit = (await client.get("/audit?action=dead_letter.dropped&actor=olga")).json()["items"]

    assert (dropped, restored) == ({"letters": 5, "unchanged": {}, "newest": 5},) * 2
    assert [letter.error_code for letter in left] == ["no_prompt"]
    assert [(entry["target"], entry["outcome"]) for entry in audit] == [
        (f"dead letters with fingerprint {group}", "5 dead letters open to dropped")
    ]


@pytest.mark.parametrize("wanted", [{"queue": EXTRACTOR_QUEUE}, {"text": "version"}], ids=str)
async def test_a_large_drop_goes_in_parts_that_are_audited(store, client, database_url, wanted):
    await fill(database_url, trainings=3, letters=4500, groups=1)
    await execute(database_url, "UPDATE ops.letters SET status = 'open'")
    await execute(database_url, "DELETE FROM ops.audit")

    dropped = (await client.post("/dead-letters/drop", json={"filter": wanted, "reason": "of a test"})).json()

    entries = await store.list_audit(AuditFilter(), limit=9)
    assert (dropped["letters"], (await store.counts()).dropped) == (4500, 4500)
    assert [(each.actor, each.reason, each.outcome) for each in reversed(entries)] == [
        ("olga", "of a test", f"{count} dead letters open to dropped") for count in (2000, 2000, 500)
    ]


@pytest.mark.parametrize("wanted", [{"letters": [1, 2, 3]}, {"filter": {"queue": EXTRACTOR_QUEUE}}], ids=str)
async def test_a_drop_says_what_a_replay_took_meanwhile(store, client, database_url, wanted):
    await archived(store, dead("t1"), dead("t2"), dead("t3"))

    async with connected(database_url) as replay:
        transaction = replay.transaction()
        await transaction.start()
        await replay.execute("UPDATE ops.letters SET status = 'replaying', replay_id = $1 WHERE number = 2", REPLAY)
        asked = asyncio.create_task(client.post("/dead-letters/drop", json={**wanted, "reason": "known"}))
        await until_blocked_by(database_url, replay.get_server_pid())
        await transaction.commit()
        answer = (await asked).json()

    assert answer == {"letters": 2, "unchanged": {"replaying": 1}, "newest": 3}
    assert [each.status for each in await letters(store)] == ["dropped", "replaying", "dropped"]


async def test_already_dropped_letters_count_as_unchanged(store, client):
    await archived(store, *(dead(f"t{n}") for n in range(3)))
    named, filtered = {"letters": [1, 2]}, {"filter": {"queue": EXTRACTOR_QUEUE}}

    answers = [
        (await client.post("/dead-letters/drop", json={**wanted, "reason": "known"})).json()
        for wanted in (named, named, filtered, filtered)
    ]
    audit = (await client.get("/audit?action=dead_letter.dropped")).json()["items"]

    assert [(answer["letters"], answer["unchanged"]) for answer in answers] == [
        (2, {}),
        (0, {"dropped": 2}),
        (1, {"dropped": 2}),
        (0, {"dropped": 3}),
    ]
    assert [entry["outcome"] for entry in reversed(audit)] == [
        *["open to dropped"] * 2,
        *["unchanged: it is dropped"] * 2,
        "1 dead letter open to dropped; unchanged: 2 dropped",
        "0 dead letters open to dropped; unchanged: 3 dropped",
    ]


async def test_a_dry_run_says_what_would_change_and_changes_nothing(store, client):
    await archived(store, *(dead(f"t{n}") for n in range(3)))
    body = {"filter": {"queue": EXTRACTOR_QUEUE}, "reason": "known"}

    planned = (await client.post("/dead-letters/drop", json={**body, "dry_run": True})).json()
    untouched = await letters(store, status=LetterStatus.OPEN)
    await archived(store, dead("later"))
    dropped = (await client.post("/dead-letters/drop", json={**body, "up_to": planned["newest"]})).json()

    assert planned == dropped == {"letters": 3, "unchanged": {}, "newest": 3}
    assert len(untouched) == 3
    assert [letter.training_id for letter in await letters(store, status=LetterStatus.OPEN)] == ["later"]


async def test_of_letters_one_of_which_is_not_there_none_is_dropped(store, client):
    await archived(store, dead("t1"))

    answer = await client.post("/dead-letters/drop", json={"letters": [1, 9], "reason": "known"})

    assert (answer.status_code, answer.json()["title"], answer.json()["detail"]) == (
        404,
        "no-letter",
        "there is no dead letter 9",
    )
    assert (await the_letter(store)).status == "open"


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
async def operators(store: Letters) -> AsyncIterator[Operators]:
    """What commands ask the operators' API with."""
    async with operators_api(store) as client, Operators("http://ops", OPERATOR, transport=client._transport) as api:
        yield api


@pytest.mark.parametrize(
    ("stdin", "why", "then"),
    [
        (
            io.StringIO(),
            "there is no terminal to ask at: 3 dead letters would be dropped",
            "the same command with --yes",
        ),
        (Terminal("n\n"), "nothing was changed", "modelswap dead-letters list, to see which they are"),
    ],
    ids=["nobody", "no"],
)
async def test_more_than_one_letter_is_dropped_only_by_a_yes(store, operators, monkeypatch, *, stdin, why, then):
    await archived(store, *(dead(f"t{n}") for n in range(3)))
    monkeypatch.setattr(sys, "stdin", stdin)

    with pytest.raises(Problem, match=why) as refused:
        await change_if_confirmed(operators, "drop", {"letters": [1, 2, 3]}, reason="known", yes=False)

    assert refused.value.then == then
    assert [letter.status for letter in await letters(store)] == ["open"] * 3


@pytest.mark.parametrize(
    ("numbers", "stdin", "yes"),
    [([1, 2], Terminal("y\n"), False), ([1, 2], io.StringIO(), True), ([1], io.StringIO(), False)],
    ids=["yes", "--yes", "one"],
)
async def test_what_was_dropped_is_what_is_said(store, operators, monkeypatch, capsys, *, numbers, stdin, yes):
    await archived(store, *(dead(f"t{n}") for n in range(2)))
    monkeypatch.setattr(sys, "stdin", stdin)

    changed = await change_if_confirmed(operators, "drop", {"letters": numbers}, reason="known", yes=yes)

    assert (changed.letters, changed.unchanged) == (len(numbers), {})
    assert ("2 dead letters would be dropped" in capsys.readouterr().err) == isinstance(stdin, Terminal)


@pytest.mark.parametrize("yes", [False, True])
async def test_a_drop_that_fits_none_is_not_audited(store, operators, yes):
    await archived(store, dead("t1"))

    changed = await change_if_confirmed(operators, "drop", {"filter": {"queue": "q"}}, reason="known", yes=yes)

    assert (changed.letters, changed.unchanged) == (0, {})
    assert await store.list_audit(AuditFilter(), limit=9) == []


@pytest.mark.parametrize("path", ["/dead-letters", "/dead-letter-suggestions", "/audit"])
async def test_a_span_that_ends_before_it_begins_is_refused(client, path):
    span = {"since": "2026-11-29T12:00:00Z", "until": "2026-11-29T12:00:00+01:00"}

    answers = [
        await client.get(path, params=given) for given in (span, {**span, "until": span["since"]}, {"until": "x"})
    ]

    assert [answer.status_code for answer in answers] == [422, 200, 422]
    assert answers[0].json()["errors"] == [{"pointer": "query.until", "detail": "must not be before `since`"}]


@pytest.mark.parametrize(
    "body",
    [
        {"reason": "of nothing"},
        {"filter": {"queue": "q"}, "letters": [1], "reason": "twice"},
        {"letters": [], "reason": "of nothing"},
        {"filter": {}, "reason": "all"},
        {"filter": {"status": "open"}, "reason": "all"},
        {"filter": {"status": "resolved", "error_code": "no_version"}, "reason": "these are open, and not meant"},
        {"filter": {"queue": "q"}},
        {"filter": {"queue": "q"}, "reason": " "},
        {"filter": {"colour": "red"}, "reason": "x"},
        {"filter": {"since": "2026-11-29T12:00:00Z", "until": "2026-11-29T11:00:00Z"}, "reason": "x"},
    ],
)
async def test_nobody_drops_everything_by_a_slip_or_without_a_reason(store, client, body):
    await archived(store, dead("t1"))

    answer = await client.post("/dead-letters/drop", json=body)

    assert answer.status_code == 422
    assert (await the_letter(store)).status == "open"


async def test_a_reader_sees_everything_and_changes_nothing(store):
    await archived(store, dead("t1"))
    async with operators_api(store, READER) as reader:
        seen = [
            (await reader.get(path)).status_code
            for path in ("/dead-letters", "/dead-letters/1", "/dead-letter-groups", "/dead-letter-counts", "/audit")
        ]
        refused = [
            (await reader.post(path, json={"reason": "x", "filter": {"queue": "q"}})).status_code
            for path in (
                "/dead-letters/1/drop",
                "/dead-letters/1/restore",
                "/dead-letters/drop",
                "/dead-letters/restore",
            )
        ]
    async with operators_api(store, "of-nobody") as stranger:
        strange = (await stranger.get("/dead-letters")).status_code

    assert (set(seen), set(refused), strange) == ({200}, {403}, 401)
    assert (await the_letter(store)).status == "open"


async def test_every_operation_says_what_it_does(client):
    paths = (await client.get("/openapi.json")).json()["paths"]

    operations = [operation for methods in paths.values() for operation in methods.values()]
    assert len(operations) >= 9
    assert [each["operationId"] for each in operations if not each.get("description")] == []


# What the database refuses, whatever the code above it does

FORBIDDEN = "42501"
REFUSED = [
    ("DELETE FROM ops.letters", "23514"),
    ("TRUNCATE ops.letters", FORBIDDEN),
    ("UPDATE ops.letters SET body = ''", FORBIDDEN),
    ("UPDATE ops.letters SET queue = 'other'", FORBIDDEN),
    ("UPDATE ops.letters SET headers = '{}'", FORBIDDEN),
    ("UPDATE ops.letters SET digest = 'x'", FORBIDDEN),
    ("UPDATE ops.letters SET status = 'gone'", "23514"),
    ("UPDATE ops.letters SET status = 'replaying'", "23514"),
    ("UPDATE ops.audit SET reason = ''", FORBIDDEN),
    ("DELETE FROM ops.audit", FORBIDDEN),
    ("TRUNCATE ops.audit", FORBIDDEN),
    ("SELECT * FROM state.users", FORBIDDEN),
]


@pytest.mark.parametrize(("statement", "state"), REFUSED)
async def test_the_role_can_not(store, database_url, statement, state):
    await archived(store, dead("t1"))
    pool = await connect_pool(database_url, application_name="test", role=ROLE, min_size=1, max_size=1)
    try:
        with pytest.raises(asyncpg.PostgresError) as caught:
            async with pool.acquire() as connection:
                await connection.execute(statement)
    finally:
        pool.terminate()

    assert caught.value.sqlstate == state


async def test_not_even_its_owner_changes_what_a_letter_was(store, database_url):
    await archived(store, dead("t1"))

    with pytest.raises(asyncpg.PostgresError, match="what letter 1 was can not be changed"):
        await execute(database_url, "UPDATE ops.letters SET body = ''")
