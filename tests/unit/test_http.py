"""What do our APIs say of themselves, and of a request that they can not read?"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from typing import Annotated, Any

import httpx
import pytest
from fastapi import Query
from pydantic import BaseModel

from shared.runtime.health import reporter
from shared.runtime.http import Limit, Router, create_app, new_api
from shared.runtime.tokens import read_token


class Body(BaseModel):
    words: list[str]


class Wanted(BaseModel):
    limit: Limit = 50


@pytest.fixture
async def asker() -> AsyncIterator[httpx.AsyncClient]:
    """Whoever asks an API with one operation."""
    api = new_api(tags={}, title="an API", summary="For a test.", tokens=(read_token("t"),), statuses={})

    @api.post("/words")
    async def take_words(body: Body) -> Body:
        """Give them back."""
        return body

    router = Router()

    @router.get("/words/{number}")
    async def get_words(number: int, wanted: Annotated[Wanted, Query()], after: str = "") -> list[str]:
        """Show some of them."""
        return [str(number), str(wanted.limit), after]

    api.take(router)

    async with httpx.AsyncClient(
        transport=httpx.ASGITransport(create_app(api, reporter({}))),
        base_url="http://api/v1",
        headers={"Authorization": "Bearer t"},
    ) as asker:
        yield asker


@pytest.fixture
async def description(asker) -> Any:
    return (await asker.get("/openapi.json")).json()


def references(part: Any) -> Iterator[str]:
    """Whatever *part* refers to, however deep."""
    match part:
        case {"$ref": str(reference)}:
            yield reference
        case dict():
            for each in part.values():
                yield from references(each)
        case list():
            for each in part:
                yield from references(each)


def find(document: Any, reference: str) -> Any:
    for name in reference.removeprefix("#/").split("/"):
        document = document.get(name, {})
    return document


def test_whatever_a_description_refers_to_is_in_it(description):
    missing = {reference for reference in references(description) if not find(description, reference)}

    assert set(references(description)) > {"#/components/schemas/Problem", "#/components/schemas/Mistake"}
    assert missing == set()


def test_every_problem_is_described_once(description):
    responses = description["paths"]["/words"]["post"]["responses"]

    problems = {status: answer["content"] for status, answer in responses.items() if int(status) >= 400}
    assert list(problems) == ["400", "401", "403", "413", "422", "503"]
    for status, content in problems.items():
        schema = content["application/problem+json"]["schema"]
        assert (schema["$ref"], schema["properties"]["status"]) == (
            "#/components/schemas/Problem",
            {"const": int(status)},
        )


@pytest.mark.parametrize(
    ("body", "headers"),
    [
        ('{"words": []}', {}),
        ('{"words": []}', {"Content-Type": "text/plain"}),
        ("[]", {"Content-Type": "application/json"}),
    ],
)
async def test_a_body_that_is_not_sent_as_a_json_object_is_told_how(asker, body, headers):
    answer = await asker.post("/words", content=body, headers=headers)

    assert answer.status_code == 422
    assert answer.json()["errors"] == [
        {"pointer": "#", "detail": "must be a JSON object, sent with Content-Type: application/json"}
    ]


async def test_parameters_that_are_known_are_taken(asker):
    answer = await asker.get("/words/7?limit=3&after=b")

    assert answer.json() == ["7", "3", "b"]


@pytest.mark.parametrize(
    ("method", "path", "mistakes"),
    [
        ("GET", "/words/7?limt=3", {"query.limt": "unknown parameter; known are after, limit"}),
        ("GET", "/words/7?number=3", {"query.number": "unknown parameter; known are after, limit"}),
        ("GET", "/words/7?Limit=3&=", {"query.Limit": "unknown parameter; known are after, limit", "query.": ...}),
        ("GET", "/words/7?limit=3&limit=4", {"query.limit": "must be given once"}),
        ("POST", "/words?dry_run=true", {"query.dry_run": "unknown parameter; none is taken here"}),
    ],
)
async def test_parameters_that_are_unknown_or_repeated_are_refused(asker, method, path, mistakes):
    answer = await asker.request(method, path, json={"words": []})

    assert (answer.status_code, answer.json()["title"]) == (422, "invalid")
    found = {error["pointer"]: error["detail"] for error in answer.json()["errors"]}
    assert found == {pointer: found[pointer] if detail is ... else detail for pointer, detail in mistakes.items()}
