"""What do the services' APIs say of themselves? The whole of each description, for people and for programs."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

import httpx
import pytest

from services.ops.api import _STATUS as OPS_STATUS
from services.state.api import _STATUS as STATE_STATUS
from services.state.transitions import Stage
from shared.contract.errors import ModelswapError
from shared.contract.mistakes import FORMATS, KEYWORDS, Schemas, requirement
from shared.runtime.description import TOOLS, operations
from shared.runtime.health import reporter
from shared.runtime.http import create_app
from tests.apis import all_apis

APIS = all_apis()
OPERATIONS = [
    pytest.param(api.whole(), operation, id=f"{service}-{operation['operationId']}")
    for service, api in APIS.items()
    for _, _, operation in operations(api.whole())
]
#: What a schema says beside what a value must be.
_ANNOTATIONS = {"title", "description", "examples", "default", "contentMediaType"}
#: What holds between the fields of an object is said by a validator of ours.
_OBJECTS = {"anyOf", "oneOf", "properties", "required", "additionalProperties", "items", "prefixItems"}


def schemas_of(document: Mapping[str, Any], operation: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """Every schema of what an operation takes, however deep."""
    waiting = [each["schema"] for each in operation.get("parameters", ())]
    waiting += [each["schema"] for each in operation.get("requestBody", {}).get("content", {}).values()]
    resolve = Schemas(document, {}).resolve
    while waiting:
        schema = resolve(waiting.pop())
        yield schema
        inner = [*schema.get("anyOf", ()), *schema.get("properties", {}).values()]
        inner += [schema[name] for name in ("items", "additionalProperties") if isinstance(schema.get(name), dict)]
        waiting += inner


@pytest.mark.parametrize(("document", "operation"), OPERATIONS)
def test_there_are_words_for_all_that_a_request_must_be(document, operation):
    for schema in schemas_of(document, operation):
        wordless = schema.keys() - KEYWORDS - _ANNOTATIONS - _OBJECTS
        assert not wordless, f"{schema}: shared/contract/mistakes.py has no words for {', '.join(wordless)}"
        assert schema.get("format", "uuid") in FORMATS
        assert requirement(schema, Schemas(document, {}).resolve)


@pytest.mark.parametrize(("document", "operation"), OPERATIONS)
def test_every_operation_is_described_and_has_a_topic(document, operation):
    topics = {tag["name"] for tag in document["tags"]} | {TOOLS}

    assert operation["description"]
    assert len(operation["tags"]) == 1
    assert set(operation["tags"]) <= topics
    assert operation["security"]


@pytest.mark.parametrize(("service", "statuses"), [("state", STATE_STATUS), ("ops", OPS_STATUS)])
def test_every_error_with_a_status_is_one_of_some_operation(service, statuses):
    described = {
        kind
        for _, _, operation in operations(APIS[service].whole())
        for answer in operation["responses"].values()
        for content in answer.get("content", {}).values()
        for kind in content["schema"].get("properties", {}).get("type", {}).get("enum", ())
    }

    def kinds(error: type[ModelswapError]) -> set[str]:
        return {f"urn:modelswap:problem:{code.replace('_', '-')}" for code in error.codes or (error.code,)}

    forgotten = [error.__name__ for error in statuses if not kinds(error) <= described]
    assert forgotten == [], f"no operation of {service} has these in its @raises"


def test_an_operation_names_only_the_problems_that_it_has():
    paths = APIS["state"].openapi()["paths"]

    def problems(path: str, method: str) -> dict[str, list[str]]:
        return {
            status: [
                kind.removeprefix("urn:modelswap:problem:")
                for kind in answer["content"]["application/problem+json"]["schema"]["properties"]["type"]["enum"]
            ]
            for status, answer in paths[path][method]["responses"].items()
            if status >= "4"
        }

    assert problems("/users/{user_id}/model", "get") == {
        "401": ["unauthorized"],
        "404": ["not-found", "no-model"],
        "422": ["invalid"],
        "503": ["unavailable"],
    }
    assert problems("/trainings/{training_id}/cancel", "post") == {
        "401": ["unauthorized"],
        "403": ["forbidden"],
        "404": ["not-found", "no-training"],
        "409": ["already-ended", "id-not-known-yet", "cancel-refused"],
        "422": ["invalid"],
        "503": ["unavailable"],
    }


def test_internal_operations_are_not_in_the_description():
    document = APIS["state"].openapi()

    hidden = {"/preview", "/outputs", "/trainings/{training_id}/never-started"}
    assert hidden <= APIS["state"].whole()["paths"].keys()
    assert not hidden & document["paths"].keys()
    assert not {"Page_OutputView_", "Message", "NeverStarted"} & document["components"]["schemas"].keys()


def test_every_stage_is_explained():
    schema = APIS["state"].openapi()["components"]["schemas"]["Stage"]

    assert re.findall(r"^- `(\w+)`: .", schema["description"], re.MULTILINE) == schema["enum"] == list(Stage)


def test_a_stream_is_described_as_server_sent_events():
    answer = APIS["state"].openapi()["paths"]["/trainings/{training_id}/events"]["get"]["responses"]["200"]

    (media,) = answer["content"]
    assert media == "text/event-stream"
    assert "event: progress" in answer["content"][media]["example"]


@pytest.mark.parametrize(("service", "below"), [("state", "/v1"), ("ops", "/v1"), ("extractor", "")])
async def test_the_description_is_a_page_that_loads_nothing(service, below):
    api = APIS[service]
    transport = httpx.ASGITransport(create_app(api, reporter({}), below=below))
    async with httpx.AsyncClient(transport=transport, base_url=f"http://{service}{below}") as stranger:
        answer = await stranger.get("/docs")

    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    assert answer.headers["content-security-policy"].startswith("default-src 'none'; style-src 'sha256-")
    assert not re.search(r"<(script|link|img|iframe)|\b(src|style|on\w+)=|url\(|@import", answer.text)
    links = re.findall(r'href="([^"]*)"', answer.text)
    ids = re.findall(r'id="([^"]*)"', answer.text)
    assert {link for link in links if not link.startswith("#")} == {"openapi.json"}
    assert {link[1:] for link in links if link.startswith("#")} <= set(ids)
    assert {operation["operationId"] for _, _, operation in operations(api.openapi())} <= set(ids)
    assert len(ids) == len(set(ids))
