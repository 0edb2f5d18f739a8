"""The simulated API of predictions and their outputs. Edge."""

from __future__ import annotations

import asyncio
import re
from typing import Final

from pydantic import JsonValue
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from services.simulator.api.answers import INVALID, Call, Refused, model_name, own_url, paged, read
from services.simulator.api.trainings import Trainings
from services.simulator.faults import Behaviour
from services.simulator.job import NEVER
from services.simulator.models import Version
from services.simulator.prediction import Prediction, parse_deadline, png
from services.simulator.requests import JobRequest
from services.simulator.simulator import Simulator

_MAX_WAIT_SECONDS: Final = 60
_WAIT: Final = re.compile(r"wait(?:=(\d+))?")


class VersionRequest(JobRequest):
    """Request to create a prediction of a version."""

    version: str


class Predictions:
    """Calls about the predictions of *simulator*. A training is a prediction too, so *trainings* answers for those."""

    def __init__(self, simulator: Simulator, trainings: Trainings) -> None:
        self._simulator = simulator
        self._world = simulator.world
        self._trainings = trainings

    def calls(self) -> list[Call]:
        return [
            Call("predictions.create", "POST", "/predictions", self._create),
            Call("models.predictions.create", "POST", "/models/{owner}/{name}/predictions", self._create_by_model),
            Call("predictions.list", "GET", "/predictions", self._list),
            Call("predictions.get", "GET", "/predictions/{id}", self._get),
            Call("predictions.cancel", "POST", "/predictions/{id}/cancel", self._cancel),
        ]

    async def deliver(self, request: Request) -> Response:
        """Return a prediction's output. As at Replicate, no token is needed."""
        prediction = self._find(request)
        if prediction is None or not prediction.has_output(prediction.seconds(self._simulator.now())):
            return Response(status_code=404)
        image = png(sum(prediction.id.encode()), blank=prediction.behaviour is Behaviour.BLANK)
        return Response(image, media_type="image/png")

    async def _create(self, request: Request) -> Response:
        asked = await read(request, VersionRequest)
        version = self._world.find_version(asked.version, now=self._simulator.now())
        if version is None:
            raise Refused(
                422,
                title="Invalid version or not permitted",
                detail="The specified version does not exist (or perhaps you don't have permission to use it?)",
            )
        return await self._run(request, version, asked)

    async def _create_by_model(self, request: Request) -> Response:
        """Run an official model; any other one needs a version, so it is not found here."""
        asked = await read(request, JobRequest)
        model = self._world.find_model(model_name(request))
        if model is None or not model.is_official:
            raise Refused(404)
        return await self._run(request, model.hidden_version, asked)

    async def _run(self, request: Request, version: Version, asked: JobRequest) -> Response:
        deadline_seconds = _deadline(request)
        if not version.accepts(asked.input):
            raise Refused(422, title=INVALID, detail="- input: prompt is required\n")
        prediction = self._world.create_prediction(
            asked,
            version,
            deadline_seconds=deadline_seconds,
            api_url=own_url(request),
            now=self._simulator.now(),
        )
        wait_seconds = _wait(request)
        prediction = await self._awaited(prediction, wait_seconds)
        seconds = prediction.seconds(self._simulator.now())
        is_late = wait_seconds > 0 and not prediction.has_ended(seconds)
        # Clients take any other status than starting for the end, and Replicate says starting even if it runs by now.
        return JSONResponse(prediction.describe(0 if is_late else seconds), status_code=202 if is_late else 201)

    async def _awaited(self, prediction: Prediction, wait_seconds: float) -> Prediction:
        """Wait for the end of *prediction*, at most *wait_seconds* real seconds; return its state."""
        loop = asyncio.get_running_loop()
        until = loop.time() + wait_seconds
        while (patience := until - loop.time()) > 0:
            now = self._simulator.now()
            prediction = self._world.find_prediction(prediction.id, now=now) or prediction
            left = prediction.life.ends - prediction.seconds(now)
            if left <= 0:
                break
            await asyncio.sleep(min(left / prediction.speed, patience))
        return prediction

    async def _list(self, request: Request) -> Response:
        predictions = self._world.predictions(now=self._simulator.now())
        return paged(request, predictions, self._list_item, key=lambda prediction: prediction.id)

    async def _get(self, request: Request) -> Response:
        prediction = self._find(request)
        return JSONResponse(self._describe(prediction)) if prediction else await self._trainings.get(request)

    async def _cancel(self, request: Request) -> Response:
        prediction = self._find(request)
        if prediction is None:
            return await self._trainings.cancel(request)
        return JSONResponse(self._describe(self._world.cancel(prediction, now=self._simulator.now())))

    def _find(self, request: Request) -> Prediction | None:
        return self._world.find_prediction(request.path_params["id"], now=self._simulator.now())

    def _list_item(self, prediction: Prediction) -> dict[str, JsonValue]:
        item = self._describe(prediction)
        del item["logs"]
        return item

    def _describe(self, prediction: Prediction) -> dict[str, JsonValue]:
        return prediction.describe(prediction.seconds(self._simulator.now()))


def _deadline(request: Request) -> float:
    cancel_after = request.headers.get("cancel-after")
    if cancel_after is None:
        return NEVER
    deadline = parse_deadline(cancel_after)
    if deadline is None:
        raise Refused(422, detail="Cancel-After must be a duration like 30s or 5m, and at least 5 seconds")
    return deadline


def _wait(request: Request) -> float:
    """Return the real seconds that the caller waits for the end; 0 for none."""
    match = _WAIT.search(request.headers.get("prefer", ""))
    return min(int(match[1] or _MAX_WAIT_SECONDS), _MAX_WAIT_SECONDS) if match else 0
