"""What is said of a request that makes no sense: in our words, of the right part, with the remedy."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import datetime
from enum import StrEnum
from typing import Annotated, Any
from uuid import UUID

import httpx
import pytest
from fastapi import Path, Query
from pydantic import AfterValidator, Base64Bytes, BaseModel, ConfigDict, Field, JsonValue, TypeAdapter, ValidationError

from shared.contract.answers import NUMBER, Flag, Moment
from shared.contract.identity import ModelRef, TrainingId, UserId
from shared.contract.mistakes import mistakes_in
from shared.contract.text import printable
from shared.runtime.health import reporter
from shared.runtime.http import Cursor, Key, Limit, create_app, new_api
from shared.runtime.tokens import read_token


class Size(StrEnum):
    SMALL = "small"
    LARGE = "large"


class Part(BaseModel):
    model_config = ConfigDict(extra="forbid")

    name: Annotated[str, Field(min_length=1, max_length=5), AfterValidator(printable)] = "a"


class Thing(BaseModel):
    """One field for each kind of value that our APIs take."""

    model_config = ConfigDict(extra="forbid")

    reason: str
    count: Annotated[int, Field(ge=1, le=200), NUMBER] = 1
    at_least: Annotated[int, Field(gt=0)] = 1
    share: Annotated[float, Field(ge=0, le=1), NUMBER] = 0.5
    is_small: Flag = False
    size: Size | None = None
    model: ModelRef | None = None
    part: Part = Part()
    steps: Annotated[tuple[int | str, ...], Field(min_length=1, max_length=2)] = (1,)
    data: dict[str, JsonValue] = {}
    moment: Moment | None = None
    id: UUID | None = None
    raw: Base64Bytes = b""
    headers: dict[str, str | int | None] = {}


@pytest.fixture
async def asker() -> AsyncIterator[httpx.AsyncClient]:
    api = new_api(
        tags={"things": "Things."}, title="an API", summary="For a test.", tokens=[read_token("t")], statuses={}
    )

    @api.post("/things/{training_id}", tags=["things"])
    async def take(
        training_id: Annotated[TrainingId, Path()],
        body: Thing,
        since: Annotated[Moment, Query()],
        user_id: UserId = "ada",
        size: Size | None = None,
        *,
        limit: Limit = 1,
        cursor: Cursor = None,
        key: Key = None,
    ) -> None:
        """Take a thing."""

    async with httpx.AsyncClient(
        transport=httpx.ASGITransport(create_app(api, reporter({}))),
        base_url="http://api/v1",
        headers={"Authorization": "Bearer t"},
    ) as asker:
        yield asker


GOOD = {"reason": "r"}
SINCE = "2026-11-24T12:00:00Z"
MODEL = "must be a model ref of the form owner/name:version (64 lower-case hex digits)"
MOMENT = "must be a date and time with its offset, such as 2026-11-24T12:00:00Z"
KNOWN = ", ".join(Thing.model_fields)

BODIES: list[tuple[Any, str, str]] = [
    ({}, "#/reason", "is missing: it must be text"),
    ({"reason": None}, "#/reason", "must be text"),
    ({"reason": 7}, "#/reason", "must be text"),
    ({**GOOD, "reasons": 1}, "#/reasons", f"unknown field; known are {KNOWN}"),
    ({**GOOD, "a/b~c": 1}, "#/a~1b~0c", f"unknown field; known are {KNOWN}"),
    ({**GOOD, "count": 0}, "#/count", "must be a whole number from 1 to 200"),
    ({**GOOD, "count": 201}, "#/count", "must be a whole number from 1 to 200"),
    ({**GOOD, "count": "many"}, "#/count", "must be a whole number from 1 to 200"),
    ({**GOOD, "count": 1.5}, "#/count", "must be a whole number from 1 to 200"),
    ({**GOOD, "count": 10**30}, "#/count", "must be a whole number from 1 to 200"),
    ({**GOOD, "count": "5"}, "#/count", "must be a whole number from 1 to 200"),
    ({**GOOD, "count": True}, "#/count", "must be a whole number from 1 to 200"),
    ({**GOOD, "at_least": 0}, "#/at_least", "must be a whole number above 0"),
    ({**GOOD, "share": 2}, "#/share", "must be a number from 0 to 1"),
    ({**GOOD, "share": "half"}, "#/share", "must be a number from 0 to 1"),
    ({**GOOD, "is_small": "perhaps"}, "#/is_small", "must be true or false"),
    ({**GOOD, "is_small": 0}, "#/is_small", "must be true or false"),
    ({**GOOD, "is_small": []}, "#/is_small", "must be true or false"),
    ({**GOOD, "size": "huge"}, "#/size", "must be one of small, large or null"),
    ({**GOOD, "model": "acme"}, "#/model", MODEL),
    ({**GOOD, "model": 7}, "#/model", MODEL),
    ({**GOOD, "part": 7}, "#/part", "must be a JSON object"),
    ({**GOOD, "part": {"nam": "b"}}, "#/part/nam", "unknown field; known are name"),
    ({**GOOD, "part": {"name": ""}}, "#/part/name", "must be text of 1 to 5 characters"),
    ({**GOOD, "part": {"name": "abcdef"}}, "#/part/name", "must be text of 1 to 5 characters"),
    ({**GOOD, "part": {"name": "\n"}}, "#/part/name", "must consist of printable characters"),
    ({**GOOD, "steps": []}, "#/steps", "must be a list of 1 to 2 items"),
    ({**GOOD, "steps": [1, 2, 3]}, "#/steps", "must be a list of 1 to 2 items"),
    ({**GOOD, "steps": 1}, "#/steps", "must be a list of 1 to 2 items"),
    ({**GOOD, "steps": [1, {}]}, "#/steps/1", "must be a whole number or text"),
    ({**GOOD, "data": []}, "#/data", "must be a JSON object"),
    ({**GOOD, "moment": "yesterday"}, "#/moment", MOMENT),
    ({**GOOD, "moment": 0}, "#/moment", MOMENT),
    ({**GOOD, "moment": "2026-11-24"}, "#/moment", MOMENT),
    ({**GOOD, "moment": "2026-11-24T12:00:00"}, "#/moment", MOMENT),
    ({**GOOD, "moment": "2026-13-24T12:00:00Z"}, "#/moment", f"{MOMENT} or null"),
    ({**GOOD, "id": "x"}, "#/id", "must be a UUID or null"),
    ({**GOOD, "id": 7}, "#/id", "must be a UUID or null"),
    ({**GOOD, "raw": "A"}, "#/raw", "must be text in base64"),
    ({**GOOD, "headers": {"a": []}}, "#/headers/a", "must be text or a whole number or null"),
    ([], "#", "must be a JSON object, sent with Content-Type: application/json"),
    (None, "#", "must be a JSON object, sent with Content-Type: application/json"),
]


@pytest.mark.parametrize(("body", "pointer", "detail"), BODIES)
async def test_a_mistake_in_a_body_is_named_with_the_remedy(asker, body, pointer, detail):
    answer = await asker.post(f"/things/t1?since={SINCE}", json=body)

    assert answer.status_code == 422
    assert answer.json()["errors"] == [{"pointer": pointer, "detail": detail}]


@pytest.mark.parametrize(
    ("path", "pointer", "detail"),
    [
        ("t1", "query.since", f"is missing: it {MOMENT}"),
        ("t1?since=0", "query.since", MOMENT),
        (f"t1?since={SINCE}&limit=0", "query.limit", "must be a whole number from 1 to 200"),
        (f"t1?since={SINCE}&limit=many", "query.limit", "must be a whole number from 1 to 200"),
        (f"t1?since={SINCE}&size=huge", "query.size", "must be one of small, large"),
        (f"t1?since={SINCE}&cursor=x", "query.cursor", "must be the `next_cursor` of an earlier page"),
        (f"t1?since={SINCE}&user_id=", "query.user_id", "must be text of 1 to 200 characters that can be printed"),
        (f"t1?since={SINCE}&user_id=%00", "query.user_id", "must consist of printable characters"),
        (
            f"a~b?since={SINCE}",
            "path.training_id",
            "must be text that matches ^[A-Za-z0-9][A-Za-z0-9_-]{0,127}$",
        ),
    ],
)
async def test_a_mistake_in_a_parameter_is_named_with_the_remedy(asker, path, pointer, detail):
    answer = await asker.post(f"/things/{path}", json=GOOD)

    assert answer.status_code == 422
    assert answer.json()["errors"] == [{"pointer": pointer, "detail": detail}]


async def test_a_mistake_in_a_header_is_named_with_the_remedy(asker):
    answer = await asker.post(f"/things/t1?since={SINCE}", json=GOOD, headers={"Idempotency-Key": "a b"})

    (mistake,) = answer.json()["errors"]
    assert mistake["pointer"] == "header.Idempotency-Key"
    assert mistake["detail"].startswith("must be text of 1 to 255 characters that matches ")


async def test_where_a_body_stops_being_json_is_said(asker):
    answer = await asker.post(
        f"/things/t1?since={SINCE}", content=b'{"reason": }', headers={"Content-Type": "application/json"}
    )

    assert answer.json()["errors"] == [{"pointer": "#", "detail": "must be JSON; it is not from character 11 on"}]


async def test_all_mistakes_are_told_at_once(asker):
    answer = await asker.post(f"/things/t1?since={SINCE}&limit=0", json={"count": 0, "x": 1})

    assert [error["pointer"] for error in answer.json()["errors"]] == ["query.limit", "#/reason", "#/count", "#/x"]


def test_errors_outside_the_description_are_in_our_words():
    with pytest.raises(ValidationError) as caught:
        TypeAdapter(dict[str, datetime]).validate_python({"a": "x"})

    (mistake,) = mistakes_in({"a": "x"}, caught.value.errors(), {"type": "object"})

    assert (mistake.pointer, mistake.detail) == ("#/a", "must be something else: see the API's description")
