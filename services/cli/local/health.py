"""Requests to processes of modelswap: health, metrics, and the public address of the receiver. Edge."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from contextlib import suppress
from http import HTTPStatus
from typing import Final

from prometheus_client.parser import text_string_to_metric_families
from pydantic import BaseModel, ValidationError

from services.cli.problem import NoAnswer, NotNow, Problem
from shared.contract.answers import kind_in
from shared.runtime.client import HttpClient, NotReached, Response, Unanswered
from shared.runtime.telemetry import OLDEST_DELIVERY

#: A process that takes a connection and does not answer within this time hangs.
DEADLINE_SECONDS: Final = 5.0
_READY_POLL_SECONDS: Final = 0.1
_WEBHOOKS: Final = "/webhooks/replicate"


class Health(BaseModel):
    """The answer of a process's ``/readyz``."""

    #: ``ok`` if it can do its work, except what may be lost.
    status: str
    version: str
    #: For each check ``ok``, or what is wrong.
    checks: Mapping[str, str]
    #: For each loop that has set items aside, how many.
    set_aside: Mapping[str, str] = {}

    @property
    def is_ready(self) -> bool:
        return self.status == "ok"

    @property
    def problems(self) -> list[str]:
        return [f"{name}: {said}" for name, said in self.checks.items() if said != "ok"]


async def wait_until_ready(url: str) -> None:
    """Return as soon as the process at *url* is ready. The caller sets the deadline."""
    async with HttpClient(url) as http:
        while True:
            with suppress(Unanswered):  # it does not listen yet
                if (await http.request("GET", "/readyz")).is_success:
                    return
            await asyncio.sleep(_READY_POLL_SECONDS)


async def get_health(name: str, url: str) -> Health:
    """
    Return the health of the process *name* at *url*.

    Raises:
        NoAnswer: if nothing listens there.
        NotNow: if it does not answer in time.
        Problem: if something else answers.

    """
    response = await _get(name, url, "/readyz")
    try:
        return Health.model_validate_json(response.content)
    except ValidationError as error:
        then = f"correct the address of {name}, or start the version of modelswap that asks"
        raise Problem(f"what answers at {url} is not {name}, or an older version", then=then) from error


async def get_oldest_deliveries(name: str, url: str) -> dict[str, float]:
    """
    Return the age in seconds of the oldest message that the process *name* works on, by queue.

    Raises:
        Problem: if it does not answer.

    """
    response = await _get(name, url, "/metrics")
    samples = (sample for family in text_string_to_metric_families(response.text) for sample in family.samples)
    return {sample.labels["queue"]: sample.value for sample in samples if sample.name == OLDEST_DELIVERY}


async def reach_receiver(public_url: str) -> None:
    """
    Post an unsigned webhook to *public_url*, as Replicate would; return if our receiver refuses it.

    Raises:
        Problem: if it is redirected, or something else answers.

    """
    try:
        async with HttpClient(public_url) as http:
            response = await http.request("POST", _WEBHOOKS, seconds=DEADLINE_SECONDS)
    except Unanswered as error:
        then = "from this machine it may be out of reach: try it from another, such as a phone"
        raise NoAnswer(f"{public_url} does not answer here ({error.why})", then=then) from error
    if response.is_redirect:
        where = response.headers.get("location", "nowhere")
        then = "set MODELSWAP_PUBLIC_URL to where it redirects to, or let the proxy answer itself"
        raise Problem(f"{public_url} redirects to {where[:200]!r}, and Replicate follows no redirect", then=then)
    if response.status_code != HTTPStatus.UNAUTHORIZED or kind_in(response.content) is None:
        then = f"let {_WEBHOOKS} of MODELSWAP_PUBLIC_URL lead to the receiver"
        raise Problem(f"{public_url} answers {response.status_code}, and not as our receiver does", then=then)


async def _get(name: str, url: str, path: str) -> Response:
    try:
        async with HttpClient(url) as http:
            return await http.request("GET", path, seconds=DEADLINE_SECONDS)
    except NotReached as error:
        raise NoAnswer(f"nothing listens at {url}", then=f"start it: modelswap serve {name}") from error
    except Unanswered as error:
        then = f"read the log of {name}, then restart it"
        raise NotNow(f"it listens, but does not answer within {DEADLINE_SECONDS:g} s: it hangs", then=then) from error
