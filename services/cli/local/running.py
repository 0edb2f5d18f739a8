"""The doctor's checks of what runs: each process, the queues between them, and the outbox. Edge."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from http import HTTPStatus
from typing import Final

from services.cli.broker import broker_problems, broker_url
from services.cli.local.check import OK, WARNING, WRONG, Doubtful, Finding, Wrong, settings_findings
from services.cli.local.database import connected, database_url
from services.cli.local.stack import Environment
from shared.contract.answers import kind_in
from shared.contract.health import HELD_UP_SECONDS, ProcessState, Seen, how_to_start, why_stuck
from shared.contract.rights import CONSUMED
from shared.contract.text import plural
from shared.runtime.broker import depths
from shared.runtime.client import HttpClient, Unanswered
from shared.runtime.processes import DEADLINE_SECONDS, look_at
from shared.runtime.setting_types import Url
from shared.runtime.settings import (
    STATE_URL,
    NotifierClientSettings,
    OpsClientSettings,
    OpsSettings,
    TriggerSettings,
)
from shared.runtime.settings_base import Settings, SettingsError

_OUTBOX_BACKLOG: Final = """
    SELECT count(*) FILTER (WHERE set_aside_at IS NULL) AS waiting,
           coalesce(extract(epoch FROM clock_timestamp() - min(created_at) FILTER (WHERE set_aside_at IS NULL)), 0)
               ::double precision AS oldest,
           count(set_aside_at) AS set_aside
    FROM state.outbox
    WHERE published_at IS NULL
"""
_WEBHOOKS: Final = "/webhooks/replicate"


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


async def processes(environment: Environment, version: str) -> tuple[list[Finding], set[str]]:
    """
    Check the health of each process, and compare its version with *version*, that of this command.

    Return the findings, and which processes run.
    """
    try:
        urls = _Addresses.load(environment).by_process()
    except SettingsError as error:
        return settings_findings("processes", error), set()
    seen = await _look_at(urls, version)
    # Before the first start, nothing is broken.
    started = any(each.state is not ProcessState.AWAY for each in seen.values())
    found = [_finding(name, each, WRONG if started else WARNING) for name, each in seen.items()]
    return found, {name for name, each in seen.items() if each.health is not None}


async def _look_at(urls: Mapping[str, str], version: str) -> dict[str, Seen]:
    seen = await asyncio.gather(*(look_at(name, url, version) for name, url in urls.items()))
    return dict(zip(urls, seen, strict=True))


def _finding(name: str, seen: Seen, away: str) -> Finding:
    status = {ProcessState.READY: OK, ProcessState.LIMITED: WARNING, ProcessState.AWAY: away}.get(seen.state, WRONG)
    return Finding(name, status, seen.detail, seen.then)


async def queues(environment: Environment) -> str:
    """Return how many messages wait, and for how long."""
    consumer_of = {queue: name for name, queues in CONSUMED.items() for queue in queues}
    url = broker_url(environment)
    with broker_problems():
        found = await depths(url, consumer_of, name="modelswap doctor")
    urls = _Addresses.load(environment).by_process()
    # The check of a process reports one that does not answer.
    seen = await _look_at({name: urls[name] for name in dict.fromkeys(consumer_of.values())}, "")
    ages = {queue: age for each in seen.values() for queue, age in each.oldest.items()}
    problems, remedies = [], []
    for queue, name in consumer_of.items():
        waiting, consumers = found[queue]
        if problem := why_stuck(queue, waiting, consumers, ages.get(queue, 0.0)):
            problems.append(problem)
            remedies.append(f"read the log of {name}" if consumers else how_to_start(name))
    if problems:
        raise Wrong("; ".join(problems), "; ".join(dict.fromkeys(remedies)))
    oldest = max(ages.values(), default=0.0)
    waiting = sum(each.waiting for each in found.values())
    return f"{plural(waiting, 'message waits', 'messages wait')}, the oldest for {oldest:.0f} s"


async def outbox(environment: Environment) -> str:
    """Return how many committed events wait to be published, and for how long."""
    async with connected(database_url(environment), name="modelswap doctor") as connection:
        ((waiting, oldest, set_aside),) = await connection.fetch(_OUTBOX_BACKLOG)
    if set_aside:
        raise Wrong(
            f"{plural(set_aside, 'committed event')} cannot be published, and had to be set aside",
            "deploy/runbook.md: Events that cannot be published",
        )
    count = plural(waiting, "committed event waits", "committed events wait")
    said = f"{count} to be published, the oldest for {oldest:.0f} s"
    if oldest > HELD_UP_SECONDS:
        raise Wrong(said)
    return said


async def public_address(environment: Environment) -> str:
    """Post an unsigned webhook to the public address, as Replicate would: our receiver refuses it."""
    public_url = _PublicUrl.load(environment).public_url
    try:
        async with HttpClient(public_url) as http:
            response = await http.request("POST", _WEBHOOKS, seconds=DEADLINE_SECONDS)
    except Unanswered as error:
        then = "from this machine it may be out of reach: try it from another, such as a phone"
        raise Doubtful(f"not known: {public_url} does not answer here ({error.why})", then=then) from error
    if response.is_redirect:
        where = response.headers.get("location", "nowhere")
        then = "set MODELSWAP_PUBLIC_URL to where it redirects to, or let the proxy answer itself"
        raise Wrong(f"{public_url} redirects to {where[:200]!r}, and Replicate follows no redirect", then)
    if response.status_code != HTTPStatus.UNAUTHORIZED or kind_in(response.content) is None:
        then = f"let {_WEBHOOKS} of MODELSWAP_PUBLIC_URL lead to the receiver"
        raise Wrong(f"{public_url} answers {response.status_code}, and not as our receiver does", then)
    return f"{public_url} leads to the receiver"
