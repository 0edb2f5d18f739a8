"""Measures pipelines side by side: round 1 of each, round 2 of each, and so on, so that a slow minute meets all."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from tests.bench.run import Run
from tests.bench.usage import cpu_seconds, memory_mb

_IDLE_SECONDS: Final = 3.0
#: A commit is seen before the delivery's ack is sent and counted.
_LAST_ACKS_SECONDS: Final = 0.2


@dataclass(frozen=True, slots=True)
class Plan:
    """How much is measured."""

    rounds: int
    #: Of each round, posted as fast as they are answered.
    trainings: int
    #: Of each round, at *per_second*.
    timed_trainings: int
    warm_up: int = 500
    per_second: float = 50.0


@dataclass(slots=True)
class Measured:
    """What one pipeline did, round by round."""

    name: str
    #: CPU while it had nothing to do and the others neither, in ms per second.
    idle_ms: float = 0.0
    per_second: list[float] = field(default_factory=list)
    #: CPU per training, by process.
    cpu_us: list[Mapping[str, float]] = field(default_factory=list)
    latencies_ms: list[float] = field(default_factory=list)
    #: Of its own processes: after the warm-up, and after each round.
    memory_mb: list[Mapping[str, float]] = field(default_factory=list)
    log_lines_per_training: float = 0.0


async def measure(runs: Sequence[Run], plan: Plan, say: Callable[[str], object]) -> list[Measured]:
    """Measure *runs*, whose processes all run from the first to the last round."""
    for run in runs:
        await run.until_ready()
        await run.throughput(await run.register(plan.warm_up))
        say(f"{run.name}: warm")
    results = {run: Measured(run.name) for run in runs}
    await _measure_idle(results)
    for number in range(plan.rounds):
        # There and back, so that none always follows the same one.
        for run in runs if number % 2 == 0 else reversed(runs):
            result = results[run]
            await measure_round(run, plan, result)
            speed, cpu = result.per_second[-1], sum(result.cpu_us[-1].values())
            say(f"round {number + 1} of {plan.rounds}, {run.name}: {speed:.0f} trainings/s, {cpu:.0f} µs CPU each")
    return list(results.values())


async def _measure_idle(results: Mapping[Run, Measured]) -> None:
    await asyncio.sleep(_LAST_ACKS_SECONDS)
    before = {run: sum(cpu_seconds(run.own()).values()) for run in results}
    await asyncio.sleep(_IDLE_SECONDS)
    for run, result in results.items():
        result.idle_ms = (sum(cpu_seconds(run.own()).values()) - before[run]) / _IDLE_SECONDS * 1000
        result.memory_mb.append(memory_mb(run.own()))


async def measure_round(run: Run, plan: Plan, result: Measured) -> None:
    """Measure one round of *run* into *result*."""
    trainings = await run.register(plan.trainings)  # no part of the walk that is measured
    lines, before = run.log_lines(), cpu_seconds(run.everybody())
    result.per_second.append(await run.throughput(trainings))
    await asyncio.sleep(_LAST_ACKS_SECONDS)
    after = cpu_seconds(run.everybody())
    result.cpu_us.append({name: (after[name] - before[name]) / plan.trainings * 1e6 for name in after})
    result.log_lines_per_training = (run.log_lines() - lines) / plan.trainings
    if plan.timed_trainings:
        timed = await run.register(plan.timed_trainings)
        result.latencies_ms += await run.latencies_ms(timed, plan.per_second)
    result.memory_mb.append(memory_mb(run.own()))
