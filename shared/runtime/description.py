"""
OpenAPI description: adds the problems of each operation to FastAPI's document, and removes internal operations. Pure.

An operation declares with `raises` which of our errors it can answer with. Problems of all operations, such as 401, are
added here. Tests compare every response of an API with its description: see ``tests/described.py``.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from http import HTTPStatus
from typing import Any, Final, TypeVar

from shared.contract.answers import KIND_PREFIX, Problem
from shared.contract.errors import ModelswapError

Endpoint = TypeVar("Endpoint", bound=Callable[..., Any])
Document = dict[str, Any]

#: Tag of operations that only modelswap's own processes and commands use. They are left out of the document.
TOOLS: Final = "tools"
PROBLEM_JSON: Final = "application/problem+json"
#: Text about the problems of all operations.
PROBLEMS: Final = """\
Failures are answered as problems (RFC 9457, `application/problem+json`); each operation lists its types. In addition,
an unknown path is answered 404 `not-found`, an unsupported method 405 `method-not-allowed`, and an internal error 500
`internal`. Unknown query parameters and fields are refused.
"""
_SCHEMAS: Final = "#/components/schemas/"
_PROBLEM_REF: Final = _SCHEMAS + Problem.__name__
_READS: Final = ("get", "head", "options")
_RAISES: Final = "raises"

_INTEGER_HEADER: Final = {"schema": {"type": "integer", "minimum": 1}}
_HEADERS: Final[Mapping[int, Mapping[str, Any]]] = {
    401: {"WWW-Authenticate": {"schema": {"type": "string"}}},
    503: {"Retry-After": {"description": "Seconds after which to retry.", **_INTEGER_HEADER}},
}
#: Status, kind and description.
_ALWAYS: Final = (
    (401, "unauthorized", "The request has no valid bearer token."),
    (422, "invalid", "Parts of the request are invalid; `errors` names each, and what it must be."),
    (503, "unavailable", "A dependency is down. Retry after a moment."),
)
_OF_WRITES: Final = ((403, "forbidden", "The token is read-only."),)
_WITH_A_BODY: Final = (
    (400, "bad-request", "The body can not be read."),
    (413, "too-large", "The body is larger than 4 MiB."),
)
#: An id with a slash or a line break in it does not match the path.
_WITH_AN_ID: Final = ((404, "not-found", "There is no such path."),)


def raises(*errors: type[ModelswapError]) -> Callable[[Endpoint], Endpoint]:
    """Declare which of our errors an operation can answer with, in addition to those of every operation."""

    def note(endpoint: Endpoint) -> Endpoint:
        setattr(endpoint, _RAISES, errors)
        return endpoint

    return note


def describe(
    document: Document, endpoints: Mapping[str, Callable[..., Any]], statuses: Mapping[type[ModelswapError], HTTPStatus]
) -> None:
    """Complete FastAPI's *document*. *endpoints*: the functions by the ids of their operations."""
    schema = Problem.model_json_schema(ref_template=_SCHEMAS + "{model}")
    document["components"]["schemas"] |= {**schema.pop("$defs"), Problem.__name__: schema}
    for path, method, operation in operations(document):
        # FastAPI describes its own 422 response, which we replace.
        operation["responses"].pop("422", None)
        for parameter in operation.get("parameters", ()):
            parameter["schema"] = _present(parameter["schema"])
        errors = getattr(endpoints[operation["operationId"]], _RAISES, ())
        for status, kinds in sorted(_problems(path, method, operation, errors, statuses).items()):
            operation["responses"][str(status)] = _response(status, kinds)
    _drop_unused_schemas(document)


def _present(schema: Document) -> Document:
    # FastAPI describes an optional parameter as nullable. A parameter can be left out, but it is never null.
    options = [each for each in schema.get("anyOf", ()) if each != {"type": "null"}]
    rest = {name: value for name, value in schema.items() if name != "anyOf"}
    match options:
        case []:
            return schema
        case [only]:
            return {**rest, **only}
    return {**rest, "anyOf": options}


def operations(document: Mapping[str, Any]) -> Iterator[tuple[str, str, Document]]:
    """Yield path, method and operation of each operation."""
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            yield path, method, operation


def without_tools(document: Document) -> Document:
    """Return the document without operations tagged `TOOLS`, and without schemas that only those use."""
    paths: dict[str, Document] = defaultdict(dict)
    for path, method, operation in operations(document):
        if TOOLS not in operation.get("tags", ()):
            paths[path][method] = operation
    shown = {**document, "paths": dict(paths), "components": dict(document["components"])}
    _drop_unused_schemas(shown)
    return shown


def _problems(
    path: str,
    method: str,
    operation: Document,
    errors: tuple[type[ModelswapError], ...],
    statuses: Mapping[type[ModelswapError], HTTPStatus],
) -> Mapping[int, Mapping[str, str]]:
    """Return the description of each kind of problem, by status."""
    common = [
        *_ALWAYS,
        *(_OF_WRITES if method not in _READS else ()),
        *(_WITH_A_BODY if "requestBody" in operation else ()),
        *(_WITH_AN_ID if "{" in path else ()),
    ]
    own = [(statuses[error], kind_of(code), _says(error)) for error in errors for code in error.codes or (error.code,)]
    found: dict[int, dict[str, str]] = defaultdict(dict)
    for status, kind, says in (*common, *own):
        found[int(status)][kind] = says
    return found


def kind_of(code: str) -> str:
    """Return the kind of problem for an error code."""
    return code.replace("_", "-")


def _says(error: type[ModelswapError]) -> str:
    return (error.__doc__ or "").strip().partition("\n\n")[0]


def _response(status: int, kinds: Mapping[str, str]) -> Document:
    response: Document = {
        "description": "\n".join(f"- `{kind}`: {says}" for kind, says in kinds.items()),
        "content": {
            PROBLEM_JSON: {
                "schema": {
                    "$ref": _PROBLEM_REF,
                    "properties": {
                        "type": {"enum": [KIND_PREFIX + kind for kind in kinds]},
                        "status": {"const": status},
                    },
                }
            }
        },
    }
    return {**response, "headers": _HEADERS[status]} if status in _HEADERS else response


def _drop_unused_schemas(document: Document) -> None:
    schemas = document["components"]["schemas"]
    used: set[str] = set()
    new = set(_references(document["paths"]))
    while new:
        used |= new
        new = {name for each in new for name in _references(schemas[each])} - used
    document["components"]["schemas"] = {name: schema for name, schema in schemas.items() if name in used}


def _references(part: Any) -> Iterator[str]:
    """Yield the names of all schemas that *part* refers to, at any depth."""
    match part:
        case {"$ref": str(reference), **rest}:
            yield reference.removeprefix(_SCHEMAS)
            yield from _references(rest)
        case dict():
            for each in part.values():
                yield from _references(each)
        case list():
            for each in part:
                yield from _references(each)
