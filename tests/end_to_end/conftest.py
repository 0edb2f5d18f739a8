"""A webhook walks to a commit: every process of the product, real servers, and a Replicate to order."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Callable, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any, Final
from uuid import uuid4

import pytest
from playwright.async_api import Browser

from deploy.local import Servers
from deploy.local.errors import Unavailable
from services.simulator.app import running
from services.simulator.faults import Behaviour, Faults
from services.simulator.job import NEVER, Life, Status
from services.simulator.models import Version
from services.simulator.simulator import Simulator
from services.simulator.training import Training
from services.simulator.world import World
from shared.contract.identity import ModelRef
from shared.contract.topology import topology
from shared.runtime.clock import now
from shared.runtime.settings import StateSettings
from tests.broker import Broker
from tests.chromium import chromium
from tests.databases import new_database
from tests.servers import Urls
from tests.shell import Shell
from tests.stack import WEBHOOK_SECRET, Stack, make_broker_users

#: Recorded webhooks name versions that no simulated training made.
RECORDED: Final = "925da5f563c07bb620a3bf3cc2185079b1cfc7d62f47a9c234e67dbc36eab738"
SELF_STARTED: Final = "b" * 64
#: As many steps as by default, in a quarter of the time: several tests wait for the end of them.
_HURRY: Final = {"MODELSWAP_RETRY_DELAYS": "100ms,200ms,400ms,400ms,500ms,500ms,500ms,500ms"}


class RecordedWorld(World):
    """
    A Replicate that knows the versions of the recorded webhooks as well.

    Of a training that was never created here it says once that it is queued: so it can be registered. From then on it
    is removed.
    """

    def __init__(self, simulator: Simulator) -> None:
        super().__init__(simulator.knobs, changed=simulator.changed)
        self._removed: set[str] = set()

    def remove(self, training_id: str) -> None:
        """Know nothing of the training any more."""
        self._trainings.pop(training_id, None)
        self._removed.add(training_id)

    def find_training(self, training_id: str) -> Training | None:
        found = super().find_training(training_id)
        if found is not None or training_id in self._removed:
            return found
        self._removed.add(training_id)
        return recorded(training_id)

    def find_version(self, reference: str, *, now: datetime) -> Version | None:
        ref = ModelRef.parse(reference)
        if ref and ref.version in (RECORDED, SELF_STARTED):
            return Version(str(ref.model), ref.version, now, has_prompt=True, behaviour=Behaviour.WORKS)
        return super().find_version(reference, now=now)


def recorded(training_id: str) -> Training:
    """A training that is queued for ever."""
    return Training(
        id=training_id,
        model="ostris/flux-dev-lora-trainer",
        version="e" * 64,
        input={},
        created_at=now(),
        speed=1.0,
        api_url="http://127.0.0.1",
        life=Life(NEVER, NEVER, Status.SUCCEEDED),
        destination="acme/recorded",
        makes=SELF_STARTED,
        webhook="",
        events=frozenset(),
        run_seconds=1.0,
        faults=Faults(),
    )


@contextlib.asynccontextmanager
async def open_stack(
    folder: Path, servers: Urls | Servers, *, settings: Mapping[str, str] | None = None, **knobs: Any
) -> AsyncIterator[tuple[Stack, Simulator]]:
    """
    Every process, on a broker with empty queues and a database of its own.

    Each has just its own rights on the broker, if the management API is known. *settings* are the processes', beside
    those that they need; *knobs* are the simulator's.
    """
    simulator = Simulator(**{"speed": 300.0, "secret": WEBHOOK_SECRET, **knobs})
    simulator.world = RecordedWorld(simulator)
    async with running(simulator) as replicate_url, new_database(servers.database_url) as database:
        stack = Stack(
            folder,
            amqp_url=servers.amqp_url,
            database_url=database,
            replicate_url=replicate_url,
            settings=settings,
            has_users=bool(servers.management_url),
        )
        plan = topology(StateSettings.load(stack.environment).retry_delays)
        async with Broker(servers.amqp_url, plan) as stack.broker:
            if servers.management_url:
                await make_broker_users(servers.management_url, plan)
            async with stack:
                yield stack, simulator


@pytest.fixture(scope="module")
async def walk(servers: Urls, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[tuple[Stack, Simulator]]:
    """One product for all tests of a module; each has users and trainings of its own."""
    folder = tmp_path_factory.mktemp("walk")
    async with open_stack(folder, servers, settings=_HURRY) as opened:
        yield opened


@pytest.fixture
def stack(walk: tuple[Stack, Simulator]) -> Stack:
    return walk[0]


@pytest.fixture
def simulator(walk: tuple[Stack, Simulator]) -> Simulator:
    return walk[1]


@pytest.fixture
def settings(stack: Stack) -> dict[str, str]:
    names = {"OPS": "ops", "NOTIFIER": "notifier", "RECEIVER": "receiver"}
    urls = {f"MODELSWAP_{name}_URL": stack.url(process) for name, process in names.items()}
    return {**stack.environment, **urls}


@pytest.fixture
def shell(settings: dict[str, str]) -> Shell:
    return Shell(settings)


@pytest.fixture
def user() -> str:
    return f"cli-{uuid4().hex[:8]}"


@pytest.fixture(scope="session")
async def browser(say: Callable[[str], None]) -> AsyncIterator[Browser]:
    """A Chromium; where none can be had, the tests that ask for it are skipped with the reason."""
    async with contextlib.AsyncExitStack() as stack:
        try:
            opened = await stack.enter_async_context(chromium(say))
        except Unavailable as error:
            pytest.skip(str(error))
        yield opened
