"""Requests to processes of modelswap: waits until one is ready, and tries the public address of the receiver. Edge."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from http import HTTPStatus
from typing import Final

from services.cli.problem import NoAnswer, Problem
from shared.contract.answers import kind_in
from shared.runtime.client import HttpClient, Unanswered
from shared.runtime.processes import DEADLINE_SECONDS

_READY_POLL_SECONDS: Final = 0.1
_WEBHOOKS: Final = "/webhooks/replicate"


async def wait_until_ready(url: str) -> None:
    """Return as soon as the process at *url* is ready. The caller sets the deadline."""
    async with HttpClient(url) as http:
        while True:
            with suppress(Unanswered):  # it does not listen yet
                if (await http.request("GET", "/readyz")).is_success:
                    return
            await asyncio.sleep(_READY_POLL_SECONDS)


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
