"""
Health of a process: its own report, and how `modelswap doctor` and the operators' API judge it. Pure.

`shared.runtime.processes` fetches the reports.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

from pydantic import BaseModel

OK: Final = "ok"
#: What texts about an outage begin with: one cause has many effects, and each of them names it.
POSTGRES_AWAY: Final = "Postgres is away"
RABBITMQ_AWAY: Final = "RabbitMQ does not answer"
_SAID_OF: Final = {POSTGRES_AWAY: (POSTGRES_AWAY, "database_down"), RABBITMQ_AWAY: (RABBITMQ_AWAY,)}
#: A message that waits longer is stuck.
HELD_UP_SECONDS: Final = 60.0
#: What to do about what a check says, if the runbook knows.
_REMEDIES: Final = {
    "gap": '"Webhooks were missed" in deploy/runbook.md',
    "events_log": '"The events log" in deploy/runbook.md',
}


class Health(BaseModel):
    """A process's report about itself: the response of ``/readyz``."""

    #: ``ok`` if it can do its work, except what may be lost.
    status: str
    version: str
    #: For each check ``ok``, or what is wrong.
    checks: Mapping[str, str]
    #: For each loop that has set items aside, how many.
    set_aside: Mapping[str, str] = {}
    #: For each queue that it consumes ``ok``, or why its messages are not handled now.
    consumers: Mapping[str, str] = {}

    @property
    def is_ready(self) -> bool:
        return self.status == OK

    @property
    def problems(self) -> list[str]:
        """What is wrong, each once, after the names of the checks that say so."""
        names: dict[str, list[str]] = {}
        for name, text in self.checks.items():
            if text != OK:
                names.setdefault(text, []).append(name)
        return [f"{', '.join(those)}: {text}" for text, those in names.items()]

    @property
    def paused(self) -> dict[str, str]:
        """Why the messages of a queue are not handled now, by queue."""
        return {queue: text for queue, text in self.consumers.items() if text != OK}


class ProcessState(StrEnum):
    """How a process is."""

    READY = "ready"  #: It does all its work.
    LIMITED = "limited"  #: It is ready, but something needs an operator.
    NOT_READY = "not_ready"  #: It runs, and waits for a dependency.
    HANGS = "hangs"  #: It takes connections, and does not answer in time.
    AWAY = "away"  #: Nothing listens at its address.
    UNKNOWN = "unknown"  #: Something else answers at its address, or another version.


@dataclass(frozen=True, slots=True)
class Seen:
    """How a process was found."""

    state: ProcessState
    #: What was found, in a sentence.
    detail: str
    #: What to do about it; empty: nothing.
    then: str = ""
    #: None if it sent no report.
    health: Health | None = None
    #: Age in seconds of the oldest message that it works on, by queue.
    oldest: Mapping[str, float] = field(default_factory=dict)


def judge(name: str, health: Health, version: str, oldest: Mapping[str, float] | None = None) -> Seen:
    """Judge the report of the process *name*; *version* is the one that it should have."""
    state, then = ProcessState.LIMITED, f"fix that; log of {name}"
    if health.problems:
        readiness = "is ready, but" if health.is_ready else "is not ready"
        detail = f"{readiness}: {'; '.join(health.problems)}"
        state = ProcessState.LIMITED if health.is_ready else ProcessState.NOT_READY
        then = next((said for check, said in _REMEDIES.items() if health.checks.get(check, OK) != OK), then)
    elif health.set_aside:
        held = "; ".join(f"{loop}: {text}" for loop, text in health.set_aside.items())
        detail, then = f"ready, but {held}", '"Items are set aside" in deploy/runbook.md'
    elif health.version != version:
        detail, then = f"is version {health.version}, and this one {version}", f"restart {name}"
    else:
        state, detail, then = ProcessState.READY, f"ready, version {health.version}", ""
    return Seen(state, detail, then, health, oldest or {})


def follows_from(text: str) -> str | None:
    """Return the outage that *text* follows from, `POSTGRES_AWAY` or `RABBITMQ_AWAY`; None: it names neither."""
    return next((cause for cause, said in _SAID_OF.items() if any(each in text for each in said)), None)


def how_to_start(name: str) -> str:
    """Return what to do about the process *name* that is away."""
    return (
        f"start {name} (compose: docker compose up -d {name}; Kubernetes: see why it has no ready pod; "
        f"else: modelswap serve {name}, or all with modelswap up)"
    )


def why_stuck(queue: str, waiting: int, consumers: int, oldest_seconds: float) -> str | None:
    """Return why the *waiting* messages of a queue are stuck, or None; the oldest has waited for *oldest_seconds*."""
    if waiting and not consumers:
        return f"{waiting} wait in {queue}, which has no consumer"
    if oldest_seconds > HELD_UP_SECONDS:
        return f"the oldest message of {queue} is stuck for {oldest_seconds:.0f} s, {waiting} wait"
    return None
