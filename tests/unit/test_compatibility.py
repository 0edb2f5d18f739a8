"""What breaks subscribers is found in a schema that keeps its version, whatever the kind of the break."""

from __future__ import annotations

import json
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any, Final

import pytest

from services.cli.docs.compatibility import find_breaks, remedy
from services.cli.docs.schemas import all_schemas
from services.cli.main import main

FROZEN = Path(__file__).parents[2] / "deploy" / "contract" / "frozen"
Schema = dict[str, Any]
Change = Callable[[Schema], object]

EVENT: Final[Schema] = {
    "title": "ModelMoved",
    "description": "A model moved.",
    "type": "object",
    "$defs": {
        "Cause": {"type": "string", "enum": ["training", "rollback"]},
        "Evidence": {
            "type": "object",
            "properties": {
                "seconds": {"type": "number", "minimum": 0, "maximum": 60},
                "checks": {
                    "type": "array",
                    "items": {"type": "string", "maxLength": 10},
                    "minItems": 1,
                    "maxItems": 3,
                },
                "title": {"type": "string", "description": "Field named like a keyword."},
            },
            "required": ["seconds"],
        },
    },
    "properties": {
        "user_id": {"type": "string", "minLength": 1, "maxLength": 200, "pattern": "^[a-z]*$"},
        "generation": {"type": "integer", "exclusiveMinimum": 0},
        "ref": {"type": "string", "format": "uuid"},
        "cause": {"$ref": "#/$defs/Cause"},
        "evidence": {"$ref": "#/$defs/Evidence", "description": "How it was found."},
        "kind": {"type": "string", "const": "moved"},
        "place": {"anyOf": [{"type": "string"}, {"$ref": "#/$defs/Cause"}]},
    },
    "required": ["user_id", "generation", "cause", "evidence"],
}


def fields(schema: Schema) -> Schema:
    found: Schema = schema["properties"]
    return found


def evidence(schema: Schema) -> Schema:
    found: Schema = schema["$defs"]["Evidence"]
    return found


def put(of: Callable[[Schema], Schema], name: str, **keywords: Any) -> Change:
    """Set keywords of a field, or remove those that are None."""

    def change(schema: Schema) -> None:
        field = of(schema)[name]
        for keyword, value in keywords.items():
            if value is None:
                del field[keyword]
            else:
                field[keyword] = value

    return change


def inner(schema: Schema) -> Schema:
    found: Schema = evidence(schema)["properties"]
    return found


#: A planted break by its kind: the change, and a part of what must be said.
BREAKS: Final[dict[str, tuple[Change, str]]] = {
    "required field removed": (lambda each: fields(each).pop("user_id"), "`user_id` is removed"),
    "optional field removed": (lambda each: fields(each).pop("ref"), "`ref` is removed"),
    "inner field removed": (lambda each: inner(each).pop("seconds"), "`evidence.seconds` is removed"),
    "field named like a keyword removed": (lambda each: inner(each).pop("title"), "`evidence.title` is removed"),
    "field renamed": (
        lambda each: fields(each).update(owner=fields(each).pop("user_id")),
        "`user_id` is removed",
    ),
    "field retyped": (put(fields, "generation", type="string"), "`generation` is string instead of integer"),
    "integer became a number": (put(fields, "generation", type="number"), "`generation` is number instead of integer"),
    "inner field retyped": (put(inner, "seconds", type="string"), "`evidence.seconds` is string instead of number"),
    "type no longer stated": (put(fields, "ref", type=None), "`ref` is anything instead of string"),
    "items retyped": (
        lambda each: inner(each)["checks"].update(items={"type": "integer"}),
        "`evidence.checks[]` is integer instead of string",
    ),
    "items no longer described": (put(inner, "checks", items=None), "the items of `evidence.checks`"),
    "field may be missing": (lambda each: each["required"].remove("user_id"), "`user_id` may be missing now"),
    "new field required": (
        lambda each: (fields(each).update(mood={"type": "string"}), each["required"].append("mood")),
        "`mood` is required now",
    ),
    "new inner field required": (
        lambda each: (inner(each).update(mood={"type": "string"}), evidence(each)["required"].append("mood")),
        "`evidence.mood` is required now",
    ),
    "known field required": (lambda each: each["required"].append("ref"), "`ref` is required now"),
    "enum narrowed": (
        lambda each: each["$defs"]["Cause"]["enum"].remove("rollback"),
        '`cause` no longer allows "rollback"',
    ),
    "enum widened": (lambda each: each["$defs"]["Cause"]["enum"].append("fate"), '`cause` also allows "fate"'),
    "enum where there was none": (put(fields, "ref", enum=["a"]), '`ref` is now limited to "a"'),
    "enum dropped": (lambda each: each["$defs"]["Cause"].pop("enum"), '`cause` is no longer limited to "training"'),
    "constant changed": (put(fields, "kind", const="gone"), '`kind` no longer allows "moved"'),
    "enum of an alternative narrowed": (
        lambda each: fields(each).update(place={"anyOf": [{"type": "string"}]}),
        "anyOf of `place`",
    ),
    "maxLength lowered": (put(fields, "user_id", maxLength=100), "100 instead of 200: earlier messages may exceed it"),
    "maxLength raised": (put(fields, "user_id", maxLength=300), "300 instead of 200: subscribers may refuse"),
    "maxLength dropped": (put(fields, "user_id", maxLength=None), "null instead of 200: subscribers may refuse"),
    "maxLength where there was none": (put(fields, "ref", maxLength=36), "36 instead of null: earlier messages"),
    "minLength raised": (put(fields, "user_id", minLength=2), "minLength of `user_id` is 2 instead of 1: earlier"),
    "maximum lowered": (
        put(inner, "seconds", maximum=30),
        "maximum of `evidence.seconds` is 30 instead of 60: earlier",
    ),
    "minimum raised": (put(inner, "seconds", minimum=1), "minimum of `evidence.seconds` is 1 instead of 0: earlier"),
    "minimum lowered": (put(inner, "seconds", minimum=-1), "-1 instead of 0: subscribers may refuse"),
    "exclusiveMinimum raised": (put(fields, "generation", exclusiveMinimum=9), "exclusiveMinimum of `generation`"),
    "minItems raised": (put(inner, "checks", minItems=2), "minItems of `evidence.checks` is 2 instead of 1: earlier"),
    "maxItems lowered": (put(inner, "checks", maxItems=1), "maxItems of `evidence.checks` is 1 instead of 3: earlier"),
    "limit of items lowered": (
        lambda each: inner(each)["checks"]["items"].update(maxLength=5),
        "maxLength of `evidence.checks[]` is 5 instead of 10: earlier",
    ),
    "pattern changed": (put(fields, "user_id", pattern="^[a-f]*$"), "pattern of `user_id` is"),
    "pattern added": (put(fields, "ref", pattern="^x"), "pattern of `ref` is"),
    "format changed": (put(fields, "ref", format="date-time"), "format of `ref` is"),
    "unknown fields refused": (lambda each: each.update(additionalProperties=False), "additionalProperties of the"),
}
#: What may change under one version.
HARMLESS: Final[dict[str, Change]] = {
    "nothing": lambda _: None,
    "optional field added": lambda each: fields(each).update(mood={"type": "string"}),
    "optional inner field added": lambda each: inner(each).update(mood={"type": "string", "enum": ["good"]}),
    "texts changed": lambda each: (
        each.update(title="T", description="D"),
        fields(each)["evidence"].pop("description"),
    ),
    "order changed": lambda each: (
        each["required"].reverse(),
        each.update(properties=dict(sorted(fields(each).items()))),
    ),
    "part written out": lambda each: fields(each).update(cause=deepcopy(each["$defs"]["Cause"])),
    "part renamed": lambda each: (
        each["$defs"].update(Why=deepcopy(each["$defs"]["Cause"])),
        fields(each).update(cause={"$ref": "#/$defs/Why"}),
    ),
}


@pytest.mark.parametrize("kind", BREAKS)
def test_a_planted_break_is_found_and_named(kind):
    change, told = BREAKS[kind]
    current = deepcopy(EVENT)
    change(current)

    breaks = find_breaks({"model.moved.v1": EVENT}, {"model.moved.v1": current})

    assert any(told in each for each in breaks), breaks
    assert all(each.startswith("model.moved.v1: ") for each in breaks)


@pytest.mark.parametrize("kind", HARMLESS)
def test_what_subscribers_do_not_notice_breaks_nothing(kind):
    current = deepcopy(EVENT)
    HARMLESS[kind](current)

    assert find_breaks({"model.moved.v1": EVENT}, {"model.moved.v1": current}) == []


def test_an_event_that_is_gone_is_a_break_and_a_new_one_is_not():
    breaks = find_breaks({"model.moved.v1": EVENT}, {"model.moved.v2": EVENT})

    assert breaks == ["model.moved.v1 is no longer there"]
    assert find_breaks({}, {"model.moved.v1": EVENT}) == []


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("model.ready.v1", "leave model.ready.v1 as it was released, and add the change as model.ready.v2 beside it"),
        ("a.v9", "leave a.v9 as it was released, and add the change as a.v10 beside it"),
        ("headers", "leave headers as it was released: events of all versions have it"),
    ],
)
def test_the_remedy_is_a_new_version_beside_the_old_one(name, told):
    breaks = find_breaks({name: EVENT}, {name: {**EVENT, "type": "array"}})

    assert told in remedy(breaks)


def test_the_events_of_today_keep_what_was_released():
    released = {path.stem: json.loads(path.read_text()) for path in FROZEN.glob("*.json")}

    assert len(released) > 1
    assert find_breaks(released, all_schemas()) == []


@pytest.mark.parametrize("options", [["--check"], [], ["--freeze"]])
def test_a_command_names_a_break_and_writes_nothing(options, tmp_path, capsys):
    main(["docs", "schemas", "--freeze", "--folder", str(tmp_path)])
    released = tmp_path / "frozen" / "model.activated.v1.json"
    schema = json.loads(released.read_text())
    schema["properties"]["trigger_word"]["maxLength"] = 64
    released.write_text(json.dumps(schema))
    capsys.readouterr()

    code = main(["docs", "schemas", *options, "--folder", str(tmp_path)])

    said = capsys.readouterr().err
    assert code == 1
    assert "model.activated.v1: maxLength of `trigger_word`" in said
    assert "add the change as model.activated.v2 beside it" in said
    assert json.loads(released.read_text()) == schema
