"""The doctor's checks of what runs: each process, the queues between them, and the outbox. Edge."""

from __future__ import annotations

import asyncio
from typing import Final

from services.cli.local import servers
from services.cli.local.check import OK, SET, WARNING, WRONG, Doubtful, Finding, Wrong, mistakes
from services.cli.local.health import Health, get_health, get_oldest_deliveries, reach_receiver
from services.cli.local.stack import Environment
from services.cli.problem import NoAnswer, Problem
from shared.contract.topology import (
    DEAD_QUEUE,
    DELIVERIES_QUEUE,
    EXTRACTOR_QUEUE,
    NOTIFIER_QUEUE,
    OPS_QUEUE,
    PROGRESS_QUEUE,
    STATE_QUEUE,
)
from shared.runtime.setting_types import Url
from shared.runtime.settings import (
    STATE_URL,
    NotifierClientSettings,
    OpsClientSettings,
    OpsSettings,
    Settings,
    SettingsError,
    TriggerSettings,
)

#: A message that waits longer is stuck.
_HELD_UP_SECONDS: Final = 60.0
#: Which process consumes which queues.
_CONSUMERS: Final = {
    "extractor": (EXTRACTOR_QUEUE,),
    "state": (STATE_QUEUE, PROGRESS_QUEUE),
    "ops": (OPS_QUEUE, DEAD_QUEUE),
    "notifier": (NOTIFIER_QUEUE, DELIVERIES_QUEUE),
}


class _Addresses(Settings):
    """The addresses of the processes."""

    receiver_url: Url = TriggerSettings.model_fields["receiver_url"].default
    extractor_url: Url = OpsSettings.model_fields["extractor_url"].default
    api_url: Url = STATE_URL
    ops_url: Url = OpsClientSettings.model_fields["ops_url"].default
    notifier_url: Url = NotifierClientSettings.model_fields["notifier_url"].default

    def by_process(self) -> dict[str, str]:
        return {
            "receiver": self.receiver_url,
            "extractor": self.extractor_url,
            "state": self.api_url,
            "ops": self.ops_url,
            "notifier": self.notifier_url,
        }


class _PublicUrl(Settings):
    public_url: Url


async def processes(environment: Environment, version: str) -> list[Finding]:
    """Check the health of each process, and compare its version with *version*, that of this command."""
    try:
        urls = _Addresses.load(environment).by_process()
    except SettingsError as error:
        return [Finding("processes", WRONG, mistake, SET) for mistake in mistakes(error)]
    answers = await asyncio.gather(*(get_health(*each) for each in urls.items()), return_exceptions=True)
    # Before the first start, nothing is broken.
    started = any(not isinstance(answer, NoAnswer) for answer in answers)
    return [
        _process(name, answer, version, WRONG if started else WARNING)
        for name, answer in zip(urls, answers, strict=True)
    ]


def _process(name: str, answer: Health | BaseException, version: str, away: str) -> Finding:
    match answer:
        case NoAnswer() as error:
            return Finding(name, away, str(error), error.then)
        case Problem() as error:
            return Finding(name, WRONG, str(error), error.then)
        case BaseException() as error:
            raise error
    if answer.problems:
        said = "is ready, but" if answer.is_ready else "is not ready"
        status = WARNING if answer.is_ready else WRONG
        return Finding(name, status, f"{said}: {'; '.join(answer.problems)}", f"fix that; log of {name}")
    if answer.set_aside:
        said = "; ".join(f"{loop}: {text}" for loop, text in answer.set_aside.items())
        return Finding(name, WARNING, f"ready, but {said}", '"Items are set aside" in deploy/runbook.md')
    if answer.version != version:
        return Finding(name, WARNING, f"is version {answer.version}, this command {version}", f"restart {name}")
    return Finding(name, OK, f"ready, version {answer.version}")


async def queues(environment: Environment) -> str:
    """Return how many messages wait, and for how long."""
    depths = await servers.queue_depths(environment, [queue for each in _CONSUMERS.values() for queue in each])
    urls = _Addresses.load(environment).by_process()
    ages: dict[str, float] = {}
    for name in _CONSUMERS:
        try:
            ages |= await get_oldest_deliveries(name, urls[name])
        except Problem:
            continue  # the check of the process reports it
    problems, remedies = [], []
    for name, names in _CONSUMERS.items():
        for queue in names:
            waiting, consumers = depths[queue]
            if waiting and not consumers:
                problems.append(f"{waiting} wait in {queue}, which has no consumer")
                remedies.append(f"start {name}")
            elif ages.get(queue, 0) > _HELD_UP_SECONDS:
                problems.append(f"the oldest message of {queue} is stuck for {ages[queue]:.0f} s, {waiting} wait")
                remedies.append(f"read the log of {name}")
    if problems:
        raise Wrong("; ".join(problems), "; ".join(dict.fromkeys(remedies)))
    oldest = max(ages.values(), default=0.0)
    return f"{sum(waiting for waiting, _ in depths.values())} messages wait, the oldest for {oldest:.0f} s"


async def outbox(environment: Environment) -> str:
    """Return how many committed events wait to be published, and for how long."""
    waiting, oldest, set_aside = await servers.outbox_backlog(environment)
    if set_aside:
        raise Wrong(
            f"{set_aside} committed events cannot be published as they are, and were set aside",
            "deploy/runbook.md: Events that cannot be published",
        )
    said = f"{waiting} committed events wait to be published, the oldest for {oldest:.0f} s"
    if oldest > _HELD_UP_SECONDS:
        raise Wrong(said)
    return said


async def public_address(environment: Environment) -> str:
    """Check that the public address leads to our receiver."""
    url = _PublicUrl.load(environment).public_url
    try:
        await reach_receiver(url)
    except NoAnswer as error:
        raise Doubtful(f"not known: {error}", then=error.then) from error
    except Problem as error:
        raise Wrong(str(error), error.then) from error
    return f"{url} leads to the receiver"
