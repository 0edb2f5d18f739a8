"""Which of our trainings is this one? Replicate's answer decides, and whatever it is, the next one is asked about."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from uuid import UUID

import pytest

from services.state.inquiries import Inquiries
from services.state.swap import UnconfirmedRef
from services.state.transitions import Stage
from services.state.views import TrainingView
from shared.contract.errors import DependencyDown, PermanentError
from shared.contract.events import TrainingEvent, TrainingFailed, TrainingSucceeded
from shared.contract.identity import ModelName
from shared.replicate.webhook_url import Claim, webhook_url
from tests.fakes import FakeReplicate
from tests.state import DESTINATION, NOON, started

SECRETS = ("ref-secret",)
ALICE, BOB = UUID(int=1), UUID(int=2)


def address_of(ref: UUID, destination: ModelName = DESTINATION) -> str:
    return webhook_url("https://hooks.example.com", Claim(ref, destination, None), SECRETS)


def row(ref: UUID, training_id: str | None = None) -> TrainingView:
    return TrainingView(
        ref=ref,
        training_id=training_id,
        user_id=f"user-{ref.int}",
        generation=1,
        destination=DESTINATION,
        trainer=None,
        trigger_word="",
        total_steps=None,
        stage=Stage.REQUESTED,
        step=None,
        progress=0,
        progress_source=None,
        eta_seconds=None,
        eta_low_seconds=None,
        eta_high_seconds=None,
        overdue_at=None,
        reference=None,
        failure=None,
        requested_at=NOON,
        started_at=None,
        completed_at=None,
        updated_at=NOON,
        current=False,
        activated_generation=None,
    )


@dataclass
class Rows:
    """The trainings that are written down, and what was published of them."""

    rows: dict[UUID, TrainingView] = field(default_factory=dict)
    reports: list[TrainingEvent] = field(default_factory=list)

    async def find_training(self, name: str | UUID) -> TrainingView | None:
        if isinstance(name, UUID):
            return self.rows.get(name)
        return next((each for each in self.rows.values() if each.training_id == name), None)

    async def attach(self, record: TrainingView, training_id: str) -> TrainingView:
        known = self.rows[record.ref]
        self.rows[record.ref] = known.model_copy(update={"training_id": known.training_id or training_id})
        return self.rows[record.ref]

    async def report(self, record: TrainingView, event: TrainingEvent) -> None:
        assert event.ref == record.ref
        self.reports.append(event)

    def ids(self) -> list[str | None]:
        return [each.training_id for each in self.rows.values()]


@pytest.fixture
def rows() -> Rows:
    return Rows({ALICE: row(ALICE), BOB: row(BOB)})


@pytest.fixture
def replicate() -> FakeReplicate:
    return FakeReplicate()


@pytest.fixture
async def inquiries(rows: Rows, replicate: FakeReplicate) -> AsyncIterator[Inquiries]:
    stopping = asyncio.Event()
    inquiries = Inquiries(rows, replicate, SECRETS, every_seconds=0, pause_seconds=0)
    running = asyncio.create_task(inquiries.run(stopping))
    yield inquiries
    stopping.set()
    await running


async def until_attached(rows: Rows, ref: UUID) -> None:
    async with asyncio.timeout(60):
        while rows.rows[ref].training_id is None:
            await asyncio.sleep(0)


async def test_a_training_goes_where_replicate_says(rows: Rows, replicate: FakeReplicate, inquiries: Inquiries):
    replicate.add_training("bobs", webhook=address_of(BOB))

    inquiries.ask_about("bobs")
    await until_attached(rows, BOB)

    assert rows.ids() == [None, "bobs"]


async def test_what_replicate_does_not_confirm_goes_nowhere(rows: Rows, replicate: FakeReplicate, inquiries: Inquiries):
    replicate.add_training("silent")
    replicate.add_training("elsewhere", webhook="https://example.com/hook")
    replicate.add_training("unregistered", webhook=address_of(UUID(int=3)))
    replicate.add_training("bobs", webhook=address_of(BOB))

    for name in ("silent", "elsewhere", "unregistered", "not-at-replicate", "bobs"):
        inquiries.ask_about(name)
    await until_attached(rows, BOB)

    assert rows.ids() == [None, "bobs"]


async def test_a_row_that_has_its_training_keeps_it(rows: Rows, replicate: FakeReplicate, inquiries: Inquiries):
    rows.rows[ALICE] = row(ALICE, "alices")
    replicate.add_training("second", webhook=address_of(ALICE))
    replicate.add_training("bobs", webhook=address_of(BOB))

    inquiries.ask_about("second")
    inquiries.ask_about("bobs")
    await until_attached(rows, BOB)

    assert rows.ids() == ["alices", "bobs"]


@pytest.mark.parametrize(
    "error", [DependencyDown("Replicate is away", retry_after_seconds=0), PermanentError("no"), RuntimeError("a bug")]
)
async def test_trouble_with_one_training_delays_no_other(
    error: Exception, rows: Rows, replicate: FakeReplicate, inquiries: Inquiries
):
    replicate.add_training("alices", webhook=address_of(ALICE))
    replicate.add_training("bobs", webhook=address_of(BOB))
    replicate.next_error = error

    inquiries.ask_about("alices")
    inquiries.ask_about("bobs")
    await until_attached(rows, BOB)
    if isinstance(error, DependencyDown):
        await until_attached(rows, ALICE)

    assert rows.ids() == ["alices" if isinstance(error, DependencyDown) else None, "bobs"]


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ({"status": "succeeded", "output": "x"}, TrainingSucceeded),
        ({"status": "failed", "error": "out of memory"}, TrainingFailed),
        ({"status": "processing"}, None),
        ({"status": "new"}, None),
    ],
)
async def test_how_a_registered_training_ended_is_told(
    said: dict[str, str],
    expected: type[TrainingEvent] | None,
    rows: Rows,
    replicate: FakeReplicate,
    inquiries: Inquiries,
):
    rows.rows[ALICE] = row(ALICE, "alices")
    replicate.add_training("alices", **said)
    replicate.add_training("bobs", status="canceled", webhook=address_of(BOB))

    for name in ("alices", "bobs"):
        inquiries.ask_about(name)
    await until_attached(rows, BOB)

    told = [type(event) for event in rows.reports if event.training_id == "alices"]
    assert told == ([expected] if expected else [])
    assert all(event.recovered for event in rows.reports)


async def test_an_end_that_is_known_is_not_told_again(rows: Rows, replicate: FakeReplicate, inquiries: Inquiries):
    rows.rows[ALICE] = row(ALICE, "alices").model_copy(update={"stage": Stage.VERIFYING})
    replicate.add_training("alices")
    replicate.add_training("bobs", status="starting", webhook=address_of(BOB))

    for name in ("alices", "bobs"):
        inquiries.ask_about(name)
    await until_attached(rows, BOB)

    assert rows.reports == []


async def test_while_nothing_waits_there_are_no_rounds(rows: Rows, replicate: FakeReplicate):
    rounds = 0

    class Counted(Inquiries):
        async def _ask_next(self) -> float:
            nonlocal rounds
            rounds += 1
            return await super()._ask_next()

    stopping = asyncio.Event()
    inquiries = Counted(rows, replicate, SECRETS, every_seconds=0)
    replicate.add_training("bobs", webhook=address_of(BOB))
    running = asyncio.create_task(inquiries.run(stopping))
    for _ in range(100):
        await asyncio.sleep(0)
    idle = rounds
    inquiries.ask_about("bobs")
    await until_attached(rows, BOB)
    stopping.set()
    await running

    assert idle == 1


async def test_without_a_token_nothing_is_asked(rows: Rows):
    inquiries = Inquiries(rows, None, SECRETS)

    inquiries.ask_about_unconfirmed([started("bobs")], [UnconfirmedRef("its address names BOB")])

    assert await inquiries._ask_next() > 60
    assert not inquiries._waiting
