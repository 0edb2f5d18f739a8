"""Is each letter replayed once, in steps, whatever happens? Against a real Postgres; the broker is a list."""

from __future__ import annotations

import asyncio
import re
from collections import Counter
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import replace
from datetime import timedelta
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import httpx
import pytest

from services.ops.api import create_api
from services.ops.letters.store import Store as Letters
from services.ops.letters.views import Filter
from services.ops.migrate import ROLE
from services.ops.replays.messages import StoredLetter
from services.ops.replays.outcomes import Outcomes
from services.ops.replays.plan import Outcome, Status
from services.ops.replays.records import (
    NoReplay,
    NothingSelected,
    NotNow,
    Work,
)
from services.ops.replays.rounds import Previewer
from services.ops.replays.store import Store
from services.ops.replays.store.send import NEXT_UNPREDICTED
from services.ops.replays.store.undo import TO_REVERT, UNDONE
from services.ops.replays.views import ReplayView
from services.ops.replays.waiting import Waiting
from shared.contract.envelope import REPLAY_HEADER, wrap
from shared.contract.errors import DependencyDown, Malformed
from shared.contract.events import ModelReverted, TrainingCanceled
from shared.contract.health import Health, ProcessState, Seen
from shared.contract.idempotency import IdempotencyKey, KeyReused
from shared.contract.preview import Answer, Message, Refusal
from shared.contract.topology import EXTRACTOR_QUEUE, OPS_QUEUE, PROGRESS_QUEUE, RECEIVER, STATE_QUEUE, topology
from shared.contract.values import Effect
from shared.runtime import telemetry
from shared.runtime.aside import SetAside
from shared.runtime.broker import Outgoing
from shared.runtime.health import reporter
from shared.runtime.http import create_app
from shared.runtime.postgres import connect_pool
from shared.runtime.postgres_errors import NotReady
from shared.runtime.tokens import read_token
from tests.counts import counted
from tests.crowd import fill
from tests.databases import plan_on_empty_tables, refuse
from tests.ops import OPERATOR, archived, dead
from tests.replays import (
    Answering,
    Listed,
    archive,
    archive_many,
    letter_of,
    opened_repairs,
    opened_replays,
    order,
    routes,
    rows,
    running_engine,
    say,
    settled,
    until,
    until_found,
    until_trouble,
)
from tests.state import NOON, connected, model_of, progressed, ready, succeeded


@pytest.fixture
async def store(database_url: str) -> AsyncIterator[Store]:
    async with opened_replays(database_url) as store:
        yield store


@pytest.fixture
def broker() -> Listed:
    return Listed()


async def statuses(database_url: str) -> dict[int, str]:
    return dict(await rows(database_url, "SELECT number, status FROM ops.letters ORDER BY number"))


async def outcomes(store: Store, record: ReplayView) -> dict[int, Outcome]:
    found = await store.list_letters(record.id, outcome=None, limit=1000)
    return {each.letter: each.outcome for each in found}


async def sent(broker: Listed, count: int) -> None:
    """Wait until the broker has *count* messages."""
    async with asyncio.timeout(60):
        while len(broker.taken) < count:
            broker.changed.clear()
            await broker.changed.wait()


async def fail(database_url: str, store: Store, mark: str, detail: str = "again") -> None:
    """The letter came back to the dead letters."""
    replay_id, _, number = mark.partition(":")
    async with connected(database_url) as connection, connection.transaction():
        await connection.execute(
            "UPDATE ops.letters SET status = 'open', returns = returns + 1 WHERE number = $1 AND status = 'replaying'",
            int(number),
        )
        await store.failed(connection, UUID(replay_id), int(number), detail)
    store.notify()


# Making one


async def test_the_selection_is_frozen(database_url, store, broker):
    numbers = await archive_many(database_url, 3)
    record = await store.create(order(Filter(fingerprint="a-cause")))

    await archive_many(database_url, 2)
    async with running_engine(store, broker):
        await sent(broker, 3)
    after = await store.find(record.id)

    assert broker.marks == [f"{record.id}:{number}" for number in numbers]
    assert after is not None
    assert after.arrived_since == 2


async def test_what_arrived_since_is_counted_up_to_a_thousand(database_url, store):
    await fill(database_url, trainings=3, letters=1200, groups=1)

    newest, *_, oldest = await store.list_replays(limit=50)

    assert (newest.arrived_since, newest.arrived) == (30, "30")
    assert (oldest.arrived_since, oldest.arrived) == (1000, "1,000 or more")


async def test_only_open_letters_that_fit_are_selected(database_url, store):
    (one, two, three) = await archive_many(database_url, 3)
    (other,) = await archive(database_url, letter_of(ready("t9")), fingerprint="another-cause")
    async with connected(database_url) as connection:
        await connection.execute("UPDATE ops.letters SET status = 'dropped' WHERE number = $1", two)

    by_group = await store.create(order(Filter(fingerprint="a-cause"), is_dry_run=True))
    by_training = await store.create(order(Filter(training_id="t9", since=NOON, text="did NOT"), is_dry_run=True))

    assert await outcomes(store, by_group) == {one: "planned", three: "planned"}
    assert await outcomes(store, by_training) == {other: "planned"}
    with pytest.raises(NothingSelected):
        await store.create(order(Filter(until=NOON)))


async def test_letters_that_can_not_go_are_reported(database_url, store):
    (held, free) = await archive_many(database_url, 2)
    (lossy,) = await archive(database_url, letter_of(progressed("t9", 0.5), queue=PROGRESS_QUEUE))
    first = await store.create(order([held]))

    second = await store.create(order([held, free, lossy, 999]))

    found = await store.list_letters(second.id, outcome=Outcome.SKIPPED, limit=10)
    assert await outcomes(store, second) == {free: "waiting", held: "skipped", lossy: "skipped", 999: "skipped"}
    assert [each.detail for each in found] == [
        f"it is in replay {first.id}",
        "progress reports may be lost: a newer one has replaced this one, so drop it",
        "there is no such dead letter",
    ]
    with pytest.raises(NothingSelected, match="progress reports"):
        await store.create(order([lossy]))


async def test_the_same_key_is_the_same_replay(database_url, store):
    (number, other) = await archive_many(database_url, 2)
    key = IdempotencyKey("a-key", "a-digest")

    first = await store.create(order([number]), key)
    second = await store.create(order([number]), key)

    assert first.id == second.id
    with pytest.raises(KeyReused):
        await store.create(order([other]), replace(key, digest="another-digest"))


async def test_a_double_click_is_one_replay(database_url, store):
    numbers = await archive_many(database_url, 20)
    key = IdempotencyKey("a-key", "a-digest")

    made = await asyncio.gather(*(store.create(order(numbers), key) for _ in range(4)))

    assert len({record.id for record in made}) == 1
    assert await rows(database_url, "SELECT count(*) FROM ops.replays") == [(1,)]


async def test_two_who_want_the_same_letters_at_once_share_them(database_url, store):
    numbers = await archive_many(database_url, 20)

    made = await asyncio.gather(*(store.create(order(numbers)) for _ in range(3)), return_exceptions=True)

    replays = [each for each in made if not isinstance(each, BaseException)]
    assert len(replays) == 1
    assert all(isinstance(each, NothingSelected) for each in made if isinstance(each, BaseException))


async def test_the_database_itself_refuses_a_letter_in_two_replays(database_url, store):
    (number,) = await archive_many(database_url, 1)
    await store.create(order([number]))
    other = await store.create(order(await archive_many(database_url, 1)))

    async with connected(database_url) as connection:
        with pytest.raises(asyncpg.UniqueViolationError):
            await connection.execute(
                "INSERT INTO ops.replay_letters (replay_id, position, letter, outcome) VALUES ($1, 9, $2, 'waiting')",
                other.id,
                number,
            )


async def test_ops_itself_can_not_change_a_selection(database_url, store):
    await store.create(order(await archive_many(database_url, 1)))

    for statement in (
        "DELETE FROM ops.replay_letters",
        "UPDATE ops.replay_letters SET letter = 7",
        "UPDATE ops.replays SET reason = 'another'",
    ):
        with pytest.raises(NotReady, match="permission denied"):
            await store._execute(statement)


# Going


async def test_a_letter_goes_byte_for_byte_to_the_queue_it_came_from(database_url, store, broker):
    letter = letter_of(ready("t1"), body=b'{"odd": "\\u00e4",  "spaces":   1}', content_type="application/x-odd")
    (number,) = await archive(database_url, letter)
    record = await store.create(order([number]))

    async with running_engine(store, broker):
        await sent(broker, 1)

    (message,) = broker.taken
    assert (message.exchange, message.routing_key, message.mandatory) == ("", letter.queue, True)
    assert (message.body, message.content_type) == (letter.body, letter.content_type)
    assert message.headers == {**letter.headers, REPLAY_HEADER: f"{record.id}:{number}"}


async def test_step_waits_for_all_outcomes_of_the_last_one(database_url, store, broker):
    numbers = await archive_many(database_url, 10)
    record = await store.create(order(numbers, steps=(1, "20%", "rest")))

    async with running_engine(store, broker):
        await sent(broker, 1)
        await say(store, settled(broker.marks[0]))
        await sent(broker, 3)
        await say(store, settled(broker.marks[1], Effect.SUPERSEDED))
        await asyncio.sleep(0.2)
        in_between = len(broker.taken)
        await say(store, settled(broker.marks[2], Effect.NOTHING))
        await sent(broker, 10)
        await say(store, *(settled(mark, Effect.MOVED) for mark in broker.marks[3:]))
        done = await until(store, record.id, Status.DONE)

    assert in_between == 3
    assert done.outcomes == {"swapped": 1, "superseded": 1, "nothing": 1, "moved": 7}
    assert set((await statuses(database_url)).values()) == {"resolved"}


async def test_it_stops_by_itself_and_goes_on_when_somebody_says_so(database_url, store, broker):
    numbers = await archive_many(database_url, 4)
    record = await store.create(order(numbers, steps=(2, "rest")))

    async with running_engine(store, broker):
        await sent(broker, 2)
        for mark in broker.marks:
            await fail(database_url, store, mark)
        stopped = await until(store, record.id, Status.STOPPED)
        open_again = await statuses(database_url)
        await store.resume(record.id, actor="bob", reason="these two are special")
        await sent(broker, 4)
        await say(store, *(settled(mark) for mark in broker.marks[2:]))
        done = await until(store, record.id, Status.DONE)

    assert stopped.status_reason == "2 of 2 failed, which is more than 20%"
    assert list(open_again.values()) == ["open", "open", "replaying", "replaying"]
    assert done.outcomes == {"failed": 2, "swapped": 2}
    told = await rows(database_url, "SELECT actor, action, reason, outcome FROM ops.audit ORDER BY number")
    assert told == [
        ("ada", "replay.started", "the bug is fixed", "4 dead letters, 0 skipped"),
        ("ops", "replay.stopped", "2 of 2 failed, which is more than 20%", "2 dead letters wait"),
        ("bob", "replay.resumed", "these two are special", ""),
        ("ops", "replay.done", "the bug is fixed", "2 done, 2 failed"),
    ]


async def test_a_letter_that_failed_again_can_be_replayed_again(database_url, store, broker):
    (number,) = await archive_many(database_url, 1)
    first = await store.create(order([number]))

    async with running_engine(store, broker):
        await sent(broker, 1)
        await fail(database_url, store, broker.marks[0])
        await until(store, first.id, Status.DONE)
        second = await store.create(order([number]))
        await sent(broker, 2)
        await say(store, settled(broker.marks[1]))
        await until(store, second.id, Status.DONE)

    assert len(set(broker.marks)) == 2
    assert await rows(database_url, "SELECT status, returns FROM ops.letters") == [("resolved", 1)]
    assert await outcomes(store, first) == {number: "failed"}
    assert await outcomes(store, second) == {number: "swapped"}


async def test_failure_further_on_resolves_the_first_letter(database_url, store):
    (number,) = await archive(database_url, letter_of(succeeded("t1"), queue=EXTRACTOR_QUEUE))
    record = await store.create(order([number]))
    mark = f"{record.id}:{number}"
    (further,) = await archive(database_url, letter_of(replace(ready("t1"), replay=mark)))

    async with connected(database_url) as connection, connection.transaction():
        await store.failed(connection, record.id, number, "it lies elsewhere")

    (letter,) = await store.list_letters(record.id, outcome=None, limit=10)
    assert letter.outcome is Outcome.FAILED
    assert letter.detail == f"handled here, then failed further on as dead letter {further}: it lies elsewhere"
    assert await statuses(database_url) == {number: "resolved", further: "open"}


@pytest.mark.parametrize("batches", ["own followed", "followed own", "own, followed", "followed, own"])
async def test_a_letter_that_returns_is_open_whatever_followed_too(database_url, batches):
    async with opened_repairs(database_url) as (letters, store):
        await archived(letters, dead("t1", topology()))
        record = await store.create(order([1]))
        mark: dict[str, Any] = {REPLAY_HEADER: f"{record.id}:1"}
        copies = {
            "own": dead("t1", topology(), text="again", **mark),
            "followed": dead("t1", topology(), text="further on", queue=STATE_QUEUE, **{**mark, "ce-id": "another"}),
        }

        for batch in batches.split(", "):
            await archived(letters, *(copies[each] for each in batch.split()))

        assert await outcomes(store, record) == {1: "failed"}
    found = await rows(database_url, "SELECT queue, status, returns, error_text FROM ops.letters ORDER BY number")
    assert found == [(EXTRACTOR_QUEUE, "open", 1, "again"), (STATE_QUEUE, "open", 0, "further on")]


async def test_the_engine_looks_after_a_failure_is_committed(database_url):
    pool = await connect_pool(database_url, application_name="test", role=ROLE, min_size=1, max_size=4)
    store = Store(pool)
    changed = store.changes()
    early: list[bool] = []

    async def failed(*failure: Any) -> None:
        await store.failed(*failure)
        early.append(changed.is_set())

    try:
        letters = Letters(pool, failed=failed, notify=store.notify)
        await archived(letters, dead("t1", topology()))
        record = await store.create(order([1]))
        changed.clear()
        mark: dict[str, Any] = {REPLAY_HEADER: f"{record.id}:1"}
        await archived(letters, dead("t1", topology(), **mark))
    finally:
        pool.terminate()

    assert (early, changed.is_set()) == ([False], True)


@pytest.mark.parametrize("failed", [(0, 1), (1, 0)])
async def test_a_given_up_copy_hides_no_failure_of_a_later_replay(database_url, failed: Sequence[int]):
    async with opened_repairs(database_url) as (letters, store):
        await archived(letters, dead("t1", topology()))
        first = await store.create(order([1]))
        await store.record(first.id, sent=[1], unsent={}, given_back=[])
        for _ in range(2):
            await store.cancel(first.id, actor="ada", reason="it hangs")
        second = await store.create(order([1]))
        marks: list[dict[str, Any]] = [{REPLAY_HEADER: f"{each.id}:1"} for each in (first, second)]
        copies = [dead("t1", topology(), text=f"copy {at}", **mark) for at, mark in enumerate(marks)]

        await archived(letters, *(copies[at] for at in failed))

        assert (await outcomes(store, first), await outcomes(store, second)) == ({1: "failed"}, {1: "failed"})
    assert await rows(database_url, "SELECT status, returns, error_text FROM ops.letters") == [("open", 1, "copy 1")]


async def test_it_says_what_those_wait_for_that_have_its_letters(database_url, store, broker):
    async def looked() -> Mapping[str, Seen]:
        return {
            "state": Seen(ProcessState.AWAY, "nothing listens at http://state"),
            "ops": Seen(ProcessState.READY, "ready", health=Health(status="ok", version="1", checks={})),
        }

    record = await store.create(order(await archive_many(database_url, 2)))
    router = routes(store, waiting=Waiting(looked, long=timedelta(0)))
    api = create_app(create_api(router, tokens=[read_token(f"operator/olga:{OPERATOR}")]), reporter({}))

    async with (
        running_engine(store, broker),
        httpx.AsyncClient(
            transport=httpx.ASGITransport(api), base_url="http://ops", headers={"Authorization": f"Bearer {OPERATOR}"}
        ) as client,
    ):
        await sent(broker, 2)
        await until_found(store, record.id, lambda found: found.outcomes.get(Outcome.SENT) == 2)
        held_up = (await client.get("/v1/replays")).json()["items"][0]
        await say(store, *map(settled, broker.marks))
        done = await until(store, record.id, Status.DONE)
        after = (await client.get(f"/v1/replays/{record.id}")).json()

    assert held_up["waiting_for"] == ["state: nothing listens at http://state"]
    assert (done.sent_since, after["waiting_for"]) == (None, [])


async def test_paused_it_sends_nothing_and_resumed_the_rest(database_url, store, broker):
    numbers = await archive_many(database_url, 3)
    record = await store.create(order(numbers, steps=(1, "rest")))

    async with running_engine(store, broker):
        await sent(broker, 1)
        await store.pause(record.id, actor="bob", reason="lunch")
        await say(store, settled(broker.marks[0]))
        await asyncio.sleep(0.2)
        while_paused = len(broker.taken)
        await store.resume(record.id, actor="bob", reason="")
        await sent(broker, 3)

    assert while_paused == 1


async def test_cancel_reopens_unsent_letters_and_keeps_sent_ones(database_url, store, broker):
    (went, stayed) = await archive_many(database_url, 2)
    record = await store.create(order([went, stayed], steps=(1, "rest")))

    async with running_engine(store, broker):
        await sent(broker, 1)
        canceled = await store.cancel(record.id, actor="bob", reason="wrong ones")
        await say(store, settled(broker.marks[0]))

    assert canceled.status is Status.CANCELED
    assert await outcomes(store, record) == {went: "swapped", stayed: "canceled"}
    assert await statuses(database_url) == {went: "resolved", stayed: "open"}
    again = await store.create(order([stayed]))
    assert await outcomes(store, again) == {stayed: "waiting"}


async def test_second_cancel_gives_up_sent_letters(database_url, store, broker):
    (went, stayed) = await archive_many(database_url, 2)
    record = await store.create(order([went, stayed], steps=(1, "rest")))

    async with running_engine(store, broker):
        await sent(broker, 1)
        await store.cancel(record.id, actor="bob", reason="the broker lost its disk")
        await store.cancel(record.id, actor="bob", reason="really")
    given_up = await outcomes(store, record)
    open_again = await statuses(database_url)
    # It was only late.
    await say(store, settled(broker.marks[0]))

    assert given_up == {went: "failed", stayed: "canceled"}
    assert open_again == {went: "open", stayed: "open"}
    assert await outcomes(store, record) == {went: "swapped", stayed: "canceled"}
    assert await statuses(database_url) == {went: "resolved", stayed: "open"}
    with pytest.raises(NotNow, match="nothing of it is underway"):
        await store.cancel(record.id, actor="bob", reason="and again")


async def test_unsendable_letter_delays_no_other(database_url, store, broker):
    (odd, fine) = await archive_many(database_url, 2)

    def trip(message: Outgoing) -> None:
        if str(message.headers[REPLAY_HEADER]).endswith(f":{odd}"):
            raise ValueError("a header that AMQP has no words for")

    broker.gate = trip
    record = await store.create(order([odd, fine], stop_share=1.0))

    async with running_engine(store, broker):
        await sent(broker, 1)
        await say(store, settled(broker.marks[0]))
        await until(store, record.id, Status.DONE)

    assert await outcomes(store, record) == {odd: "failed", fine: "swapped"}
    assert await statuses(database_url) == {odd: "open", fine: "resolved"}


@pytest.mark.parametrize(
    ("verb", "status"), [("start", "running"), ("resume", "running"), ("undo", "running"), ("pause", "canceled")]
)
async def test_what_can_not_be_now_is_refused(database_url, store, verb, status):
    record = await store.create(order(await archive_many(database_url, 1)))
    if status == "canceled":
        await store.cancel(record.id, actor="bob", reason="")

    with pytest.raises(NotNow, match=status):
        await getattr(store, verb)(record.id, actor="bob", reason="")
    with pytest.raises(NoReplay):
        await getattr(store, verb)(uuid4(), actor="bob", reason="")


async def test_the_rate_holds_for_all_processes_together(database_url, store, broker):
    numbers = await archive_many(database_url, 12)
    clock = asyncio.get_running_loop().time
    began = clock()
    await store.create(order(numbers, rate_per_second=20))

    async with opened_replays(database_url) as other, running_engine(store, broker), running_engine(other, broker):
        await sent(broker, 12)
        took = clock() - began

    assert took >= 0.4
    assert Counter(broker.marks).most_common(1)[0][1] == 1


async def test_a_broker_that_is_away_is_waited_for(database_url, store, broker):
    def refuse(_: object) -> None:
        raise DependencyDown("RabbitMQ is away")

    broker.gate = refuse
    numbers = await archive_many(database_url, 5)
    record = await store.create(order(numbers))

    async with running_engine(store, broker):
        held_up = await until_trouble(store, record.id)
        while_away = await outcomes(store, record)
        broker.gate = lambda _: None
        await sent(broker, 5)
        await say(store, *map(settled, broker.marks))
        done = await until(store, record.id, Status.DONE)

    assert (held_up.status, held_up.trouble) == (Status.RUNNING, "RabbitMQ is away")
    assert done.trouble == ""
    assert set(while_away.values()) == {"waiting"}
    assert Counter(broker.marks).most_common(1)[0][1] == 1


async def test_unrecorded_letter_is_sent_again_with_the_same_mark(database_url, store, broker):
    (number,) = await archive_many(database_url, 1)
    record = await store.create(order([number]))

    def die_once(_: object) -> None:
        broker.gate = lambda _: None
        broker.taken.append(_)
        raise asyncio.CancelledError

    broker.gate = die_once
    async with running_engine(store, broker):
        await sent(broker, 2)
        await say(store, *(settled(mark) for mark in broker.marks))
        done = await until(store, record.id, Status.DONE)

    assert broker.marks == [f"{record.id}:{number}"] * 2
    assert done.outcomes == {"swapped": 1}


async def claim(store: Store, replay_id: UUID, *, seconds: float) -> list[int]:
    """Claim the next letters for *seconds*, as a process that dies before it records what went."""
    progress = await store.progress(replay_id)
    assert progress is not None
    batch = await store.claim(replay_id, limit=9, next_at=progress.next_at, seconds=seconds)
    return [each.number for each in batch]


async def test_claimed_letters_of_a_dead_process_are_sent_by_another(database_url, store, broker):
    numbers = await archive_many(database_url, 3)
    record = await store.create(order(numbers))

    claimed = await claim(store, record.id, seconds=0.3)
    async with running_engine(store, broker):
        await sent(broker, 3)

    assert claimed == numbers
    assert broker.marks == [f"{record.id}:{number}" for number in numbers]


async def test_one_process_at_a_time_sends(database_url, store):
    record = await store.create(order(await archive_many(database_url, 3)))
    seen = await store.progress(record.id)
    assert seen is not None

    batches = await asyncio.gather(
        *(store.claim(record.id, limit=1, next_at=seen.next_at, seconds=60) for _ in range(4))
    )
    after = await store.progress(record.id)

    assert sorted(map(len, batches)) == [0, 0, 0, 1]
    assert after is not None
    assert after.is_claimed


@pytest.mark.parametrize(
    ("is_confirmed", "outcome", "status"), [(True, "sent", "replaying"), (False, "canceled", "open")]
)
async def test_letters_being_sent_when_canceled_went_or_are_open(database_url, store, is_confirmed, outcome, status):
    (number,) = await archive_many(database_url, 1)
    record = await store.create(order([number]))
    claimed = await claim(store, record.id, seconds=30)

    await store.cancel(record.id, actor="bob", reason="wrong ones")
    await store.record(
        record.id, sent=claimed if is_confirmed else [], unsent={}, given_back=[] if is_confirmed else claimed
    )

    assert await outcomes(store, record) == {number: outcome}
    assert await statuses(database_url) == {number: status}


async def test_no_transaction_is_open_while_letters_are_published(database_url, store, broker):
    open_transactions: list[int] = []
    gate = asyncio.Event()

    class Slow(Listed):
        async def publish(self, message: Outgoing) -> None:
            async with connected(database_url) as connection:
                open_transactions.append(
                    await connection.fetchval(
                        "SELECT count(*) FROM pg_stat_activity "
                        "WHERE datname = current_database() AND state = 'idle in transaction'"
                    )
                )
            gate.set()
            await super().publish(message)

    await store.create(order(await archive_many(database_url, 1)))
    async with running_engine(store, Slow()), asyncio.timeout(60):
        await gate.wait()

    assert open_transactions == [0]


# Outcomes


async def test_a_dry_run_reads_on_behind_what_it_has_predicted(migrated_database):
    plan = await plan_on_empty_tables(migrated_database, ROLE, NEXT_UNPREDICTED, 6)

    assert re.search(r"Index Cond: \(\(replay_id = \$1\) AND .*\(\"?position\"? > ", plan)


@pytest.mark.parametrize(("statement", "parameters"), [(TO_REVERT, 4), (UNDONE, 4)], ids=["next", "done"])
async def test_an_undo_reads_the_rows_of_its_next_users_alone(migrated_database, statement, parameters):
    plan = await plan_on_empty_tables(migrated_database, ROLE, statement, parameters)

    assert "replay_letters_to_undo" in plan
    conditions = re.findall(r"Index Cond: .*", plan)
    assert conditions
    assert all("(user_id " in condition for condition in conditions), plan


async def test_a_dry_run_keeps_its_rate_whoever_wakes_it(database_url, store):
    record = await store.create(order(await archive_many(database_url, 3), is_dry_run=True))
    work = Work(record.id, Status.PREVIEWING, is_undoing=False, rate_per_second=0.01, trouble="")
    previewer = Previewer(store, Answering(), SetAside("test"))

    rounds = [await previewer.round(work) for _ in range(3)]

    waits = [each.seconds for each in rounds if each and each.seconds]
    assert 100 >= waits[0] > waits[1] > waits[2] > 0
    found = await store.find(record.id)
    assert found is not None
    assert sum(found.predictions.values()) == 1


async def test_a_slow_dry_run_without_a_prediction_says_why_again(database_url, store):
    def away(_: Message) -> Answer:
        raise DependencyDown("the extractor is away")

    (number,) = await archive(database_url, letter_of(succeeded("t1"), queue=EXTRACTOR_QUEUE))
    record = await store.create(order([number], is_dry_run=True))
    work = Work(record.id, Status.PREVIEWING, is_undoing=False, rate_per_second=0.1, trouble="")
    previewer = Previewer(store, Answering(away), SetAside("test"))

    rounds = [await previewer.round(work) for _ in range(2)]

    assert [each and (each.is_underway, [*map(str, each.failures)]) for each in rounds] == [
        (False, ["the extractor is away"])
    ] * 2


async def test_an_outcome_may_come_before_the_receipt(database_url, store):
    (number,) = await archive_many(database_url, 1)
    record = await store.create(order([number]))

    await say(store, settled(f"{record.id}:{number}"))

    assert await outcomes(store, record) == {number: "swapped"}


async def test_outcome_of_state_overrides_a_failure_only(database_url, store):
    (number,) = await archive_many(database_url, 1)
    record = await store.create(order([number]))
    mark = f"{record.id}:{number}"

    await fail(database_url, store, mark)
    await say(store, settled(mark))
    await fail(database_url, store, mark)
    await say(store, settled(mark, Effect.NOTHING))

    assert await outcomes(store, record) == {number: "swapped"}
    assert await rows(database_url, "SELECT status, returns FROM ops.letters") == [("resolved", 1)]


async def test_a_step_on_the_way_is_no_outcome(database_url, store):
    (number,) = await archive(database_url, letter_of(succeeded("t1"), queue=EXTRACTOR_QUEUE))
    record = await store.create(order([number]))
    mark = f"{record.id}:{number}"

    await say(store, settled(mark, Effect.MOVED, event="extraction.failed.v1", error="no_model"))
    on_the_way = await outcomes(store, record)
    await say(store, settled(mark, Effect.MOVED, event="extraction.failed.v1", error="no_model"), settled(mark))

    assert on_the_way == {number: "waiting"}
    assert await outcomes(store, record) == {number: "swapped"}


async def test_what_is_no_mark_of_ours_is_refused_alone(database_url, store):
    (number,) = await archive_many(database_url, 1)
    record = await store.create(order([number]))
    said = [settled("no-mark"), settled(f"{uuid4()}:1"), settled(f"{record.id}:{number}")]

    results = await Outcomes(store).handle([wrap(event, source="state", now=NOON) for event in said])

    assert isinstance(results[0], Malformed)
    assert results[1:] == [(), ()]
    assert await outcomes(store, record) == {number: "swapped"}


async def test_rollback_is_audited_once_despite_redelivery(database_url, store):
    event = ModelReverted(
        training_id="t1",
        user_id="ada",
        generation=6,
        model=model_of("t1"),
        previous=model_of("t2"),
        actor="eve",
        reason="too dark",
    )
    (number,) = await archive(database_url, letter_of(wrap(event, source="state", now=NOON), queue=OPS_QUEUE))
    replay = await store.create(order([number]))
    told = wrap(event, source="state", now=NOON)

    await Outcomes(store).handle([told, told])
    await Outcomes(store).handle([replace(told, replay=f"{replay.id}:{number}")])

    noted = await rows(database_url, "SELECT actor, target, reason, outcome FROM ops.audit WHERE action LIKE 'model.%'")
    assert noted == [("eve", "user ada", "too dark", f"generation 6: {model_of('t2')} → {model_of('t1')}")]
    assert await outcomes(store, replay) == {number: "moved"}


@pytest.mark.parametrize(
    ("model", "previous", "noted"),
    [
        (None, model_of("t2"), ("model.withdrawn", f"generation 6: {model_of('t2')} → no model")),
        (model_of("t1"), None, ("model.rolled_back", f"generation 6: no model → {model_of('t1')}")),
    ],
)
async def test_a_withdrawal_and_what_ends_it_stand_in_the_audit(database_url, store, model, previous, noted):
    event = ModelReverted(
        training_id="t1", user_id="ada", generation=6, model=model, previous=previous, actor="eve", reason="not hers"
    )
    (number,) = await archive(database_url, letter_of(wrap(event, source="state", now=NOON), queue=OPS_QUEUE))
    replay = await store.create(order([number]))

    await Outcomes(store).handle([replace(wrap(event, source="state", now=NOON), replay=f"{replay.id}:{number}")])

    assert await rows(database_url, "SELECT action, outcome FROM ops.audit WHERE action LIKE 'model.%'") == [noted]
    assert await outcomes(store, replay) == {number: "moved"}


async def test_a_letter_of_ops_itself_is_settled_by_being_read(database_url, store):
    (one,) = await archive_many(database_url, 1)
    first = await store.create(order([one]))
    lost = wrap(settled(f"{first.id}:{one}"), source="state", now=NOON)
    (two,) = await archive(database_url, letter_of(lost, queue=OPS_QUEUE))
    second = await store.create(order([two]))

    await Outcomes(store).handle([replace(lost, replay=f"{second.id}:{two}")])

    assert await outcomes(store, first) == {one: "swapped"}
    assert await outcomes(store, second) == {two: "moved"}


async def test_webhook_letter_is_sent_as_todays_event(database_url, store, broker):
    def webhook(status: str) -> StoredLetter:
        body = b'{"id": "t1", "status": "%s"}' % status.encode()
        return letter_of(ready("t1"), queue=RECEIVER, headers={"webhook-id": "m1"}, body=body, event_type=None)

    (known, unknown) = await archive(database_url, webhook("aborted"), webhook("dreaming"))
    record = await store.create(order([known, unknown]))

    async with running_engine(store, broker):
        await sent(broker, 1)
        await say(store, settled(f"{record.id}:{known}", Effect.MOVED, event=TrainingCanceled.key))
        done = await until(store, record.id, Status.DONE)

    (message,) = broker.taken
    assert message.routing_key == "training.canceled.v1"
    assert message.headers[REPLAY_HEADER] == f"{record.id}:{known}"
    assert done.outcomes == {"moved": 1, "failed": 1}
    assert await statuses(database_url) == {known: "resolved", unknown: "open"}


# Dry runs


async def test_a_dry_run_says_what_would_be_and_changes_nothing(database_url, store, broker):
    fine = letter_of(succeeded("t1"), queue=EXTRACTOR_QUEUE)
    broken = letter_of(succeeded("t2"), queue=EXTRACTOR_QUEUE)
    late = letter_of(ready("t3"))
    numbers = await archive(database_url, fine, broken, late)

    def extractor(message: Message) -> Answer:
        envelope = message.decode()
        if envelope.event.training_id == "t2":
            return Answer(refusal=Refusal(code="no_model", kind="NoModel", text="none", is_transient=False))
        follows = wrap(ready("t1").event, source="extractor", now=NOON, cause=envelope)
        return Answer(messages=(Message.of(follows),))

    def state(message: Message) -> Answer:
        cause = message.decode()
        assert cause.replay is not None
        effect = Effect.SUPERSEDED if cause.event.training_id == "t3" else Effect.SWAPPED
        return Answer(messages=(Message.of(wrap(settled(cause.replay, effect), source="state", now=NOON)),))

    async with running_engine(store, broker, Answering(extractor, state)):
        record = await store.create(order(numbers, is_dry_run=True))
        made = await until(store, record.id, Status.PREVIEWED)
        looked = await store.list_letters(record.id, outcome=None, limit=10)
        untouched = await statuses(database_url)
        await store.start(record.id, actor="bob", reason="looks good")
        await sent(broker, 3)

    assert made.predictions == {"swapped": 1, "failed": 1, "superseded": 1}
    assert [each.predicted_detail for each in looked] == [
        f"user ada: {model_of('t0')} → {model_of('t1')}",
        "still fails: no_model: none",
        f"superseded: user ada uses a newer one, {model_of('t1')}",
    ]
    assert set(untouched.values()) == {"open"}
    assert set(broker.marks) == {f"{record.id}:{number}" for number in numbers}


async def test_what_is_predicted_to_fail_holds_up_no_other(database_url, store, broker):
    numbers = await archive(database_url, *(letter_of(succeeded(each), queue=EXTRACTOR_QUEUE) for each in ("t1", "t2")))

    def extractor(message: Message) -> Answer:
        envelope = message.decode()
        if envelope.event.training_id == "t1":
            return Answer(refusal=Refusal(code="no_model", kind="NoModel", text="none", is_transient=False))
        return Answer(messages=(Message.of(wrap(ready("t2").event, source="extractor", now=NOON, cause=envelope)),))

    def state(message: Message) -> Answer:
        cause = message.decode()
        assert cause.replay is not None
        return Answer(messages=(Message.of(wrap(settled(cause.replay, Effect.SWAPPED), source="state", now=NOON)),))

    async with running_engine(store, broker, Answering(extractor, state)):
        record = await store.create(order(numbers, is_dry_run=True, steps=(1, "rest")))
        await until(store, record.id, Status.PREVIEWED)
        await store.start(record.id, actor="bob", reason="looks good")
        await sent(broker, 1)
        await say(store, settled(broker.marks[0]))
        await sent(broker, 2)

    assert broker.marks == [f"{record.id}:{number}" for number in reversed(numbers)]


async def test_dry_run_predicts_letters_of_ops_itself(database_url, store, broker):
    lost = wrap(settled(f"{uuid4()}:1"), source="state", now=NOON)
    broken = letter_of(lost, queue=OPS_QUEUE, body=b"{")
    foreign = letter_of(ready("t1"), queue=OPS_QUEUE)
    numbers = await archive(database_url, letter_of(lost, queue=OPS_QUEUE), broken, foreign)

    async with running_engine(store, broker):
        planned = await store.create(order(numbers, is_dry_run=True))
        await until(store, planned.id, Status.PREVIEWED)

    found = await store.list_letters(planned.id, outcome=None, limit=10)
    assert [each.predicted for each in found] == ["moved", "failed", "failed"]
    assert "malformed" in found[1].predicted_detail
    assert "unexpected_event" in found[2].predicted_detail


async def test_service_outage_delays_only_the_dry_run(database_url, store, broker):
    def away(_: Message) -> Answer:
        raise DependencyDown("the extractor is away")

    (looked_at,) = await archive(database_url, letter_of(succeeded("t1"), queue=EXTRACTOR_QUEUE))
    numbers = await archive_many(database_url, 2)
    services = Answering(away)

    async with running_engine(store, broker, services):
        planned = await store.create(order([looked_at], is_dry_run=True))
        await store.create(order(numbers))
        await sent(broker, 2)
        held_up = await until_trouble(store, planned.id)
        services.extractor = lambda _: Answer()
        previewed = await until(store, planned.id, Status.PREVIEWED)

    assert (held_up.status, held_up.trouble) == (Status.PREVIEWING, "the extractor is away")
    assert previewed.trouble == ""


async def test_letters_that_no_service_answers_for_hold_up_no_other(database_url, store, broker):
    numbers = await archive(
        database_url,
        *(letter_of(succeeded(f"poison{n}"), queue=EXTRACTOR_QUEUE) for n in range(20)),
        *(letter_of(succeeded(f"t{n}"), queue=EXTRACTOR_QUEUE) for n in range(20)),
        letter_of(succeeded("bug"), queue=EXTRACTOR_QUEUE),
    )
    is_poisoned = True

    def answer(message: Message) -> Answer:
        training_id = message.decode().event.training_id
        if is_poisoned and training_id.startswith("poison"):
            raise DependencyDown("the extractor answered 500")
        if training_id == "bug":
            raise AssertionError(training_id)
        return Answer()

    async with running_engine(store, broker, Answering(answer)):
        planned = await store.create(order(numbers, is_dry_run=True))
        held_up = await until_found(store, planned.id, lambda found: sum(found.predictions.values()) == 21)
        is_poisoned = False
        done = await until(store, planned.id, Status.PREVIEWED)

    assert held_up.predictions == {"nothing": 20, "failed": 1}
    assert held_up.status is Status.PREVIEWING
    assert (done.predictions, done.trouble) == ({"nothing": 40, "failed": 1}, "")


async def test_a_letter_of_a_dry_run_that_has_ended_is_not_set_aside(database_url, store, broker):
    numbers = await archive(
        database_url, *(letter_of(succeeded(name), queue=EXTRACTOR_QUEUE) for name in ("poison", "t1"))
    )

    def answer(message: Message) -> Answer:
        if message.decode().event.training_id == "poison":
            raise DependencyDown("the extractor answered 500")
        return Answer()

    async def until_aside(count: int) -> None:
        async with asyncio.timeout(60):
            while counted(telemetry.set_aside)[("dead letters of dry runs",)] != count:
                await asyncio.sleep(0.02)

    async with running_engine(store, broker, Answering(answer)):
        planned = await store.create(order(numbers, is_dry_run=True))
        await until_aside(1)
        await store.start(planned.id, actor="bob", reason="looks good enough")

        await until_aside(0)


async def test_a_replay_that_fails_by_itself_holds_up_no_other(database_url, store, broker):
    numbers = await archive_many(database_url, 4)
    poisoned = await store.create(order(numbers[:1]))
    await refuse(database_url, "UPDATE ON ops.replay_letters", f"new.replay_id = '{poisoned.id}'")
    innocent = await store.create(order(numbers[1:]))

    async with running_engine(store, broker):
        async with asyncio.timeout(60):
            while len([mark for mark in broker.marks if mark.startswith(str(innocent.id))]) < 3:
                await asyncio.sleep(0.02)
        held_up = await until_trouble(store, poisoned.id)

    assert (held_up.status, "poison" in held_up.trouble) == (Status.RUNNING, True)


async def test_letters_not_open_at_start_are_skipped(database_url, store, broker):
    (one, two) = await archive_many(database_url, 2)
    async with running_engine(store, broker):
        planned = await store.create(order([one, two], is_dry_run=True))
        await until(store, planned.id, Status.PREVIEWED)
        faster = await store.create(order([one]))
        await store.start(planned.id, actor="ada", reason="")

    found = await outcomes(store, planned)
    assert found[one] == "skipped"
    assert found[two] in ("waiting", "sent")
    assert faster.id != planned.id


async def test_letter_purged_since_the_dry_run_is_skipped(database_url, store, broker):
    (gone, here) = await archive_many(database_url, 2)
    async with running_engine(store, broker):
        planned = await store.create(order([gone, here], is_dry_run=True))
        await until(store, planned.id, Status.PREVIEWED)
        await rows(database_url, "UPDATE ops.letters SET status = 'dropped' WHERE number = $1", gone)
        await rows(database_url, "DELETE FROM ops.letters WHERE number = $1", gone)
        await store.start(planned.id, actor="ada", reason="")
        await sent(broker, 1)
        await say(store, settled(broker.marks[0]))
        done = await until(store, planned.id, Status.DONE)

    assert done.outcomes == {"swapped": 1, "skipped": 1}
    assert (await outcomes(store, planned))[gone] == "skipped"


# Undoing


async def until_undone(store: Store, replay_id: UUID, *, waiting: int = 0, trouble: str | None = None) -> ReplayView:
    """Wait until only so many users are left to look at, and *trouble* is stored if it is given."""
    async with asyncio.timeout(60):
        while True:
            record = await store.find(replay_id)
            is_left = record is not None and record.undo is not None and record.undo.waiting == waiting
            if record is not None and is_left and trouble in (None, record.trouble):
                return record
            await asyncio.sleep(0.02)


async def test_undo_takes_back_what_is_still_current_and_says_why_not(database_url, store, broker):
    numbers = await archive_many(database_url, 5)
    services = Answering(kept={"bob": "the model of user bob has generation 9 now"})
    record = await store.create(order(numbers))
    marks = [f"{record.id}:{number}" for number in numbers]
    await say(
        store,
        settled(marks[0], user_id="ada", generation=5, model=model_of("t1"), previous=model_of("t0")),
        settled(marks[1], user_id="ada", generation=7, model=model_of("t2"), previous=model_of("t1")),
        settled(marks[2], user_id="bob", generation=3),
        settled(marks[3], user_id="eve", generation=1, previous=None),
        settled(marks[4], Effect.NOTHING, user_id="joe", generation=1),
    )

    async with running_engine(store, broker, services):
        await until(store, record.id, Status.DONE)
        await store.undo(record.id, actor="bob", reason="they are all blurred")
        await until_undone(store, record.id)

    found = await store.list_letters(record.id, outcome=None, limit=10)
    assert sorted((each.user_id, each.generation, each.to) for each in services.reverted) == [
        ("ada", 7, str(model_of("t0"))),
        ("bob", 3, str(model_of("t0"))),
        ("eve", 1, None),
    ]
    assert [(each.user_id, each.undo) for each in found] == [
        ("ada", "reverted"),
        ("ada", "reverted"),
        ("bob", "kept"),
        ("eve", "reverted"),
        ("joe", None),
    ]
    assert found[3].undo_detail == "back to no model"
    assert "generation 9" in found[2].undo_detail
    with pytest.raises(NotNow, match="nothing to undo"):
        await store.undo(record.id, actor="bob", reason="once more")


async def test_many_users_of_whom_nobody_can_tell_hold_up_no_other(database_url, store, broker):
    numbers = await archive_many(database_url, 40)
    users = [f"user-{at:02}" for at in range(40)]
    services = Answering(unknown=set(users[:30]))
    record = await store.create(order(numbers))
    await say(
        store,
        *(settled(f"{record.id}:{n}", user_id=user, generation=7) for n, user in zip(numbers, users, strict=True)),
    )

    async with running_engine(store, broker, services):
        await until(store, record.id, Status.DONE)
        await store.undo(record.id, actor="bob", reason="they are all blurred")
        await until_undone(store, record.id, waiting=30)


async def test_failing_user_is_undone_later_and_delays_no_other(database_url, store, broker):
    numbers = await archive_many(database_url, 10)
    services = Answering(unknown={"user-0"})
    record = await store.create(order(numbers))
    marks = [f"{record.id}:{number}" for number in numbers]
    await say(store, *(settled(mark, user_id=f"user-{at}", generation=7) for at, mark in enumerate(marks)))

    async with running_engine(store, broker, services):
        await until(store, record.id, Status.DONE)
        await store.undo(record.id, actor="bob", reason="they are all blurred")
        await until_undone(store, record.id, waiting=1, trouble="nobody knows about user-0")
        services.unknown.clear()
        undone = await until_undone(store, record.id)

    assert undone.undo is not None
    assert (undone.undo.reverted, undone.undo.kept) == (10, 0)


# Much


async def test_twenty_thousand_letters_are_frozen_and_canceled(database_url, store):
    async with connected(database_url) as connection:
        await connection.execute(
            """
            INSERT INTO ops.letters
                (digest, queue, exchange, routing_key, headers, body, error_code, error_class, error_text, traceback,
                 attempts, first_failed_at, last_failed_at, fingerprint)
            SELECT n::text, 'modelswap.state', '', '', '{}', 'x', 'no_model', 'NoModel', '', '', 1, now(), now(), 'a'
            FROM generate_series(1, 20000) n
            """
        )

    record = await store.create(order(Filter(fingerprint="a")))
    canceled = await store.cancel(record.id, actor="ada", reason="too many")

    assert record.outcomes == {"waiting": 20_000}
    assert canceled.outcomes == {"canceled": 20_000}
    assert await rows(database_url, "SELECT status, count(*) FROM ops.letters GROUP BY status") == [("open", 20_000)]
