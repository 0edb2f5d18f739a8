"""When a dependency that was down is asked again, and by whom."""

from __future__ import annotations

import asyncio
import contextlib

import pytest
from structlog.testing import capture_logs

from shared.contract.errors import DependencyDown
from shared.runtime.broker.circuit import CircuitBreaker, NotTried, dependency_answered


async def fail() -> None:
    raise DependencyDown("Postgres is away")


async def pass_() -> str:
    return "answer"


@pytest.fixture
async def circuit() -> CircuitBreaker:
    """An open one."""
    circuit = CircuitBreaker("a queue")
    with pytest.raises(DependencyDown):
        await circuit.call(fail, asyncio.sleep)
    return circuit


async def test_an_answer_closes_the_circuit(circuit: CircuitBreaker):
    assert circuit.reason == "Postgres is away"

    assert await circuit.call(pass_, asyncio.sleep) == "answer"

    assert circuit.reason is None


async def test_an_error_is_an_answer(circuit: CircuitBreaker):
    async def refuse() -> None:
        raise ValueError("no training")

    with pytest.raises(ValueError, match="no training"):
        await circuit.call(refuse, asyncio.sleep)

    assert circuit.reason is None


async def test_work_that_was_not_tried_leaves_the_circuit_open(circuit: CircuitBreaker):
    async def give_up() -> None:
        raise NotTried

    with pytest.raises(NotTried):
        await circuit.call(give_up, asyncio.sleep)

    assert circuit.reason == "Postgres is away"


async def test_while_open_one_at_a_time_tries(circuit: CircuitBreaker):
    running = most = 0

    async def watch() -> None:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await asyncio.sleep(0)
        running -= 1
        raise DependencyDown("still away")

    await asyncio.gather(*(circuit.call(watch, asyncio.sleep) for _ in range(3)), return_exceptions=True)

    assert most == 1


async def test_failures_of_work_begun_while_closed_count_once():
    circuit = CircuitBreaker("a queue")
    all_begun = asyncio.Barrier(5)

    async def fail_together() -> None:
        await all_begun.wait()
        await fail()

    await asyncio.gather(*(circuit.call(fail_together, asyncio.sleep) for _ in range(5)), return_exceptions=True)

    with capture_logs() as logs:
        await circuit.call(pass_, asyncio.sleep)

    # The wait before a probe doubles with each failure.
    assert [(line["event"], line["probes"]) for line in logs] == [("consumer.resumed", 1)]


async def test_it_is_never_asked_sooner_than_it_told(circuit: CircuitBreaker):
    async def told() -> None:
        raise DependencyDown("too many requests", retry_after_seconds=3600)

    with pytest.raises(DependencyDown):
        await circuit.call(told, asyncio.sleep)

    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.3):  # more than the first wait of its own
            await circuit.call(pass_, asyncio.sleep)


async def test_an_answer_in_the_middle_of_the_work_lets_others_run(circuit: CircuitBreaker):
    others_ran = asyncio.Event()

    async def poll() -> None:
        dependency_answered()
        await others_ran.wait()

    async def other() -> None:
        others_ran.set()

    async with asyncio.timeout(60):
        await asyncio.gather(circuit.call(poll, asyncio.sleep), circuit.call(other, asyncio.sleep))

    assert circuit.reason is None


async def test_work_that_fails_after_an_answer_opens_the_circuit_again(circuit: CircuitBreaker):
    async def answer_then_fail() -> None:
        dependency_answered()
        raise DependencyDown("away again")

    with pytest.raises(DependencyDown):
        await circuit.call(answer_then_fail, asyncio.sleep)

    assert circuit.reason == "away again"
    assert await circuit.call(pass_, asyncio.sleep) == "answer"


async def test_an_answer_to_work_that_is_no_probe_leaves_the_circuit_open(circuit: CircuitBreaker):
    dependency_answered()

    assert circuit.reason == "Postgres is away"


async def test_work_that_fails_again_does_not_keep_others_from_probing(circuit: CircuitBreaker):
    async def fail_for_ever() -> None:
        while True:
            with contextlib.suppress(DependencyDown):
                await circuit.call(fail, asyncio.sleep)

    failing = asyncio.create_task(fail_for_ever())
    await asyncio.sleep(0)

    async with asyncio.timeout(60):
        assert await circuit.call(pass_, asyncio.sleep) == "answer"
    failing.cancel()


async def test_a_wait_that_is_broken_off_leaves_the_circuit_open_and_its_turn_free(circuit: CircuitBreaker):
    async def break_off(_: float) -> None:
        raise NotTried

    with pytest.raises(NotTried):
        await circuit.call(pass_, break_off)

    assert circuit.reason == "Postgres is away"
    assert await circuit.call(pass_, asyncio.sleep) == "answer"


async def test_work_that_waited_is_not_begun_if_it_is_not_wanted_any_more(circuit: CircuitBreaker):
    may_end, tried = asyncio.Event(), False

    async def probe() -> None:
        await may_end.wait()

    async def work() -> None:
        nonlocal tried
        tried = True

    async def break_off(_: float) -> None:
        raise NotTried

    probing = asyncio.create_task(circuit.call(probe, asyncio.sleep))
    await asyncio.sleep(0)
    waiting = asyncio.create_task(circuit.call(work, break_off))
    await asyncio.sleep(0)
    may_end.set()
    await probing

    with pytest.raises(NotTried):
        await waiting
    assert circuit.reason is None
    assert not tried
