"""
The simulated HTTP API of Replicate. Edge.

Replicate's official clients work with it. Texts of refusals are Replicate's own where they are known.
"""

from __future__ import annotations

import asyncio

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from services.simulator.api.answers import Call, Handler, Refused, read
from services.simulator.api.models import Models
from services.simulator.api.predictions import Predictions
from services.simulator.api.trainings import Trainings
from services.simulator.faults import ApiFault
from services.simulator.simulator import Simulator

__all__ = ["Refused", "ReplicateApi", "read"]


class ReplicateApi:
    """Replicate's HTTP API over a *simulator*."""

    def __init__(self, simulator: Simulator) -> None:
        self._simulator = simulator
        trainings = Trainings(simulator)
        self._predictions = Predictions(simulator, trainings)
        self._calls = [
            *(call for resource in (trainings, Models(simulator), self._predictions) for call in resource.calls()),
            Call("webhooks.secret", "GET", "/webhooks/default/secret", self._get_secret),
            Call("account.get", "GET", "/account", self._get_account),
        ]

    def routes(self) -> list[Route]:
        """Return all routes; faults are ordered by a route's name."""
        return [
            Route(f"/v1{path}", self._guarded(self._disturbed(name, handler)), methods=[method], name=name)
            for name, method, path, handler in self._calls
        ] + [Route("/delivery/{id}/out-0.png", self._disturbed("delivery", self._predictions.deliver), name="delivery")]

    async def _get_secret(self, _: Request) -> Response:
        return JSONResponse({"key": self._simulator.secret})

    async def _get_account(self, _: Request) -> Response:
        return JSONResponse({"type": "organization", "username": "modelswap", "name": "modelswap", "github_url": None})

    def _guarded(self, handler: Handler) -> Handler:
        async def endpoint(request: Request) -> Response:
            kind, _, token = request.headers.get("authorization", "").partition(" ")
            if kind.lower() not in ("bearer", "token") or token not in self._simulator.knobs.tokens:
                return Refused(401).response
            return await handler(request)

        return endpoint

    def _disturbed(self, name: str, handler: Handler) -> Handler:
        """Count the call, and apply its fault if there is one."""

        async def endpoint(request: Request) -> Response:
            self._simulator.calls[name, request.path_params.get("id", "")] += 1
            fault = self._simulator.world.orders.next_of_call(name) or ApiFault()
            try:
                if fault.status is None or fault.takes_effect:
                    answer = await handler(request)
                if fault.status is not None:
                    raise _refusal(fault.status, fault)
            except Refused as refused:
                answer = refused.response
            await asyncio.sleep(fault.delay_seconds)
            return answer

        return endpoint


def _refusal(status: int, fault: ApiFault) -> Refused:
    headers = {"Retry-After": fault.retry_after_header} if fault.retry_after_header is not None else {}
    body = {"retry_after": fault.retry_after_body} if fault.retry_after_body is not None else {}
    return Refused(status, headers, **body)
