"""What do our APIs say of themselves, and of a request that they can not read?"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from typing import Any

import httpx
import pytest
from pydantic import BaseModel

from shared.runtime.http import create_app, new_api
from shared.runtime.tokens import read_token


class Body(BaseModel):
    words: list[str]


@pytest.fixture
async def asker() -> AsyncIterator[httpx.AsyncClient]:
    """Whoever asks an API with one operation."""
    api = new_api(title="an API", summary="For a test.", tokens=(read_token("t"),), statuses={})

    @api.post("/words")
    async def take_words(body: Body) -> Body:
        """Give them back."""
        return body

    async with httpx.AsyncClient(
        transport=httpx.ASGITransport(create_app(api, {})),
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

    problems = [answer["content"] for status, answer in responses.items() if int(status) >= 400]
    assert problems
    for content in problems:
        assert content == {"application/problem+json": {"schema": {"$ref": "#/components/schemas/Problem"}}}


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
