"""The simulated API of models and their versions. Edge."""

from __future__ import annotations

import json

from pydantic import JsonValue
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from services.simulator.api.answers import Call, Refused, found, model_name, paged, read
from services.simulator.models import HARDWARE, Model, ModelRequest, Version
from services.simulator.simulator import Simulator


class Models:
    """Calls about the models and versions of *simulator*."""

    def __init__(self, simulator: Simulator) -> None:
        self._simulator = simulator
        self._world = simulator.world

    def calls(self) -> list[Call]:
        model, versions = "/models/{owner}/{name}", "/models/{owner}/{name}/versions"
        return [
            Call("models.create", "POST", "/models", self._create),
            Call("models.list", "GET", "/models", self._list),
            Call("models.search", "QUERY", "/models", self._search),
            Call("models.get", "GET", model, self._get),
            Call("models.delete", "DELETE", model, self._delete),
            Call("versions.list", "GET", versions, self._list_versions),
            Call("versions.get", "GET", f"{versions}/{{version}}", self._get_version),
            Call("versions.delete", "DELETE", f"{versions}/{{version}}", self._delete_version),
            Call("hardware.list", "GET", "/hardware", self._list_hardware),
        ]

    async def _create(self, request: Request) -> Response:
        model = (await read(request, ModelRequest)).model
        if not self._world.create_model(model):
            detail = "A model with that name and owner already exists."
            raise Refused(409, detail=detail, errors=[{"detail": detail}])
        return JSONResponse(self._describe(model), status_code=201)

    async def _list(self, request: Request) -> Response:
        """List public models; private ones are not listed, not even to their owner."""
        return paged(request, self._world.public_models(), self._describe, key=lambda model: model.name)

    async def _search(self, request: Request) -> Response:
        words = _query(await request.body()).lower().split()
        matching = [
            model
            for model in self._world.public_models()
            if all(word in f"{model.name} {model.about.description or ''}".lower() for word in words)
        ]
        return paged(request, matching, self._describe, key=lambda model: model.name)

    async def _get(self, request: Request) -> Response:
        return JSONResponse(self._describe(self._asked(request)))

    async def _delete(self, request: Request) -> Response:
        # Replicate's document names these conditions, but not the status of a refusal.
        if not self._world.delete_model(self._asked(request), now=self._simulator.now()):
            raise Refused(403, detail="Only a private model that has no versions can be deleted")
        return Response(status_code=204)

    async def _list_versions(self, request: Request) -> Response:
        model = self._asked(request)
        if model.is_official:
            raise Refused(404)
        versions = self._world.versions(model.name, now=self._simulator.now())
        return paged(request, versions, Version.describe, key=lambda version: version.id)

    async def _get_version(self, request: Request) -> Response:
        return JSONResponse(self._asked_version(request).describe())

    async def _delete_version(self, request: Request) -> Response:
        if not self._world.delete_version(self._asked_version(request), now=self._simulator.now()):
            raise Refused(403, detail="Only a version of a private model that no training uses can be deleted")
        return Response(status_code=202)

    async def _list_hardware(self, _: Request) -> Response:
        return JSONResponse([{"name": name, "sku": sku} for sku, name in HARDWARE.items()])

    def _asked(self, request: Request) -> Model:
        return found(self._world.find_model(model_name(request)))

    def _asked_version(self, request: Request) -> Version:
        reference = f"{model_name(request)}:{request.path_params['version']}"
        return found(self._world.find_version(reference, now=self._simulator.now()))

    def _describe(self, model: Model) -> dict[str, JsonValue]:
        latest = self._world.latest_version(model, now=self._simulator.now())
        return model.describe(latest, run_count=self._world.run_count(model))


def _query(body: bytes) -> str:
    """The official JavaScript client sends the text as JSON, the Python client as it is."""
    text = body.decode(errors="replace")
    try:
        decoded = json.loads(text)
    except ValueError:
        return text
    return decoded if isinstance(decoded, str) else text
