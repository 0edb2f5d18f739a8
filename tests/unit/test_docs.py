"""The contract's documents: committed as the code says them, valid, and true of the messages that are sent."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema_rs
import pytest
from schemathesis.specs.openapi.definitions import OPENAPI_31_VALIDATOR

from services.cli.docs.asyncapi import asyncapi, example_of
from services.cli.docs.schemas import HEADERS, PUBLIC, all_schemas, event_schema, headers_schema
from services.cli.main import main
from shared.contract.envelope import decode
from shared.contract.topology import EVENTS_LOG, topology

FOLDER = Path(__file__).parents[2] / "deploy" / "contract"
FIXTURES = Path(__file__).parents[1] / "fixtures"
KINDS = ["asyncapi", "openapi", "schemas"]


@pytest.mark.parametrize("kind", KINDS)
def test_the_committed_documents_are_as_the_code_says(kind, capsys):
    code = main(["docs", kind, "--check", "--folder", str(FOLDER)])

    assert code == 0, capsys.readouterr().err


def test_a_document_that_differs_is_named_with_the_remedy(tmp_path, capsys):
    main(["docs", "schemas", "--folder", str(tmp_path)])
    (tmp_path / "schemas" / "model.ready.v1.json").write_text("{}")
    (tmp_path / "schemas" / "model.gone.v1.json").write_text("{}")

    code = main(["docs", "schemas", "--check", "--folder", str(tmp_path)])

    said = capsys.readouterr().err
    assert code == 1
    assert "model.ready.v1.json" in said
    assert "model.gone.v1.json" in said
    assert "make docs" in said
    assert "model.activated" not in said


def test_writing_removes_the_schema_of_an_event_that_is_gone(tmp_path):
    gone = tmp_path / "schemas" / "model.gone.v1.json"
    gone.parent.mkdir()
    gone.write_text("{}")

    main(["docs", "schemas", "--folder", str(tmp_path)])

    assert {path.stem for path in gone.parent.iterdir()} == {HEADERS, *PUBLIC}


@pytest.mark.parametrize("schema", all_schemas().values(), ids=all_schemas())
def test_every_schema_is_valid_json_schema(schema):
    jsonschema_rs.meta.validate(schema)


@pytest.mark.parametrize("key", PUBLIC)
def test_an_example_is_a_message_that_its_schemas_accept(key):
    headers, body = example_of(PUBLIC[key])

    decoded = decode(headers, "application/json", json.dumps(body).encode())

    assert type(decoded.event) is PUBLIC[key]
    jsonschema_rs.validate(event_schema(PUBLIC[key]), body)
    jsonschema_rs.validate(headers_schema(), headers)


@pytest.mark.parametrize("key", PUBLIC)
def test_a_message_without_a_required_field_is_refused(key):
    _, body = example_of(PUBLIC[key])
    schema = event_schema(PUBLIC[key])

    for name in schema["required"]:
        without = {field: value for field, value in body.items() if field != name}
        assert not jsonschema_rs.is_valid(schema, without)
        assert not jsonschema_rs.is_valid(schema, {**body, name: None})


def test_asyncapi_tells_of_every_public_event_and_no_other():
    document = asyncapi()

    log = document["channels"].pop(EVENTS_LOG)
    assert log["messages"].keys() == {event.__name__ for event in PUBLIC.values()}
    assert log["bindings"]["amqp"]["queue"]["name"] in {queue.name for queue in topology().queues}
    assert document["channels"].keys() == PUBLIC.keys()
    for key, channel in document["channels"].items():
        binding = channel["bindings"]["amqp"]
        assert (binding["exchange"]["name"], binding["exchange"]["type"]) == ("modelswap.events", "topic")
        (message,) = (resolved(document, each) for each in channel["messages"].values())
        assert message["name"] == channel["address"] == key
        assert "`modelswap.subscription.NAME`" in channel["description"]
        assert message["examples"]
        assert "generation" in message["description"] or "current model" in message["description"]
    assert {each["channel"]["$ref"] for each in document["operations"].values()} == {
        f"#/channels/{key}" for key in (*PUBLIC, EVENTS_LOG)
    }
    for promise in ("At least once", "No order", "highest generation wins", "ce-id"):
        assert promise in document["info"]["description"]


def test_asyncapi_has_the_shape_of_asyncapi():
    shape = json.loads((FIXTURES / "asyncapi-shape.json").read_text())
    document = json.loads((FOLDER / "asyncapi.json").read_text())

    jsonschema_rs.validate(shape, document)
    next(iter(document["operations"].values()))["action"] = "shout"
    assert not jsonschema_rs.is_valid(shape, document)


def test_every_reference_of_a_document_leads_somewhere():
    for path in sorted(FOLDER.rglob("*.json")):
        document = json.loads(path.read_text())
        for reference in references(document):
            resolved(document, {"$ref": reference})


@pytest.mark.parametrize("path", sorted(FOLDER.glob("openapi-*.json")), ids=lambda path: path.stem)
def test_every_default_is_one_that_its_schema_accepts(path):
    document = json.loads(path.read_text())
    schemas = [each for each in objects(document) if "default" in each]

    assert schemas
    for schema in schemas:
        jsonschema_rs.validate({**schema, "components": document["components"]}, schema["default"])


def test_every_pattern_is_one_that_all_languages_read():
    found = {each for path in FOLDER.rglob("*.json") for each in patterns(json.loads(path.read_text()))}

    assert found
    for pattern in found:
        re.compile(pattern)
        # Go has no \u and no look-around.
        assert not re.search(r"\\u|\(\?[=!<]", pattern)


@pytest.mark.parametrize("path", sorted(FOLDER.glob("openapi-*.json")), ids=lambda path: path.stem)
def test_every_openapi_document_is_valid(path):
    errors = [each.message for each in OPENAPI_31_VALIDATOR.iter_errors(json.loads(path.read_text()))]

    assert errors == []


def objects(part: Any) -> Iterator[dict[str, Any]]:
    """All objects in *part*, at any depth."""
    if isinstance(part, dict):
        yield part
        part = list(part.values())
    if isinstance(part, list):
        for each in part:
            yield from objects(each)


def references(part: Any) -> Iterator[str]:
    return (each["$ref"] for each in objects(part) if isinstance(each.get("$ref"), str))


def patterns(part: Any) -> Iterator[str]:
    return (each["pattern"] for each in objects(part) if isinstance(each.get("pattern"), str))


def resolved(document: Any, part: Any) -> Any:
    assert part["$ref"].startswith("#/")
    found = document
    for name in part["$ref"][2:].split("/"):
        found = found[name]
    return found
