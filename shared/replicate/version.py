"""What does Replicate say about a version of a model, and what does that version take as input? Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Final

from pydantic import BaseModel, ConfigDict, Field

from shared.replicate.training import SoftMoment

#: Replicate registers a training's version before its end, or that long after it at the latest.
REGISTERED_WITHIN: Final = timedelta(minutes=10)


@dataclass(frozen=True, slots=True)
class InputSchema:
    """What a version can be asked for."""

    fields: Mapping[str, Any]
    required: frozenset[str]

    def takes_text(self, name: str) -> bool:
        """Is *name* a field for text? One that does not say its type is."""
        match self.fields.get(name):
            case {"type": kind}:
                return bool(kind == "string")
            case field:
                return field is not None


class Version(BaseModel):
    """One version of a model."""

    model_config = ConfigDict(frozen=True, extra="ignore", hide_input_in_errors=True)

    id: str
    created_at: SoftMoment = None
    #: OpenAPI, as Cog wrote it.
    openapi_schema: Any = Field(default=None, repr=False)

    @property
    def input_schema(self) -> InputSchema | None:
        """What it takes, or None when Replicate does not say."""
        match self.openapi_schema:
            case {"components": {"schemas": {"Input": {"properties": dict(fields)} as schema}}}:
                required = schema.get("required")
                names = required if isinstance(required, list) else []
                return InputSchema(fields, frozenset(name for name in names if isinstance(name, str)))
        return None
