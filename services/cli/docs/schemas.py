"""
JSON Schemas of the public events, as subscribers receive them. Pure.

A field that is None is left out of a message (`Envelope.body`), and every other field is sent: so no field is nullable,
and only a field whose default is None may be missing. Unknown fields are allowed, because later versions add them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from pydantic.json_schema import GenerateJsonSchema, JsonSchemaMode, JsonSchemaValue, models_json_schema
from pydantic_core import core_schema

from shared.contract.envelope import TYPE_PREFIX
from shared.contract.events import PUBLIC_EVENTS, Event
from shared.contract.limits import ATTRIBUTE_CHARACTERS

Schema = dict[str, Any]

DIALECT: Final = "https://json-schema.org/draft/2020-12/schema"
#: The class of every public event, by its routing key.
PUBLIC: Final = {event.key: event for event in sorted(PUBLIC_EVENTS, key=lambda event: event.key)}
HEADERS: Final = "headers"
# With the schema of the type's own rule, such as a pattern, which pydantic drops where it describes what is serialized.
_MODE: Final[JsonSchemaMode] = "validation"


class _AsSent(GenerateJsonSchema):
    """Describes fields as they are sent, without titles that repeat their names."""

    def nullable_schema(self, schema: core_schema.NullableSchema) -> JsonSchemaValue:
        return self.generate_inner(schema["schema"])

    def default_schema(self, schema: core_schema.WithDefaultSchema) -> JsonSchemaValue:
        return self.generate_inner(schema["schema"])

    def field_is_required(
        self,
        field: core_schema.ModelField | core_schema.DataclassField | core_schema.TypedDictField,
        total: bool,  # noqa: ARG002, FBT001 (pydantic's signature)
    ) -> bool:
        inner = field["schema"]
        return inner["type"] != "default" or inner.get("default") is not None

    def field_title_should_be_set(self, schema: object) -> bool:  # noqa: ARG002 (pydantic's signature)
        return False


def all_schemas() -> dict[str, Schema]:
    """Return the schema of every public event's body by routing key, and that of the headers."""
    return {HEADERS: headers_schema(), **{key: event_schema(event) for key, event in PUBLIC.items()}}


def event_schema(event: type[Event]) -> Schema:
    schema = event.model_json_schema(mode=_MODE, schema_generator=_AsSent)
    return {"$schema": DIALECT, "$id": f"urn:modelswap:event:{event.key}", **schema}


def named_schemas(events: Sequence[type[Event]], ref_template: str) -> dict[str, Schema]:
    """Return the schemas of *events* and of their parts, by name; *ref_template* is how one refers to another."""
    _, schema = models_json_schema(
        [(event, _MODE) for event in events], schema_generator=_AsSent, ref_template=ref_template
    )
    definitions: dict[str, Schema] = schema["$defs"]
    return definitions


def headers_schema() -> Schema:
    """Return the schema of the `ce-` headers of every public event."""
    text = {"type": "string", "minLength": 1, "maxLength": ATTRIBUTE_CHARACTERS}
    return {
        "$schema": DIALECT,
        "$id": "urn:modelswap:event-headers",
        "title": "EventHeaders",
        "description": "CloudEvents 1.0 in binary mode, as headers of the AMQP message.",
        "type": "object",
        "properties": {
            "ce-specversion": {"type": "string", "const": "1.0"},
            "ce-id": {**text, "description": "Derived from the fact: the same fact published again has the same id."},
            "ce-type": {**text, "description": f"`{TYPE_PREFIX}` and the routing key."},
            "ce-source": {**text, "description": "`/modelswap/` and the process that published it."},
            "ce-time": {**text, "format": "date-time", "description": "When the event was made."},
            "ce-subject": {**text, "description": "The user whose model changed, else the training."},
            "ce-causationid": {**text, "description": "The `ce-id` of the event that caused this one."},
            "ce-replay": {**text, "description": "Caused by an operator's replay of a dead letter, with this id."},
            "ce-trigger": {**text, "description": "Made up by `modelswap trigger`, for the tests of subscribers."},
            "traceparent": {**text, "description": "W3C trace context."},
            "tracestate": {"type": "string", "minLength": 1, "description": "W3C trace context."},
        },
        "required": ["ce-specversion", "ce-id", "ce-type", "ce-source", "ce-time", "ce-subject"],
    }
