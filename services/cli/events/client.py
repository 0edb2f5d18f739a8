"""Edge: HTTP to the simulated Replicate's control routes, and to the target of `modelswap listen --forward-to`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, Self

import httpx

from services.cli.problem import Problem
from shared.contract.answers import said_in
from shared.replicate.client import REPLICATE_URL

_TIMEOUT: Final = httpx.Timeout(10.0)
#: Some of the faults that the simulator lists. No Replicate lists any.
_FAULTS: Final = {"outcome", "drop", "duplicate", "reorder"}


async def is_simulator(url: str) -> bool:
    """
    Is the Replicate at *url* the simulated one? Replicate itself is not asked.

    Raises:
        Problem: if it does not answer.

    """
    if url.rstrip("/") == REPLICATE_URL:
        return False
    answer = await _ask(url, "GET", "faults")
    try:
        faults = answer.json() if answer.is_success else None
    except ValueError:
        return False
    return isinstance(faults, dict) and faults.keys() >= _FAULTS


async def tell_simulator(url: str, training_id: str, told: Mapping[str, Any]) -> None:
    """
    Have the simulated Replicate at *url* know a training as it is *told*.

    Raises:
        Problem: if it does not answer, or refuses.

    """
    answer = await _ask(url, "PUT", f"trainings/{training_id}", told)
    if not answer.is_success:
        said = said_in(answer.content)
        raise Problem(f"the simulator at {url} refused: {answer.status_code} {said}", then="modelswap trigger --help")


async def _ask(url: str, method: str, path: str, body: Mapping[str, Any] | None = None) -> httpx.Response:
    try:
        async with httpx.AsyncClient(timeout=_TIMEOUT, trust_env=False) as http:
            return await http.request(method, f"{url.rstrip('/')}/_simulator/{path}", json=body)
    except httpx.TransportError as error:
        raise Problem(
            f"Replicate at {url} (MODELSWAP_REPLICATE_API_URL) does not answer ({type(error).__name__})",
            then="modelswap doctor",
        ) from error


class Target:
    """Where events are passed on to, as an async context manager. No redirect is followed."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._http = httpx.AsyncClient(timeout=_TIMEOUT, trust_env=False, follow_redirects=False)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._http.aclose()

    async def post(self, body: bytes, headers: Mapping[str, str]) -> tuple[int | None, str]:
        """The answer's status, and the reason where it is a refusal; None where there is no answer, and why."""
        try:
            response = await self._http.post(self._url, content=body, headers=dict(headers))
        except (httpx.TransportError, httpx.InvalidURL, httpx.DecodingError) as error:
            return None, type(error).__name__
        return response.status_code, "" if response.is_success else said_in(response.content)
