"""
The shipped alerts, evaluated by a real Prometheus over a stack that is really broken.

    pytest tests/end_to_end/test_alerts.py     one case
    make alerts                                all, and a table of what fired

Times are divided, so that minutes are seconds. Each case has a Prometheus of its own, which has seen nothing before.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Final

import httpx
import pytest

from tests.alerts import CASES, LASTING, described
from tests.breakages import SETTINGS, Broken, Case, dead_process, subscriber_away
from tests.dashboards import boards, expressions
from tests.end_to_end.conftest import open_stack
from tests.lossy import readiness
from tests.prometheus import Prometheus, running_prometheus, serve_metrics
from tests.servers import Urls, private_servers
from tests.stack import Stack, free_port

pytestmark = [pytest.mark.alerts, pytest.mark.own_servers]

_FIRES_SECONDS: Final = 120
_ENDS_SECONDS: Final = 120
_QUIET_SECONDS: Final = 15
_POLL_SECONDS: Final = 0.2


@pytest.fixture(scope="module")
async def broken(say: Callable[[str], None], tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Broken]:
    """One stack, on servers of its own, for all cases: each leaves it whole."""
    with private_servers(say) as servers:
        async with open_stack(
            tmp_path_factory.mktemp("alerts"),
            # As one user, who may declare: only then state compares the events log with the plan.
            Urls(servers.amqp_url, servers.database_url),
            settings=SETTINGS | {"MODELSWAP_MANAGEMENT_URL": servers.management_url},
            retry_delays_real_seconds=(0.5, 1, 2, 4),
        ) as (stack, simulator):
            yield Broken(stack, simulator, servers, free_port())


@pytest.fixture(scope="module")
def table(say: Callable[[str], None]) -> Iterator[list[str]]:
    """What each case came to, shown at the end."""
    lines: list[str] = []
    yield lines
    say(
        "\n".join(
            [
                "| what is broken | alerts that fired | after | over after | /readyz says |",
                "|---|---|---|---|---|",
                *lines,
            ]
        )
    )


async def troubles(stack: Stack) -> str:
    """What the processes that answer say at /readyz of that which is not well."""
    said = []
    for name in stack.ports:
        with contextlib.suppress(httpx.TransportError):
            _, checks = await readiness(stack, name)
            said += [f"{name} {part}: {trouble}" for part, trouble in checks.items() if trouble != "ok"]
    return "; ".join(said)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "case" in metafunc.fixturenames:
        is_asked_for = "alerts" in metafunc.config.getoption("markexpr")
        cases = list(CASES) if is_asked_for else [dead_process]
        metafunc.parametrize("case", cases, ids=lambda case: case.__name__)


async def wait_until(done: Callable[[], Awaitable[bool]], seconds: float) -> float:
    """Wait until *done*, but at most so many *seconds*; return how long it took."""
    begun = time.monotonic()
    while time.monotonic() - begun < seconds and not await done():
        await asyncio.sleep(_POLL_SECONDS)
    return time.monotonic() - begun


async def test_every_panel_shows_something_while_trainings_run(
    request: pytest.FixtureRequest, broken: Broken, tmp_path: Path
):
    if "alerts" not in request.config.getoption("markexpr"):
        pytest.skip("dashboards are asked with `pytest -m alerts` only")
    asked = [expression for board in boards().values() for expression in expressions(board)]
    async with watched(broken, tmp_path, times_faster=60) as prometheus:

        async def all_are_shown() -> bool:
            await broken.train_to_the_end(1)
            return not await prometheus.without_values(asked)

        # With a subscription, and an alert that fires.
        async with subscriber_away(broken):
            await wait_until(all_are_shown, _FIRES_SECONDS)
            missing = await prometheus.without_values(asked)

    assert missing == []


@contextlib.asynccontextmanager
async def watched(broken: Broken, folder: Path, *, times_faster: int) -> AsyncIterator[Prometheus]:
    """Run a Prometheus over the whole stack, as soon as that is ready."""
    await broken.stack.until_ready()
    # Again: it may have been restarted.
    serve_metrics(broken.servers.rabbitmq, broken.rabbitmq_port)
    ports = broken.stack.ports | {"rabbitmq": broken.rabbitmq_port}
    async with running_prometheus(folder / "prometheus", ports, times_faster=times_faster) as prometheus:
        yield prometheus


async def test_alerts_fire_on_what_is_broken_alone(broken: Broken, table: list[str], tmp_path: Path, case: Case):
    expected = CASES[case]
    async with watched(broken, tmp_path, times_faster=expected.times_faster) as prometheus:

        async def all_fired() -> bool:
            return expected.must <= await prometheus.fired()

        async def none_fires() -> bool:
            return await prometheus.firing() <= LASTING

        async with case(broken):
            broken_for = await wait_until(all_fired, _FIRES_SECONDS)
            # Then others would have fired, too.
            await asyncio.sleep(_QUIET_SECONDS - broken_for)
            fired = await prometheus.fired()
            said = await troubles(broken.stack)
        quiet_after = await wait_until(none_fires, _ENDS_SECONDS)
        still = await prometheus.firing() - LASTING

    row = [described(case), ", ".join(sorted(fired)) or "none", f"{broken_for:.0f} s", f"{quiet_after:.0f} s", said]
    table.append(f"| {' | '.join(row)} |")
    assert expected.must <= fired
    assert fired <= expected.must | expected.may
    assert still == set()
