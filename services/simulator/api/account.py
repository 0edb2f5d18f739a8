"""The simulated API of the account and its webhook secret. Edge."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from services.simulator.api.answers import Call
from services.simulator.simulator import Simulator


class Account:
    """Calls about the account of *simulator*."""

    def __init__(self, simulator: Simulator) -> None:
        self._simulator = simulator

    def calls(self) -> list[Call]:
        return [
            Call("webhooks.secret", "GET", "/webhooks/default/secret", self._get_secret),
            Call("account.get", "GET", "/account", self._get),
        ]

    async def _get_secret(self, _: Request) -> Response:
        return JSONResponse({"key": self._simulator.secret})

    async def _get(self, _: Request) -> Response:
        name = self._simulator.knobs.account
        return JSONResponse({"type": "organization", "username": name, "name": name, "github_url": None})
