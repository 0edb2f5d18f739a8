"""
Mistakes of a request: says in our words what is wrong with which part, and what would be right. Pure.

The library's message is never shown. What would be right is read from the operation's own part of the API's description
(JSON Schema), so that both always say the same; a test fails when a description uses a keyword that has no words here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Final, Self

from shared.contract.answers import Mistake
from shared.contract.checked import PRINTABLE_PATTERN

Schema = Mapping[str, Any]

_JSON_OBJECT: Final = "must be a JSON object, sent with Content-Type: application/json"
#: Errors of our own validators, whose message is for the caller. `identity`: what is no model name or model ref.
_OURS: Final = ("value_error", "identity")
_VALUE_ERROR: Final = "Value error, "
_MISSING: Final = "missing"
_UNKNOWN: Final = "extra_forbidden"
_NO_JSON: Final = "json_invalid"

#: What a value of a format is, where JSON has only text.
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
#: The keywords that limit a value, with the words for them: for both ends, for the lower and for the upper one.
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
    """What is taken: the schema of a body, and of parameters by place and name; *document* is what they refer to."""

    def __init__(self, document: Schema, body: Schema, parameters: Sequence[Schema] = ()) -> None:
        self._document = document
        self._body = body
        self._parts = {(each["in"], each["name"].lower()): each["schema"] for each in parameters}

    @classmethod
    def of_operation(cls, document: Schema, operation: Schema) -> Self:
        """What an *operation* of an API's description takes."""
        content: Schema = operation.get("requestBody", {}).get("content", {})
        body: Schema = {}
        for each in content.values():
            body = each["schema"]
        return cls(document, body, operation.get("parameters", ()))

    def find(self, where: str, path: Sequence[str | int]) -> Schema | None:
        """The schema of one part; None if the description has none."""
        if where != "body":
            return self._parts.get((where, str(path[0]).lower())) if path else None
        schema: Schema | None = self._body
        for step in path:
            schema = schema and self._child(schema, step)
        return schema

    def names(self, where: str, path: Sequence[str | int]) -> Sequence[str]:
        """The fields of an object; of the query, if *where* is that."""
        if where != "body":
            return sorted(name for place, name in self._parts if place == where)
        schema = self.find(where, path)
        return () if schema is None else [name for each in self._options(schema) for name in each.get("properties", ())]

    def resolve(self, schema: Schema) -> Schema:
        """The schema that *schema* refers to, or itself."""
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
    """What a value must be to fit *schema*: ``a whole number from 1 to 200``."""
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
    # FastAPI's document has 200.0 where the limit is 200.
    return "" if limit is None else str(int(limit) if limit == int(limit) else limit)


def mistakes(errors: Iterable[Mapping[str, Any]], body: Any, schemas: Schemas) -> Sequence[Mistake]:
    """What *errors* (pydantic's, as FastAPI tells them) say of a request with that *body*; once for each part."""
    found = (_explained(error["loc"][0], error["loc"][1:], error, body, schemas) for error in errors)
    # Each option of a union has an error of its own.
    return list({each.pointer: each for each in found}.values())


def mistakes_in(body: Any, errors: Iterable[Mapping[str, Any]], schema: Schema) -> Sequence[Mistake]:
    """What *errors* (pydantic's) say of a *body* that was to fit *schema*; once for each part."""
    schemas = Schemas(schema, schema)
    return mistakes(({**error, "loc": ("body", *error["loc"])} for error in errors), body, schemas)


def _explained(where: str, path: Sequence[str | int], error: Mapping[str, Any], body: Any, schemas: Schemas) -> Mistake:
    kind = error["type"]
    if where == "body":
        path = () if kind == _NO_JSON else _existing(path, body, keep_last=kind in (_MISSING, _UNKNOWN))
    return Mistake(pointer=_pointer(where, path), detail=_detail(error, where, path, schemas))


def _detail(error: Mapping[str, Any], where: str, path: Sequence[str | int], schemas: Schemas) -> str:
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


def _existing(path: Sequence[str | int], body: Any, *, keep_last: bool) -> list[str | int]:
    """
    As much of *path* as there is in *body*: pydantic also names the options of a union, which are not.

    The last step is kept where it names a field that is not there, or that is there and unknown.
    """
    steps = list(path[:-1] if keep_last else path)
    found: list[str | int] = []
    for step in steps:
        try:
            body = body[step]
        except (LookupError, TypeError):
            break
        found.append(step)
    return [*found, *path[-1:]] if keep_last else found


def _pointer(where: str, path: Sequence[str | int]) -> str:
    if where != "body":
        return ".".join((where, *map(str, path)))
    return "/".join(("#", *(str(part).replace("~", "~0").replace("/", "~1") for part in path)))
