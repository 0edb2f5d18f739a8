"""
The simulator's HTTP application: Replicate's API, and control routes below ``/_simulator``. Edge.

The control routes need no token: any client may inject faults.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from dataclasses import asdict

from pydantic import JsonValue
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Mount, Route, Router

from services.simulator.api import Refused, ReplicateApi, read
from services.simulator.described import DescribedTraining
from services.simulator.faults import ApiFaultOrder, FaultOrder, table
from services.simulator.job import Status
from services.simulator.simulator import Simulator
from services.simulator.training import Training
from shared.runtime.connections import Limits
from shared.runtime.health import health_routes, reporter
from shared.runtime.lifecycle import listen
from shared.runtime.server import Server


def create_app(simulator: Simulator) -> Starlette:
    """Create the application of *simulator*: Replicate's API and the control routes."""
    replicate = ReplicateApi(simulator).routes()
    control = _Control(simulator, ["*", *(route.name for route in replicate)])
    app = Starlette(
        routes=[
            *replicate,
            Mount("/_simulator", Router(control.routes(), redirect_slashes=False)),
            *health_routes(reporter({})),
        ],
        exception_handlers={HTTPException: _not_routed, Refused: _refused},
    )
    app.router.redirect_slashes = False
    return app


@contextlib.asynccontextmanager
async def running(
    simulator: Simulator, host: str = "127.0.0.1", port: int = 0, *, limits: Limits | None = None
) -> AsyncIterator[str]:
    """
    Serve *simulator* in this event loop and yield its URL; port 0 picks a free one. Close it at the end.

    Raises:
        CannotListen: if the port is in use, or may not be opened.

    """
    listening = listen(host, port)
    server = Server(create_app(simulator), limits=limits, drain_seconds=1)
    # Clients may connect at once: they wait in the socket's backlog.
    serving = asyncio.create_task(server.serve(sockets=[listening]))
    try:
        yield f"http://{host}:{listening.getsockname()[1]}"
    finally:
        server.should_exit = True
        await serving
        await simulator.close()
        listening.close()


class _Control:
    """The control routes, which Replicate does not have; for tests and operators."""

    def __init__(self, simulator: Simulator, route_names: Sequence[str]) -> None:
        self._simulator = simulator
        self._route_names = route_names

    def routes(self) -> list[Route]:
        return [
            Route("/faults", self._list_faults),
            Route("/faults", self._order_fault, methods=["POST"]),
            Route("/faults", self._heal, methods=["DELETE"]),
            Route("/api-faults", self._order_api_fault, methods=["POST"]),
            Route("/deliveries", self._list_deliveries),
            Route("/trainings", self._list_trainings),
            Route("/trainings/{id}", self._describe_training, methods=["PUT"]),
        ]

    async def _list_faults(self, _: Request) -> Response:
        return JSONResponse(table())

    async def _order_fault(self, request: Request) -> Response:
        order = await read(request, FaultOrder)
        if not self._simulator.order(order):
            raise Refused(409, detail=f"no training {order.training_id} runs")
        return JSONResponse(order.model_dump(mode="json", exclude_unset=True), status_code=201)

    async def _order_api_fault(self, request: Request) -> Response:
        order = await read(request, ApiFaultOrder)
        if order.route not in self._route_names:
            raise Refused(422, detail=f"no route {order.route}; there are {', '.join(self._route_names)}")
        self._simulator.world.orders.add_for_calls(order)
        return JSONResponse(order.model_dump(mode="json", exclude_unset=True), status_code=201)

    async def _heal(self, _: Request) -> Response:
        self._simulator.world.orders.clear()
        return Response(status_code=204)

    async def _list_deliveries(self, _: Request) -> Response:
        attempts = [{**asdict(each), "at": each.at.isoformat()} for each in self._simulator.attempts]
        return JSONResponse({"deliveries": attempts})

    async def _list_trainings(self, _: Request) -> Response:
        """List how every training ends or will end, for tests to compare with. Oldest first."""
        oldest_first = reversed(self._simulator.world.trainings())
        return JSONResponse({"trainings": [self._plan_of(training) for training in oldest_first]})

    async def _describe_training(self, request: Request) -> Response:
        """Add a training as the request describes it; its webhooks are posted by the caller, not here."""
        described = await read(request, DescribedTraining)
        api_url = f"{request.url.scheme}://{request.url.netloc}"
        training = described.training(request.path_params["id"], api_url=api_url)
        self._simulator.world.add_described(training)
        return JSONResponse(self._plan_of(training))

    def _plan_of(self, training: Training) -> dict[str, JsonValue]:
        succeeds = training.life.outcome is Status.SUCCEEDED and bool(training.makes)
        return {
            "id": training.id,
            "destination": training.destination,
            "has_ended": training.has_ended(training.seconds(self._simulator.now())),
            "status": training.life.outcome,
            "output": training.output(training.life.ends),
            "version": f"{training.makes_model}:{training.makes}" if succeeds else None,
            "created_at": training.created_at.isoformat(),
            "ends_at": training.date(training.life.ends).isoformat(),
            "faults": training.faults.model_dump(mode="json", exclude_unset=True),
        }


async def _refused(_: Request, error: Exception) -> Response:
    assert isinstance(error, Refused)  # noqa: S101 (Starlette types every handler alike)
    return error.response


async def _not_routed(_: Request, error: Exception) -> Response:
    return Refused(error.status_code if isinstance(error, HTTPException) else 500).response
