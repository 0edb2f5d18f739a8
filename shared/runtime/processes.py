"""
Asks the processes of modelswap how they are, for `modelswap doctor` and for the operators' API. Edge.

Each request has a deadline: a process that hangs must not make the asker hang.
"""

from __future__ import annotations

import re
from contextlib import suppress
from functools import partial
from typing import Final

from prometheus_client.parser import text_string_to_metric_families
from pydantic import ValidationError

from shared.contract.health import Health, ProcessState, Seen, how_to_start, judge
from shared.runtime.client import HttpClient, Hung, NotReached, ServiceDown, ServiceFailed
from shared.runtime.telemetry import OLDEST_DELIVERY

#: A process that takes a connection and does not answer within this time hangs.
DEADLINE_SECONDS: Final = 5.0
_ANSWER_BYTES: Final = 4 * 1024 * 1024
#: A line of metrics: a comment, or a name, labels and a value.
_LINE: Final = re.compile(r'#.*|[a-zA-Z_:][\w:]*({(\w+="([^"\\]|\\.)*",?)*})? \S+( \S+)?')


async def look_at(name: str, url: str, version: str, *, seconds: float = DEADLINE_SECONDS) -> Seen:
    """Return how the process *name* at *url* is; *version* is the asker's. Never raises."""
    oldest: dict[str, float] = {}
    async with HttpClient(url) as http:
        ask = partial(http.request, "GET", deadline_seconds=seconds, limit_bytes=_ANSWER_BYTES)
        try:
            health = Health.model_validate_json((await ask("/readyz")).content)
        except (ServiceDown, ValidationError) as error:
            return _not_heard(name, url, error, seconds)
        if health.consumers:
            with suppress(ServiceDown):  # it has just answered; the next look shows what is wrong
                metrics = await ask("/metrics")
                oldest = oldest_deliveries(metrics.text, str(metrics.url))
    return judge(name, health, version, oldest)


def oldest_deliveries(metrics: str, url: str) -> dict[str, float]:
    """
    Return the age in seconds of the oldest message that a process works on, by queue, from its *metrics* at *url*.

    Raises:
        ServiceFailed: if they are none.

    """
    lines = metrics.splitlines()
    refusal = ServiceFailed(f"{url} does not answer with metrics")
    if not all(map(_LINE.fullmatch, lines)):
        raise refusal
    # To parse all of them takes longer than all else that a look does.
    wanted = "\n".join(line for line in lines if line.startswith(OLDEST_DELIVERY))
    try:
        samples = [each for family in text_string_to_metric_families(wanted) for each in family.samples]
        return {each.labels["queue"]: each.value for each in samples if each.name == OLDEST_DELIVERY}
    except (ValueError, KeyError) as error:
        raise refusal from error


def _not_heard(name: str, url: str, error: Exception, seconds: float) -> Seen:
    match error:
        case NotReached():
            return Seen(ProcessState.AWAY, f"nothing listens at {url}", how_to_start(name))
        case Hung():
            detail = f"it listens, but does not answer within {seconds:g} s: it hangs"
            return Seen(ProcessState.HANGS, detail, f"read the log of {name}, then restart it")
    then = f"correct the address of {name}, or start the version of modelswap that asks"
    return Seen(ProcessState.UNKNOWN, f"what answers at {url} is not {name}, or an older version", then)
