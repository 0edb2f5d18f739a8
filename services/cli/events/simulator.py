"""The simulated Replicate's control routes: tell it of a training, order a fault. Edge."""

from __future__ import annotations

from typing import Final

from services.cli.client import Body
from services.cli.problem import Problem
from shared.contract.answers import said_in
from shared.replicate.client import REPLICATE_URL
from shared.runtime.client import HttpClient, Response, Unanswered

#: Some of the faults that the simulator lists. The real Replicate lists none.
_FAULTS: Final = {"outcome", "drop", "duplicate", "reorder"}


async def is_simulator(url: str) -> bool:
    """Return whether the Replicate at *url* is the simulated one. Sends nothing to the real one."""
    if url.rstrip("/") == REPLICATE_URL:
        return False
    response = await _ask(url, "GET", "faults")
    try:
        faults = response.json() if response.is_success else None
    except ValueError:
        return False
    return isinstance(faults, dict) and faults.keys() >= _FAULTS


async def change_simulator(url: str, method: str, path: str, body: Body) -> None:
    response = await _ask(url, method, path, body)
    if not response.is_success:
        said = f"{response.status_code} {said_in(response.content)}"
        raise Problem(f"the simulator at {url} refused {path}: {said}", then="modelswap trigger --help")


async def _ask(url: str, method: str, path: str, body: Body | None = None) -> Response:
    try:
        async with HttpClient(url.rstrip("/")) as http:
            return await http.request(method, f"/_simulator/{path}", body=body)
    except Unanswered as error:
        raise Problem(
            f"Replicate at {url} (MODELSWAP_REPLICATE_API_URL) does not answer ({error.why})", then="modelswap doctor"
        ) from error
