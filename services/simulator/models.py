"""
What are models and versions? Pure: what they are made of, and Replicate's objects for them.

A model of an account gets its versions from trainings. An official model is Replicate's own: it is run by its name
alone, lists no versions, and its predictions call their version ``hidden``.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field

from services.simulator.faults import Behaviour
from services.simulator.job import milliseconds

OWNER: Final = r"[a-z0-9][a-z0-9_-]*"
NAME: Final = r"[a-z0-9][a-z0-9._-]*"
#: What a caller can have a model run on, as far as Replicate's document names it.
HARDWARE: Final = {
    "cpu": "CPU",
    "gpu-t4": "Nvidia T4 GPU",
    "gpu-a40-small": "Nvidia A40 GPU",
    "gpu-a40-large": "Nvidia A40 (Large) GPU",
}
_HIDDEN: Final = "hidden"
_OFFICIAL_SINCE: Final = datetime(2024, 8, 1, tzinfo=UTC)


class About(BaseModel):
    """What the owner of a model may say of it."""

    model_config = ConfigDict(frozen=True)

    description: str | None = None
    github_url: str | None = None
    paper_url: str | None = None
    license_url: str | None = None
    cover_image_url: str | None = None


_NOTHING: Final = About()


class ModelRequest(About):
    """What the owner of a new model asks for."""

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

    def describe(self) -> dict[str, Any]:
        """Replicate's object for it, with as much of its OpenAPI schema as says what goes in and comes out."""
        prompt = {"prompt": {"type": "string", "title": "Prompt", "x-order": 0}} if self.has_prompt else {}
        seed = {"seed": {"type": "integer", "title": "Seed", "x-order": 1}}
        schemas = {
            "Input": {"type": "object", "title": "Input", "properties": prompt | seed, "required": list(prompt)},
            "Output": {"type": "array", "title": "Output", "items": {"type": "string", "format": "uri"}},
        }
        return {
            "id": self.id,
            "created_at": milliseconds(self.created_at),
            "cog_version": "0.14.0",
            "openapi_schema": {"openapi": "3.0.2", "components": {"schemas": schemas}},
        }

    def accepts(self, prediction_input: dict[str, Any]) -> bool:
        """Does *prediction_input* have what the schema requires?"""
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
        """What runs when an official model is named without a version."""
        return Version(self.name, _HIDDEN, _OFFICIAL_SINCE, has_prompt=True, behaviour=Behaviour.WORKS)

    @property
    def shown_version(self) -> Version:
        """The latest version of an official model as it is shown; it can be read, not run."""
        digest = hashlib.sha256(self.name.encode()).hexdigest()
        return Version(self.name, digest, _OFFICIAL_SINCE, has_prompt=True, behaviour=Behaviour.WORKS)

    def describe(self, latest: Version | None, *, run_count: int) -> dict[str, Any]:
        """Replicate's object for it."""
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


def official(name: str) -> Model:
    """The official model called *name*."""
    return Model(name, is_public=True, is_official=True)
