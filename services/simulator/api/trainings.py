"""The simulated API of trainings. Edge."""

from __future__ import annotations

from pydantic import JsonValue
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from services.simulator.api.answers import Call, Refused, found, model_name, own_url, paged, read
from services.simulator.requests import TrainingRequest
from services.simulator.simulator import Simulator
from services.simulator.training import Training


class Trainings:
    """Calls about the trainings of *simulator*."""

    def __init__(self, simulator: Simulator) -> None:
        self._simulator = simulator
        self._world = simulator.world

    def calls(self) -> list[Call]:
        return [
            Call("trainings.create", "POST", "/models/{owner}/{name}/versions/{version}/trainings", self._create),
            Call("trainings.list", "GET", "/trainings", self._list),
            Call("trainings.get", "GET", "/trainings/{id}", self.get),
            Call("trainings.cancel", "POST", "/trainings/{id}/cancel", self.cancel),
        ]

    async def get(self, request: Request) -> Response:
        return JSONResponse(self._describe(self._asked(request)))

    async def cancel(self, request: Request) -> Response:
        canceled = self._world.cancel(self._asked(request), now=self._simulator.now())
        return JSONResponse(self._describe(canceled) | {"logs": None})

    async def _create(self, request: Request) -> Response:
        training = self._world.create_training(
            await read(request, TrainingRequest),
            trainer=model_name(request),
            version=request.path_params["version"],
            api_url=own_url(request),
            now=self._simulator.now(),
        )
        if training is None:
            raise Refused(404, detail="The specified training destination does not exist")
        return JSONResponse(training.describe(0, kind="predictions"), status_code=201)

    async def _list(self, request: Request) -> Response:
        return paged(request, self._world.trainings(), self._list_item, key=lambda training: training.id)

    def _asked(self, request: Request) -> Training:
        return found(self._world.find_training(request.path_params["id"]))

    def _list_item(self, training: Training) -> dict[str, JsonValue]:
        return training.list_item(training.seconds(self._simulator.now()))

    def _describe(self, training: Training) -> dict[str, JsonValue]:
        return training.describe(training.seconds(self._simulator.now()))
