"""
Validation errors of a request, in our own words: the invalid part and what it must be. Pure.

The library's message is never shown. The requirement is read from the operation's JSON Schema in the API's description,
so that both always agree; a test fails when a description uses a keyword that has no words here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Final, Self

from pydantic_core import ErrorDetails

from shared.contract.answers import Mistake
from shared.contract.checked import PRINTABLE_PATTERN

Schema = Mapping[str, Any]

_JSON_OBJECT: Final = "must be a JSON object, sent with Content-Type: application/json"
#: Errors of our own validators, whose message is for the caller. `identity`: an invalid model name or model ref.
_OURS: Final = ("value_error", "identity")
_VALUE_ERROR: Final = "Value error, "
_MISSING: Final = "missing"
_UNKNOWN: Final = "extra_forbidden"
_NO_JSON: Final = "json_invalid"

#: Words for the formats of strings.
FORMATS: Final[Mapping[str, str]] = {
    "uuid": "a UUID",
    "date-time": "a date and time with its offset, such as 2026-11-24T12:00:00Z",
    "base64": "text in base64",
}
_TYPES: Final[Mapping[str, str]] = {
    "null": "null",
    "boolean": "true or false",
    "integer": "a whole number",
    "number": "a number",
    "string": "text",
    "array": "a list",
    "object": "a JSON object",
}
#: Lower and upper limit keywords, with the words for both limits, the lower only and the upper only.
_LIMITS: Final[Sequence[tuple[str, str, str, str, str]]] = (
    ("minimum", "maximum", "from {} to {}", "of at least {}", "of at most {}"),
    ("exclusiveMinimum", "exclusiveMaximum", "between {} and {}", "above {}", "below {}"),
    ("minLength", "maxLength", "of {} to {} characters", "of at least {} characters", "of at most {} characters"),
    ("minItems", "maxItems", "of {} to {} items", "of at least {} items", "of at most {} items"),
)
#: All keywords that `requirement` understands.
KEYWORDS: Final = frozenset(
    ("$ref", "anyOf", "enum", "const", "type", "format", "pattern", *(name for each in _LIMITS for name in each[:2]))
)


class Schemas:
    """Schemas of an operation's body and parameters; *document* resolves their ``$ref``."""

    def __init__(self, document: Schema, body: Schema, parameters: Sequence[Schema] = ()) -> None:
        self._document = document
        self._body = body
        self._parts = {(each["in"], each["name"].lower()): each["schema"] for each in parameters}

    @classmethod
    def of_operation(cls, document: Schema, operation: Schema) -> Self:
        """Read the schemas of *operation* in the API description *document*."""
        content: Schema = operation.get("requestBody", {}).get("content", {})
        body: Schema = {}
        for each in content.values():
            body = each["schema"]
        return cls(document, body, operation.get("parameters", ()))

    def find(self, where: str, path: Sequence[str | int]) -> Schema | None:
        """Return the schema of one part; None if the description has none."""
        if where != "body":
            return self._parts.get((where, str(path[0]).lower())) if path else None
        schema: Schema | None = self._body
        for step in path:
            schema = schema and self._child(schema, step)
        return schema

    def names(self, where: str, path: Sequence[str | int]) -> Sequence[str]:
        """Return the field names of the object at *path* in the body; elsewhere (query, path), all parameter names."""
        if where != "body":
            return sorted(name for place, name in self._parts if place == where)
        schema = self.find(where, path)
        return () if schema is None else [name for each in self._options(schema) for name in each.get("properties", ())]

    def resolve(self, schema: Schema) -> Schema:
        """Follow ``$ref`` from *schema* to its target."""
        while "$ref" in schema:
            target: Any = self._document
            for name in schema["$ref"].removeprefix("#/").split("/"):
                target = target[name]
            schema = target
        return schema

    def _options(self, schema: Schema) -> Iterator[Schema]:
        found = self.resolve(schema)
        if "properties" in found or "anyOf" not in found:
            yield found
            return
        for option in found["anyOf"]:
            yield from self._options(option)

    def _child(self, schema: Schema, step: str | int) -> Schema | None:
        for option in self._options(schema):
            fields: Schema = option.get("properties", {})
            others = option.get("items" if isinstance(step, int) else "additionalProperties")
            found = fields.get(str(step), others)
            if isinstance(found, Mapping):
                return found
        return None


def requirement(schema: Schema, resolve: Callable[[Schema], Schema]) -> str:
    """Describe the values that *schema* accepts: ``a whole number from 1 to 200``."""
    schema = resolve(schema)
    if "anyOf" in schema and "properties" not in schema:
        return " or ".join(requirement(option, resolve) for option in schema["anyOf"])
    if "enum" in schema or "const" in schema:
        values = schema.get("enum") or [schema["const"]]
        return f"one of {', '.join(map(str, values))}" if len(values) > 1 else str(values[0])
    if schema.get("format") in FORMATS:
        return FORMATS[schema["format"]]
    if "type" not in schema:
        return "any JSON"
    return " ".join((_TYPES[schema["type"]], *_limits(schema)))


def _limits(schema: Schema) -> Iterator[str]:
    for lowest, highest, both, at_least, at_most in _LIMITS:
        low, high = _written(schema.get(lowest)), _written(schema.get(highest))
        if low and high:
            yield both.format(low, high)
        elif low:
            yield at_least.format(low)
        elif high:
            yield at_most.format(high)
    if schema.get("pattern") == PRINTABLE_PATTERN:
        yield "that can be printed"
    elif "pattern" in schema:
        yield f"that matches {schema['pattern']}"


def _written(limit: float | None) -> str:
    # FastAPI writes an integer limit of 200 as 200.0.
    return "" if limit is None else str(int(limit) if limit == int(limit) else limit)


def mistakes(errors: Iterable[ErrorDetails], body: object, schemas: Schemas) -> Sequence[Mistake]:
    """Convert pydantic's *errors* (as FastAPI reports them) of a request with that *body*; at most one per part."""
    found = (_explained(str(error["loc"][0]), error["loc"][1:], error, body, schemas) for error in errors)
    # Each option of a union has an error of its own.
    return list({each.pointer: each for each in found}.values())


def mistakes_in(body: object, errors: Iterable[ErrorDetails], schema: Schema) -> Sequence[Mistake]:
    """Convert pydantic's *errors* of a *body* that does not match *schema*; at most one per part."""
    schemas = Schemas(schema, schema)
    found: list[ErrorDetails] = [{**error, "loc": ("body", *error["loc"])} for error in errors]
    return mistakes(found, body, schemas)


def _explained(where: str, path: Sequence[str | int], error: ErrorDetails, body: object, schemas: Schemas) -> Mistake:
    kind = error["type"]
    if where == "body":
        path = () if kind == _NO_JSON else _existing(path, body, keep_last=kind in (_MISSING, _UNKNOWN))
    return Mistake(pointer=_pointer(where, path), detail=_detail(error, where, path, schemas))


def _detail(error: ErrorDetails, where: str, path: Sequence[str | int], schemas: Schemas) -> str:
    kind = error["type"]
    if kind == _NO_JSON:
        return f"must be JSON; it is not from character {error['loc'][-1]} on"
    if where == "body" and not path and kind not in _OURS:
        return _JSON_OBJECT
    if kind == _UNKNOWN:
        return f"unknown field; known are {', '.join(schemas.names(where, path[:-1]))}"
    if kind in _OURS:
        return str(error["msg"]).removeprefix(_VALUE_ERROR)
    schema = schemas.find(where, path)
    must_be = (
        "must be something else: see the API's description"
        if schema is None
        else (f"must be {requirement(schema, schemas.resolve)}")
    )
    return f"is missing: it {must_be}" if kind == _MISSING else must_be


def _existing(path: Sequence[str | int], body: object, *, keep_last: bool) -> list[str | int]:
    """
    Return the part of *path* that exists in *body*: pydantic's paths also name the members of a union.

    *keep_last* keeps the last step, which names a missing or unknown field.
    """
    steps = list(path[:-1] if keep_last else path)
    found: list[str | int] = []
    for step in steps:
        match body:
            case Mapping() if step in body:
                body = body[step]
            case list() if isinstance(step, int) and step < len(body):
                body = body[step]
            case _:
                break
        found.append(step)
    return [*found, *path[-1:]] if keep_last else found


def _pointer(where: str, path: Sequence[str | int]) -> str:
    if where != "body":
        return ".".join((where, *map(str, path)))
    return "/".join(("#", *(str(part).replace("~", "~0").replace("/", "~1") for part in path)))
