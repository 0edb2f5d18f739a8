"""What do our APIs say of themselves?"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from pydantic import BaseModel

from shared.runtime.http import create_app, new_api


class Body(BaseModel):
    words: list[str]


@pytest.fixture
async def description() -> Any:
    """What an API with one operation says of itself, to whoever asks."""
    api = new_api(title="an API", summary="For a test.", tokens=(), statuses={})

    @api.post("/words")
    async def count_words(body: Body) -> Body:
        """Count them."""
        return body

    async with httpx.AsyncClient(transport=httpx.ASGITransport(create_app(api, {})), base_url="http://api/v1") as asker:
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
