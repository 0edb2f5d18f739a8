"""The counts in a list of replays: few rows read, and right after every change. On a real Postgres."""

from __future__ import annotations

import asyncio
import re
from collections import Counter
from collections.abc import AsyncIterator
from uuid import UUID

import pytest

from services.ops.migrate import ROLE
from services.ops.replays.outcomes import LetterOutcome
from services.ops.replays.plan import Outcome, Status
from services.ops.replays.store import Store
from services.ops.replays.store.queries import LIST_REPLAYS
from services.ops.replays.views import ReplayView, UndoView
from shared.runtime.postgres import acquired, connect_pool
from tests.crowd import fill
from tests.databases import copy_of
from tests.replays import Listed, archive_many, opened_replays, order, rows, running_engine, say, settled
from tests.state import connected, execute, model_of, until_blocked_by


@pytest.fixture
async def store(database_url: str) -> AsyncIterator[Store]:
    async with opened_replays(database_url) as store:
        yield store


async def listed(store: Store) -> list[ReplayView]:
    return await store.list_replays(limit=9)


async def agreed(store: Store, database_url: str) -> ReplayView:
    """The one replay: its counts are those of its dead letters, in the list and alone, kept and not kept."""
    (record,) = await listed(store)
    found = await store.list_letters(record.id, outcome=None, limit=99)
    assert record.outcomes == Counter(each.outcome for each in found)
    assert record.predictions == Counter(each.predicted for each in found if each.predicted)
    underway = [each.sent_at for each in found if each.outcome == "sent" and each.sent_at]
    assert record.sent_since == min(underway, default=None)
    for undo in ("reverted", "kept", "waiting"):
        users = {each.user_id for each in found if each.undo == undo}
        assert len(users) == (0 if record.undo is None else getattr(record.undo, undo))
    await store.keep_counts()
    assert ([record], record) == (await listed(store), await store.find(record.id))
    is_at_rest = record.status not in ("previewing", "running") and (
        record.undo is None or record.undo.status == "undone"
    )
    assert is_at_rest == (await rows(database_url, "SELECT counts IS NOT NULL FROM ops.replays"))[0][0]
    return record


async def sent(store: Store, replay_id: UUID, limit: int) -> list[int]:
    """Send the next dead letters, as the engine does."""
    progress = await store.progress(replay_id)
    assert progress is not None
    numbers = [each.number for each in await store.claim(replay_id, limit=limit, next_at=progress.next_at)]
    await store.record(replay_id, sent=numbers, unsent={}, given_back=())
    return numbers


async def failed(store: Store, database_url: str, replay_id: UUID, number: int) -> None:
    async with connected(database_url) as connection, connection.transaction():
        await store.failed(connection, replay_id, number, "as before")


async def test_kept_counts_of_a_dry_run_are_right_after_each_change(database_url, store):
    numbers = await archive_many(database_url, 3)
    record = await store.create(order(numbers, is_dry_run=True))
    await agreed(store, database_url)
    predicted = LetterOutcome(Outcome.SWAPPED, "", "ada", "active", 5, str(model_of("t1")), None)
    await store.remember_predictions(record.id, dict.fromkeys(numbers, predicted))
    await agreed(store, database_url)
    await store.end_preview(record.id)
    previewed = await agreed(store, database_url)
    await execute(database_url, f"UPDATE ops.letters SET status = 'dropped' WHERE number = {numbers[0]}")
    await store.start(record.id, actor="ada", reason="")
    started = await agreed(store, database_url)

    assert (previewed.predictions, previewed.outcomes) == ({"swapped": 3}, {"planned": 3})
    assert started.outcomes == {"skipped": 1, "waiting": 2}


async def test_kept_counts_are_right_after_late_outcomes_and_undos(database_url, store):
    numbers = await archive_many(database_url, 4)
    record = await store.create(order(numbers))
    marks = [f"{record.id}:{number}" for number in numbers]
    await agreed(store, database_url)
    await sent(store, record.id, 4)
    await agreed(store, database_url)
    await say(
        store, *(settled(mark, user_id=user, generation=1) for mark, user in zip(marks, ("ada", "bob"), strict=False))
    )
    await failed(store, database_url, record.id, numbers[2])
    await failed(store, database_url, record.id, numbers[3])
    await agreed(store, database_url)
    await store.end(record.id, Status.DONE, reason="", outcome="")
    done = await agreed(store, database_url)
    # One copy had failed, another one is handled now.
    await say(store, settled(marks[2], user_id="eve"))
    late = await agreed(store, database_url)
    await store.undo(record.id, actor="ada", reason="blurred")
    undoing = await agreed(store, database_url)
    for revert in await store.to_revert(record.id, limit=9):
        await store.remember_revert(revert, kept_because="newer" if revert.user_id == "bob" else None)
        await agreed(store, database_url)
    await store.end_undo(record.id)
    undone = await agreed(store, database_url)
    await say(store, settled(marks[3], user_id="ada", generation=9))
    await agreed(store, database_url)
    await store.undo(record.id, actor="ada", reason="again")
    again = await agreed(store, database_url)

    assert [each.outcomes for each in (done, late)] == [{"swapped": 2, "failed": 2}, {"swapped": 3, "failed": 1}]
    assert undoing.undo == UndoView(status="undoing", actor="ada", reason="blurred", reverted=0, kept=0, waiting=3)
    assert undone.undo == UndoView(status="undone", actor="ada", reason="blurred", reverted=2, kept=1, waiting=0)
    assert again.undo == UndoView(status="undoing", actor="ada", reason="again", reverted=2, kept=1, waiting=1)


async def test_kept_counts_are_right_after_pauses_and_cancels(database_url, store):
    numbers = await archive_many(database_url, 4)
    record = await store.create(order(numbers))
    await sent(store, record.id, 3)
    await store.pause(record.id, actor="ada", reason="")
    paused = await agreed(store, database_url)
    await store.resume(record.id, actor="ada", reason="")
    await store.cancel(record.id, actor="ada", reason="")
    canceled = await agreed(store, database_url)
    await say(store, settled(f"{record.id}:{numbers[0]}"))
    late = await agreed(store, database_url)
    await store.cancel(record.id, actor="ada", reason="")
    given_up = await agreed(store, database_url)

    assert [each.outcomes for each in (paused, canceled, late, given_up)] == [
        {"sent": 3, "waiting": 1},
        {"sent": 3, "canceled": 1},
        {"sent": 2, "canceled": 1, "swapped": 1},
        {"failed": 2, "canceled": 1, "swapped": 1},
    ]


@pytest.fixture
async def ended(database_url: str, store: Store) -> ReplayView:
    """A replay that has ended with two failures."""
    numbers = await archive_many(database_url, 2)
    record = await store.create(order(numbers))
    await sent(store, record.id, 2)
    for number in numbers:
        await failed(store, database_url, record.id, number)
    await store.end(record.id, Status.DONE, reason="", outcome="")
    return record


_LATE = "UPDATE ops.replay_letters SET outcome = 'nothing' WHERE position = 1"


async def test_the_engine_keeps_counts_of_what_has_ended(database_url, store, ended):
    async with running_engine(store, Listed()), asyncio.timeout(60):
        while not (await rows(database_url, "SELECT counts FROM ops.replays"))[0][0]:
            await asyncio.sleep(0.01)

    assert (await listed(store))[0].outcomes == {"failed": 2}


async def test_counts_are_not_kept_while_a_change_is_not_committed(database_url, store, ended):
    async with connected(database_url) as connection, connection.transaction():
        await connection.execute(_LATE)
        while_changing = await store.keep_counts()
        before = await store.find(ended.id)

    assert (while_changing, before.outcomes) == (False, {"failed": 2})
    assert (await agreed(store, database_url)).outcomes == {"failed": 1, "nothing": 1}


async def test_a_change_while_counts_are_being_kept_forgets_them(database_url, store, ended):
    async with connected(database_url) as counting, connected(database_url) as changing:
        transaction = counting.transaction()
        await transaction.start()
        await counting.fetch("SELECT FROM ops.replays FOR UPDATE")
        late = asyncio.create_task(changing.execute(_LATE))
        await until_blocked_by(database_url, counting.get_server_pid())
        await counting.execute("""UPDATE ops.replays SET counts = '{"outcomes": {"failed": 2}, "predictions": {}}'""")
        await transaction.commit()
        await late

    assert (await agreed(store, database_url)).outcomes == {"failed": 1, "nothing": 1}


async def test_a_list_of_replays_at_rest_reads_no_dead_letter(migrated_database):
    async with copy_of(migrated_database) as url:
        await fill(url, trainings=3, letters=4000, groups=3)
        async with opened_replays(url) as store:
            while await store.keep_counts():
                pass
        pool = await connect_pool(url, application_name="test", role=ROLE, min_size=1, max_size=1)
        async with acquired(pool) as connection:
            await connection.execute(f"PREPARE list AS {LIST_REPLAYS}")
            plan = [line[0] for line in await connection.fetch("EXPLAIN (ANALYZE) EXECUTE list (1000, 30)")]
        pool.terminate()

    read = [line for line in plan if re.search(r"Scan .*on replay_letters", line)]
    assert read
    assert all("never executed" in line for line in read)
