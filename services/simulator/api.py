"""
What does Replicate's HTTP API answer? Edge: requests in, the world's knowledge out, in Replicate's words.

Texts of refusals are Replicate's own where they are known; the others say what is wrong.
"""

from __future__ import annotations

import asyncio
import base64
import re
from collections.abc import Awaitable, Callable, Sequence
from http import HTTPStatus
from typing import Any, Final, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from services.simulator.faults import ApiFault, Behaviour
from services.simulator.image import png
from services.simulator.job import NEVER, Job, Status, milliseconds
from services.simulator.prediction import Prediction, parse_deadline
from services.simulator.simulator import Simulator
from services.simulator.training import Training
from services.simulator.world import ModelRequest, TrainingRequest, Version

_PAGE: Final = 100
_MAX_WAIT_SECONDS: Final = 60
_WAIT: Final = re.compile(r"wait(?:=(\d+))?")
#: What refusals say that any call may meet.
_TEXTS: Final = {
    401: {"title": "Unauthenticated", "detail": "You did not pass a valid authentication token"},
    402: {"title": "Billing required", "detail": "You need to set up billing to run this model."},
    404: {"detail": "The requested resource could not be found."},
    429: {"detail": "Request was throttled."},
}

_M = TypeVar("_M", bound=BaseModel)
_T = TypeVar("_T")
Handler = Callable[[Request], Awaitable[Response]]


class Refused(Exception):  # noqa: N818 (it is a condition, and reads as one)
    """The call is answered with a problem (RFC 7807)."""

    def __init__(self, status: int, headers: dict[str, str] | None = None, **problem: Any) -> None:
        text = _TEXTS.get(status, {"detail": HTTPStatus(status).phrase})
        self.response = JSONResponse(
            {**text, **problem, "status": status}, status, headers, media_type="application/problem+json"
        )


class PredictionRequest(BaseModel):
    """What the owner of a new prediction asks for."""

    model_config = ConfigDict(frozen=True)

    version: str
    input: dict[str, Any]


class ReplicateApi:
    """Replicate's HTTP API over a *simulator*."""

    def __init__(self, simulator: Simulator) -> None:
        self._simulator = simulator
        self._world = simulator.world

    def routes(self) -> list[Route]:
        """Each has a name, by which faults are ordered for it."""
        table: list[tuple[str, str, str, Handler]] = [
            ("trainings.create", "POST", "/models/{owner}/{name}/versions/{version}/trainings", self._create_training),
            ("trainings.list", "GET", "/trainings", self._list_trainings),
            ("trainings.get", "GET", "/trainings/{id}", self._get_training),
            ("trainings.cancel", "POST", "/trainings/{id}/cancel", self._cancel_training),
            ("models.create", "POST", "/models", self._create_model),
            ("models.get", "GET", "/models/{owner}/{name}", self._get_model),
            ("versions.list", "GET", "/models/{owner}/{name}/versions", self._list_versions),
            ("versions.get", "GET", "/models/{owner}/{name}/versions/{version}", self._get_version),
            ("predictions.create", "POST", "/predictions", self._create_prediction),
            ("predictions.list", "GET", "/predictions", self._list_predictions),
            ("predictions.get", "GET", "/predictions/{id}", self._get_prediction),
            ("predictions.cancel", "POST", "/predictions/{id}/cancel", self._cancel_prediction),
            ("webhooks.secret", "GET", "/webhooks/default/secret", self._get_secret),
            ("account.get", "GET", "/account", self._get_account),
        ]
        return [
            Route(f"/v1{path}", self._guarded(self._disturbed(name, handler)), methods=[method], name=name)
            for name, method, path, handler in table
        ] + [Route("/delivery/{id}/out-0.png", self._disturbed("delivery", self._deliver), name="delivery")]

    def _guarded(self, handler: Handler) -> Handler:
        """Ask for a token."""

        async def endpoint(request: Request) -> Response:
            kind, _, token = request.headers.get("authorization", "").partition(" ")
            if kind.lower() not in ("bearer", "token") or token not in self._simulator.knobs.tokens:
                return Refused(401).response
            return await handler(request)

        return endpoint

    def _disturbed(self, name: str, handler: Handler) -> Handler:
        """Let go wrong what shall go wrong with this call."""

        async def endpoint(request: Request) -> Response:
            self._simulator.calls[name, request.path_params.get("id", "")] += 1
            fault = self._world.next_api_fault(name) or ApiFault()
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

    # Trainings

    async def _create_training(self, request: Request) -> Response:
        training = self._simulator.create_training(
            await read(request, TrainingRequest),
            trainer=_model(request),
            version=request.path_params["version"],
            api_url=_own_url(request),
        )
        if training is None:
            raise Refused(404, detail="The specified training destination does not exist")
        return JSONResponse(training.describe(0, kind="predictions"), status_code=201)

    async def _list_trainings(self, request: Request) -> Response:
        return self._page(request, self._world.trainings())

    def _page(self, request: Request, newest_first: Sequence[Training | Prediction]) -> Response:
        cursor = request.query_params.get("cursor")
        begin = 0 if cursor is None else _after(newest_first, cursor)
        page = newest_first[begin : begin + _PAGE]
        has_more = begin + _PAGE < len(newest_first)
        results = [self._describe(job) for job in page]
        for item in results:
            del item["logs"]
        following = f"{_own_url(request)}{request.url.path}?cursor={_cursor(page[-1])}" if has_more else None
        return JSONResponse({"previous": None, "next": following, "results": results})

    async def _get_training(self, request: Request) -> Response:
        return JSONResponse(self._describe(self._training(request)))

    async def _cancel_training(self, request: Request) -> Response:
        canceled = self._simulator.cancel_training(self._training(request))
        return JSONResponse(self._describe(canceled) | {"logs": None})

    def _training(self, request: Request) -> Training:
        return _found(self._world.find_training(request.path_params["id"]))

    # Models

    async def _create_model(self, request: Request) -> Response:
        asked = await read(request, ModelRequest)
        name = f"{asked.owner}/{asked.name}"
        if not self._world.create_model(name, now=self._simulator.now()):
            detail = "A model with that name and owner already exists."
            raise Refused(409, detail=detail, errors=[{"detail": detail}])
        return JSONResponse(self._describe_model(name) | {"visibility": asked.visibility}, status_code=201)

    async def _get_model(self, request: Request) -> Response:
        return JSONResponse(self._describe_model(_model(request)))

    async def _list_versions(self, request: Request) -> Response:
        _found(self._world.find_model(_model(request)))
        versions = self._world.versions(_model(request), now=self._simulator.now())
        return JSONResponse(
            {"previous": None, "next": None, "results": [_describe_version(version) for version in versions]}
        )

    async def _get_version(self, request: Request) -> Response:
        reference = f"{_model(request)}:{request.path_params['version']}"
        version = _found(self._world.find_version(reference, now=self._simulator.now()))
        return JSONResponse(_describe_version(version))

    def _describe_model(self, name: str) -> dict[str, Any]:
        created_at = _found(self._world.find_model(name))
        versions = self._world.versions(name, now=self._simulator.now())
        owner, _, own_name = name.partition("/")
        return {
            "owner": owner,
            "name": own_name,
            "visibility": "private",
            "created_at": milliseconds(created_at),
            "latest_version": _describe_version(versions[0]) if versions else None,
        }

    # Predictions

    async def _create_prediction(self, request: Request) -> Response:
        asked = await read(request, PredictionRequest)
        deadline_seconds = _deadline(request)
        version = self._world.find_version(asked.version, now=self._simulator.now())
        if version is None:
            raise Refused(
                422,
                title="Invalid version or not permitted",
                detail="The specified version does not exist (or perhaps you don't have permission to use it?)",
            )
        prediction = self._world.create_prediction(
            version,
            asked.input,
            deadline_seconds=deadline_seconds,
            api_url=_own_url(request),
            now=self._simulator.now(),
        )
        wait_seconds = _wait(request)
        await asyncio.sleep(min(wait_seconds, prediction.life.ends / prediction.speed))
        body = self._describe(prediction)
        is_late = wait_seconds and not prediction.has_ended(prediction.seconds(self._simulator.now()))
        return JSONResponse(body, status_code=202 if is_late else 201)

    async def _list_predictions(self, request: Request) -> Response:
        return self._page(request, self._world.predictions())

    async def _get_prediction(self, request: Request) -> Response:
        """A training is a prediction: it is found here as well."""
        job = self._world.find_prediction(request.path_params["id"]) or self._training(request)
        return JSONResponse(self._describe(job))

    async def _cancel_prediction(self, request: Request) -> Response:
        prediction = self._world.find_prediction(request.path_params["id"])
        if prediction is None:
            return await self._cancel_training(request)
        return JSONResponse(self._describe(self._world.cancel_prediction(prediction, now=self._simulator.now())))

    async def _deliver(self, request: Request) -> Response:
        """What a prediction drew. Replicate asks for no token here either."""
        prediction = self._world.find_prediction(request.path_params["id"])
        if prediction is None or prediction.status(self._simulator.now()) is not Status.SUCCEEDED:
            return Response(status_code=404)
        image = png(sum(prediction.id.encode()), blank=prediction.behaviour is Behaviour.BLANK)
        return Response(image, media_type="image/png")

    # Account

    async def _get_secret(self, _: Request) -> Response:
        return JSONResponse({"key": self._simulator.secret})

    async def _get_account(self, _: Request) -> Response:
        name = self._simulator.knobs.account
        return JSONResponse({"type": "organization", "username": name, "name": name, "github_url": None})

    def _describe(self, job: Training | Prediction) -> dict[str, Any]:
        return job.describe(job.seconds(self._simulator.now()))


def _refusal(status: int, fault: ApiFault) -> Refused:
    headers = {"Retry-After": fault.retry_after_header} if fault.retry_after_header is not None else {}
    body = {"retry_after": fault.retry_after_body} if fault.retry_after_body is not None else {}
    return Refused(status, headers, **body)


def _describe_version(version: Version) -> dict[str, Any]:
    """Replicate's object for *version*, with as much of its OpenAPI schema as says what goes in and comes out."""
    prompt = {"prompt": {"type": "string", "title": "Prompt", "x-order": 0}} if version.has_prompt else {}
    seed = {"seed": {"type": "integer", "title": "Seed", "x-order": 1}}
    schemas = {
        "Input": {"type": "object", "title": "Input", "properties": prompt | seed, "required": list(prompt)},
        "Output": {"type": "array", "title": "Output", "items": {"type": "string", "format": "uri"}},
    }
    return {
        "id": version.id,
        "created_at": milliseconds(version.created_at),
        "cog_version": "0.14.0",
        "openapi_schema": {"openapi": "3.0.2", "components": {"schemas": schemas}},
    }


async def read(request: Request, kind: type[_M]) -> _M:
    """
    The body of *request*.

    Raises:
        Refused: if it is not one of that *kind*.

    """
    try:
        return kind.model_validate_json(await request.body())
    except ValidationError as error:
        mistakes = error.errors(include_url=False, include_input=False, include_context=False)
        lines = (f"- {'.'.join(map(str, mistake['loc'])) or 'body'}: {mistake['msg']}" for mistake in mistakes)
        raise Refused(422, title="Input validation failed", detail="\n".join(lines)) from error


def _found(thing: _T | None) -> _T:
    if thing is None:
        raise Refused(404)
    return thing


def _model(request: Request) -> str:
    return f"{request.path_params['owner']}/{request.path_params['name']}"


def _own_url(request: Request) -> str:
    """Where the caller reached us: the one address that certainly works for it."""
    return str(request.base_url).rstrip("/")


def _cursor(job: Job) -> str:
    return base64.urlsafe_b64encode(job.id.encode()).decode()


def _after(jobs: Sequence[Job], cursor: str) -> int:
    """Where the page begins that *cursor* asks for."""
    for place, job in enumerate(jobs):
        if _cursor(job) == cursor:
            return place + 1
    raise Refused(404)


def _deadline(request: Request) -> float:
    cancel_after = request.headers.get("cancel-after")
    if cancel_after is None:
        return NEVER
    deadline = parse_deadline(cancel_after)
    if deadline is None:
        raise Refused(422, detail="Cancel-After must be a duration like 30s or 5m, and at least 5 seconds")
    return deadline


def _wait(request: Request) -> float:
    """How many real seconds the caller wants to wait for the end; 0 for not at all."""
    match = _WAIT.search(request.headers.get("prefer", ""))
    return min(int(match[1] or _MAX_WAIT_SECONDS), _MAX_WAIT_SECONDS) if match else 0
