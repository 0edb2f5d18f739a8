"""What does the database refuse, whatever the code above it does? Raw SQL, in the role that the service acts in."""

from __future__ import annotations

from collections.abc import AsyncIterator
from uuid import UUID

import asyncpg
import pytest

from services.state.store import ROLE
from shared.runtime.postgres import Connection, acquired, connect_pool
from tests.state import connected, model_of, opened_store, ready, registration

FORBIDDEN = "42501"
NOT_NULL = "23502"
FOREIGN = "23503"
DOUBLE = "23505"
CHECK = "23514"
TWO_ACTIVE = "23P01"

OF_ADA = "WHERE user_id = 'ada'"
VERSION = model_of("new").version
REF = UUID("0193f0c0-0000-7000-8000-00000000000a")


@pytest.fixture
async def connection(database_url: str) -> AsyncIterator[Connection]:
    """Ada uses the model of her second training, bob that of his first; ada's third still runs."""
    async with opened_store(database_url) as store:
        for user_id, training_id in (("ada", "t1"), ("ada", "t2"), ("ada", "t3"), ("bob", "b1")):
            await store.adopt(registration(user_id, training_id))
        assert await store.apply([ready("t1"), ready("t2"), ready("b1")]) == [None] * 3
    pool = await connect_pool(database_url, application_name="test", role=ROLE, min_size=1, max_size=1)
    async with acquired(pool) as connection:
        yield connection
    pool.terminate()


def update(what: str, table: str = "user_models", where: str = OF_ADA) -> str:
    return f"UPDATE state.{table} SET {what} {where}"


DRAW = f"UPDATE state.users SET next_generation = 5 {OF_ADA}"
TAKE_AWAY = f"DELETE FROM state.user_models {OF_ADA}"
#: As the history has it, of generation 2; and as that of the withdrawal.
BACK_AGAIN = f"""INSERT INTO state.user_models (user_id, generation, ref, model, trigger_word, activated_at)
    SELECT user_id, generation, ref, model, trigger_word, at FROM state.model_history {OF_ADA} AND generation = 2"""
AS_THE_WITHDRAWAL = BACK_AGAIN.replace("SELECT user_id, generation,", "SELECT user_id, 4,")


def withdrawal(
    generation: int, training_id: str, *, cause: str = "withdrawal", model: str = "NULL", previous: str = "model"
) -> str:
    """A line of ada's history: the model of that training is taken away."""
    return f"""INSERT INTO state.model_history
        (user_id, generation, ref, model, trigger_word, cause, previous_model, actor, reason)
        SELECT 'ada', {generation}, ref, {model}, '', '{cause}', {previous}, 'olga', ''
        FROM state.trainings WHERE training_id = '{training_id}'"""


# A model that is lost, halved, turned back, or another user's.
REFUSED = [
    # gone
    ("DELETE FROM state.user_models", CHECK),
    (f"DELETE FROM state.user_models {OF_ADA}", CHECK),
    ("TRUNCATE state.user_models", FORBIDDEN),
    ("TRUNCATE state.users CASCADE", FORBIDDEN),
    ("DELETE FROM state.users", FORBIDDEN),
    ("DELETE FROM state.trainings", FORBIDDEN),
    (update("user_id = 'eve'"), CHECK),
    # null or half
    *(
        (update(f"{column} = NULL, generation = 9" if column != "generation" else "generation = NULL"), NOT_NULL)
        for column in ("generation", "ref", "model", "trigger_word", "activated_at")
    ),
    (update("user_id = NULL, generation = 9"), CHECK),
    *(
        (update(f"generation = 9, model = '{model}'"), CHECK)
        for model in ("", "null:null", "acme/ada", "acme/ada:", f"acme/ada:{VERSION[:8]}", VERSION, f":{VERSION}")
    ),
    (update(f"generation = 9, model = 'acme/ada:{VERSION.upper()}'"), CHECK),
    (update(f"generation = 9, model = E'acme/ada:{VERSION}\\n'"), CHECK),
    # turned back
    (update("generation = 1"), CHECK),
    (update("generation = generation"), CHECK),
    (update("generation = -1"), CHECK),
    (update("next_generation = 1", "users"), CHECK),
    (update("next_generation = next_generation - 1", "users"), CHECK),
    # somebody else's, or nobody's
    (update(f"generation = 9, model = 'acme/ada:{VERSION}'"), FOREIGN),
    (update(f"generation = 9, model = '{model_of('b1')}'"), FOREIGN),
    (update("generation = 9, ref = (SELECT ref FROM state.trainings WHERE training_id = 'b1')"), FOREIGN),
    (update("generation = 9, ref = gen_random_uuid()"), FOREIGN),
    (update("generation = 3"), FOREIGN),
    (
        """INSERT INTO state.user_models SELECT 'eve', generation, ref, model, trigger_word, activated_at
           FROM state.user_models WHERE user_id = 'bob'""",
        FOREIGN,
    ),
    (
        """INSERT INTO state.model_history (user_id, generation, ref, model, trigger_word, cause, actor, reason)
           SELECT 'ada', 9, ref, model, '', 'training', '', '' FROM state.user_models WHERE user_id = 'bob'""",
        FOREIGN,
    ),
    # a training that says what is not so
    (update("user_id = 'bob'", "trainings"), FORBIDDEN),
    (update("generation = 9", "trainings"), FORBIDDEN),
    (update("destination = 'acme/eve'", "trainings"), FORBIDDEN),
    (update("stage = 'active'", "trainings", "WHERE training_id = 't3'"), CHECK),
    (update("stage = 'superseded'", "trainings", "WHERE training_id = 't3'"), CHECK),
    (update("stage = 'failed'", "trainings", "WHERE training_id = 't3'"), CHECK),
    (update("stage = 'nonsense'", "trainings"), CHECK),
    (update("stage = 'active'", "trainings", "WHERE training_id = 't1'"), TWO_ACTIVE),
    (update("model = NULL, stage = 'running'", "trainings", "WHERE training_id = 't2'"), FOREIGN),
    (
        update(f"stage = 'active', model = 'acme/eve:{VERSION}'", "trainings", "WHERE training_id = 't3'"),
        CHECK,
    ),
    (update(f"model = 'acme/ada:{VERSION}'", "trainings", "WHERE training_id = 't2'"), FOREIGN),
    (update("training_id = NULL", "trainings", "WHERE training_id = 't2'"), CHECK),
    (update("training_id = 't1'", "trainings", "WHERE training_id = 't3'"), DOUBLE),
    # an id that would be taken for a ref
    *(
        (update(f"training_id = '{name}'", "trainings", "WHERE training_id = 't3'"), CHECK)
        for name in (str(REF), REF.hex, REF.hex.upper(), f"0-1{REF.hex[2:]}")
    ),
    (update("progress = 100, progress_source = 'log', progress_at = now()", "trainings"), CHECK),
    # withdrawn, but not gone; without a line of the history; of no generation of hers, or of no model of hers
    (f"{DRAW}; {withdrawal(4, 't2')}", CHECK),
    (f"{withdrawal(4, 't2')}; {TAKE_AWAY}", CHECK),
    (f"{DRAW}; {withdrawal(9, 't2')}; {TAKE_AWAY}", CHECK),
    (f"{DRAW}; {withdrawal(2, 't2')}; {TAKE_AWAY}", DOUBLE),
    (f"{DRAW}; {withdrawal(4, 't1')}; {TAKE_AWAY}", CHECK),
    (f"{DRAW}; {withdrawal(4, 'b1')}; {TAKE_AWAY}", CHECK),
    (f"{DRAW}; {withdrawal(4, 't2', cause='rollback')}; {TAKE_AWAY}", CHECK),
    (f"{DRAW}; {withdrawal(4, 't2', model='model')}; {TAKE_AWAY}", CHECK),
    (f"{DRAW}; {withdrawal(4, 't2', previous='NULL')}; {TAKE_AWAY}", CHECK),
    (f"{DRAW}; {withdrawal(4, 't2')}; DELETE FROM state.user_models", CHECK),
    (f"{DRAW}; {withdrawal(4, 't2')}; {TAKE_AWAY}; {BACK_AGAIN}", CHECK),
    (f"{DRAW}; {withdrawal(4, 't2')}; {TAKE_AWAY}; {AS_THE_WITHDRAWAL}", CHECK),
    # another past
    ("UPDATE state.model_history SET reason = 'nothing happened'", FORBIDDEN),
    ("DELETE FROM state.model_history", FORBIDDEN),
    ("TRUNCATE state.model_history", FORBIDDEN),
    ("UPDATE state.outbox SET body = '{}'", FORBIDDEN),
    # other rights
    ("CREATE TABLE state.mine ()", FORBIDDEN),
    ("DROP TABLE state.user_models", FORBIDDEN),
    ("ALTER TABLE state.user_models DISABLE TRIGGER ALL", FORBIDDEN),
    ("DROP FUNCTION state.guard_user_models() CASCADE", FORBIDDEN),
    ("DELETE FROM state.migrations", FORBIDDEN),
    ("CREATE ROLE mine", FORBIDDEN),
    ("COPY state.users TO PROGRAM 'true'", FORBIDDEN),
]


async def test_whatever_would_harm_a_model_is_refused(connection):
    before = await connection.fetch("SELECT * FROM state.user_models ORDER BY user_id")

    answers = [(statement, await answer_to(connection, statement)) for statement, _ in REFUSED]

    assert answers == REFUSED
    assert before == await connection.fetch("SELECT * FROM state.user_models ORDER BY user_id")


async def answer_to(connection: Connection, statement: str) -> str:
    """The SQLSTATE of a refusal, or what was done."""
    try:
        return await connection.execute(statement)
    except asyncpg.PostgresError as refusal:
        return str(refusal.sqlstate)


async def test_a_model_is_taken_away_with_a_withdrawal_in_the_history(connection):
    await connection.execute(f"{DRAW}; {withdrawal(4, 't2')}; {TAKE_AWAY}")

    assert [row["user_id"] for row in await connection.fetch("SELECT user_id FROM state.user_models")] == ["bob"]
    assert await answer_to(connection, BACK_AGAIN) == CHECK
    assert await answer_to(connection, AS_THE_WITHDRAWAL) == CHECK


async def test_even_the_owner_can_not_take_a_model_away(connection, database_url):
    async with connected(database_url) as owner:
        for statement in ("DELETE FROM state.user_models", "TRUNCATE state.user_models", update("generation = 1")):
            with pytest.raises(asyncpg.CheckViolationError):
                await owner.execute(statement)


async def test_the_owner_can_delete_the_model_of_a_deleted_user(connection, database_url):
    async with connected(database_url) as owner:
        await owner.execute(f"UPDATE state.users SET deleted_at = now() {OF_ADA}")
        await owner.execute(f"DELETE FROM state.user_models {OF_ADA}")

    assert [row["user_id"] for row in await connection.fetch("SELECT user_id FROM state.user_models")] == ["bob"]


async def test_a_service_acts_in_its_role_whatever_its_login(connection):
    assert await connection.fetchval("SELECT current_user") == ROLE
    assert await connection.fetchval("SELECT current_setting('is_superuser')") == "off"
