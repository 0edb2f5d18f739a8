"""Old rows are found by an index, so that deleting them takes as long as there are old rows, not as there are rows."""

from __future__ import annotations

import asyncio
import re
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, cast

import pytest

from services.notifier.migrate import ROLE as NOTIFIER
from services.notifier.relay import Relay
from services.notifier.store.endpoints import REMOVE_DELIVERIES
from services.notifier.store.relay import FIND_LOST, PRUNE_EVENTS
from services.notifier.store.resending import RESEND_SINCE
from services.ops.letters.store.housekeeping import FORGET_LETTERS, SETTLED
from services.ops.migrate import ROLE as OPS
from services.ops.reconcile.store import PRUNE_RECOVERIES
from services.state.store import ROLE as STATE
from services.state.store.outbox import PRUNE_INBOX, PRUNE_OUTBOX
from shared.runtime.clock import now
from shared.runtime.periodic import keep_house
from shared.runtime.session import PRUNE_KEYS
from tests.databases import copy_of, plan_on_empty_tables
from tests.state import connected


@pytest.mark.parametrize(
    ("role", "statement", "parameters", "found"),
    [
        (STATE, PRUNE_OUTBOX, 2, "Index Cond: (id = ANY ("),
        (STATE, PRUNE_INBOX, 2, "Index Cond: (received_at < (statement_timestamp() - $1))"),
        (STATE, PRUNE_KEYS.format("state"), 2, "Index Cond: (created_at < (statement_timestamp() - $1))"),
        (NOTIFIER, PRUNE_KEYS.format("notifier"), 2, "Index Cond: (created_at < (statement_timestamp() - $1))"),
        (NOTIFIER, PRUNE_EVENTS, 2, "Index Cond: (created_at < (statement_timestamp() - $1))"),
        (OPS, SETTLED, 3, "Index Cond: (status_at < (statement_timestamp() - $1))"),
    ],
    ids=["outbox", "inbox", "keys of state", "keys of the notifier", "events of webhooks", "settled dead letters"],
)
async def test_old_rows_are_found_by_an_index(migrated_database, role, statement, parameters, found):
    plan = await plan_on_empty_tables(migrated_database, role, statement, parameters)

    assert found in plan
    assert "Seq Scan" not in plan


@pytest.mark.parametrize(
    ("role", "statement", "parameters"),
    [
        (STATE, PRUNE_OUTBOX, 2),
        (STATE, PRUNE_INBOX, 2),
        (STATE, PRUNE_KEYS.format("state"), 2),
        (NOTIFIER, PRUNE_EVENTS, 2),
        (NOTIFIER, FIND_LOST, 2),
        (NOTIFIER, RESEND_SINCE, 5),
        (NOTIFIER, REMOVE_DELIVERIES, 1),
        (OPS, FORGET_LETTERS, 1),
        (OPS, PRUNE_RECOVERIES, 1),
    ],
    ids=["outbox", "inbox", "keys", "events", "lost", "sent again", "of an endpoint", "dead letters", "recoveries"],
)
@pytest.mark.parametrize("are_miscounted", [False, True], ids=["empty", "miscounted"])
async def test_chosen_rows_are_compared_with_no_others(migrated_database, role, statement, parameters, are_miscounted):
    plan = await plan_on_empty_tables(migrated_database, role, statement, parameters, are_miscounted=are_miscounted)

    assert re.search(r"Index Cond: \(\w+ = ANY \(", plan)
    assert not re.search(r"Join|Nested Loop", plan), plan


async def test_old_applied_events_are_read_from_few_pages_of_many(migrated_database):
    async with copy_of(migrated_database) as url, connected(url) as connection:
        # Days of a full table: old rows were deleted, and new ones have taken their place, beside those that are kept.
        await connection.execute(
            """INSERT INTO state.inbox (event_id, received_at)
               SELECT md5(n::text), now() - interval '29 days' * (n % 2) FROM generate_series(1, 50000) AS n;
               INSERT INTO state.inbox (event_id, received_at)
               SELECT 'old ' || n, now() - interval '31 days' FROM generate_series(1, 10) AS n"""
        )
        await connection.execute("ANALYZE state.inbox")
        await connection.execute(f"PREPARE statement AS {PRUNE_INBOX}")
        lines = await connection.fetch("EXPLAIN (ANALYZE) EXECUTE statement ('30 days', 5000)")
        left = await connection.fetchval("SELECT count(*) FROM state.inbox")
    plan = "\n".join(line[0] for line in lines)

    assert left == 50_000
    assert "inbox_by_time" in plan
    assert "Rows Removed" not in plan


@dataclass
class Tables:
    """A store in which this many old rows are left, and that ends the test once there are none."""

    old: int
    #: So many of the oldest rows may not be deleted.
    stay: int = 0
    stopping: asyncio.Event = field(default_factory=asyncio.Event)
    rounds: list[int] = field(default_factory=list)

    async def prune(self, limit: int) -> int:
        done = min(self.old, limit - self.stay)
        self.old -= done
        self.rounds.append(done)
        if not self.old:
            self.stopping.set()
        return done

    async def keep_in_order(self, *, lost_before: datetime, limit: int) -> int:
        assert lost_before < now()
        return await self.prune(limit)


async def test_state_prunes_without_a_pause_while_much_is_old():
    tables = Tables(old=12_000, stay=1)

    async with asyncio.timeout(60):
        await keep_house(tables.prune, tables.stopping, batch=5000, pause=300)

    assert tables.rounds == [4999, 4999, 2002]


async def test_the_notifier_prunes_without_a_pause_while_much_is_old():
    tables = Tables(old=2500)

    async with asyncio.timeout(60):
        relay = Relay(cast("Any", tables), cast("Any", None), now=now, lost_after=timedelta(hours=1))
        await relay.keep_in_order(tables.stopping)

    assert tables.rounds == [1000, 1000, 500]
