"""
Models and versions, and Replicate's objects for them. Pure.

A model of an account gets its versions from trainings. An official model is Replicate's own: it is run by its name
alone, lists no versions, and its predictions call their version ``hidden``.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, JsonValue

from services.simulator.faults import Behaviour
from services.simulator.job import milliseconds

OWNER: Final = r"[a-z0-9][a-z0-9_-]*"
NAME: Final = r"[a-z0-9][a-z0-9._-]*"
#: Hardware for models, as far as Replicate documents it.
HARDWARE: Final = {
    "cpu": "CPU",
    "gpu-t4": "Nvidia T4 GPU",
    "gpu-a40-small": "Nvidia A40 GPU",
    "gpu-a40-large": "Nvidia A40 (Large) GPU",
}
_HIDDEN: Final = "hidden"
_OFFICIAL_SINCE: Final = datetime(2024, 8, 1, tzinfo=UTC)


class About(BaseModel):
    """Optional description of a model by its owner."""

    model_config = ConfigDict(frozen=True)

    description: str | None = None
    github_url: str | None = None
    paper_url: str | None = None
    license_url: str | None = None
    cover_image_url: str | None = None


_NOTHING: Final = About()


class ModelRequest(About):
    """Request to create a model."""

    owner: Annotated[str, Field(pattern=rf"^{OWNER}$")]
    name: Annotated[str, Field(pattern=rf"^{NAME}$")]
    visibility: Literal["public", "private"]
    hardware: str

    @property
    def model(self) -> Model:
        about = About.model_validate(self.model_dump(include=set(About.model_fields)))
        return Model(f"{self.owner}/{self.name}", is_public=self.visibility == "public", about=about)


@dataclass(frozen=True, slots=True)
class Version:
    """A version of a model."""

    model: str
    id: str
    created_at: datetime
    has_prompt: bool
    behaviour: Behaviour

    def describe(self) -> dict[str, JsonValue]:
        """Return Replicate's object for it, with the input and output of its OpenAPI schema."""
        fields: dict[str, JsonValue] = {"seed": {"type": "integer", "title": "Seed", "x-order": 1}}
        required: list[JsonValue] = []
        if self.has_prompt:
            fields = {"prompt": {"type": "string", "title": "Prompt", "x-order": 0}, **fields}
            required = ["prompt"]
        schemas: dict[str, JsonValue] = {
            "Input": {"type": "object", "title": "Input", "properties": fields, "required": required},
            "Output": {"type": "array", "title": "Output", "items": {"type": "string", "format": "uri"}},
        }
        return {
            "id": self.id,
            "created_at": milliseconds(self.created_at),
            "cog_version": "0.14.0",
            "openapi_schema": {"openapi": "3.0.2", "components": {"schemas": schemas}},
        }

    def accepts(self, prediction_input: dict[str, JsonValue]) -> bool:
        return not self.has_prompt or isinstance(prediction_input.get("prompt"), str)


@dataclass(frozen=True, slots=True)
class Model:
    """A model; *name* is ``owner/name``."""

    name: str
    is_public: bool = False
    is_official: bool = False
    about: About = _NOTHING

    @property
    def hidden_version(self) -> Version:
        """The version that runs if an official model is named without one."""
        return Version(self.name, _HIDDEN, _OFFICIAL_SINCE, has_prompt=True, behaviour=Behaviour.WORKS)

    @property
    def shown_version(self) -> Version:
        """The latest version of an official model as shown by the API; it can be read, but not run."""
        digest = hashlib.sha256(self.name.encode()).hexdigest()
        return Version(self.name, digest, _OFFICIAL_SINCE, has_prompt=True, behaviour=Behaviour.WORKS)

    def describe(self, latest: Version | None, *, run_count: int) -> dict[str, JsonValue]:
        """Return Replicate's object for it."""
        owner, _, own_name = self.name.partition("/")
        return {
            "url": f"https://replicate.com/{self.name}",
            "owner": owner,
            "name": own_name,
            "visibility": "public" if self.is_public else "private",
            "is_official": self.is_official,
            "run_count": run_count,
            "default_example": None,
            "latest_version": latest.describe() if latest else None,
            **self.about.model_dump(),
        }


@dataclass(frozen=True, slots=True)
class Deletion:
    """Of a model (``owner/name``) or a version (its id): when it is gone."""

    id: str
    at: datetime


#: It is run by its name, without a version.
OFFICIAL: Final = Model("black-forest-labs/flux-schnell", is_public=True, is_official=True)
