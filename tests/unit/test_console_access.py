"""Who may use the console: sessions, CSRF tokens, headers, slowed sign-ins. Over ASGI, before an API that is a fake."""

from datetime import UTC, datetime

from fastapi import APIRouter

from services.ops.api import create_api
from services.ops.letters.views import LetterCounts
from shared.runtime.http import Api
from tests.console import TOKENS, opened_console, signed_in
from tests.ops import OPERATOR

NOON = datetime(2026, 11, 29, 12, tzinfo=UTC)


def an_api() -> Api:
    router = APIRouter()

    @router.get("/dead-letter-counts")
    async def count_dead_letters() -> LetterCounts:
        return LetterCounts(open=7)

    return create_api(router, tokens=TOKENS)


class Clock:
    def __init__(self):
        self.now = NOON

    def __call__(self):
        return self.now


async def test_without_a_session_a_page_leads_to_the_sign_in():
    async with opened_console(an_api()) as browser:
        answer = await browser.get("/dead-letters?status=open")

    assert answer.status_code == 303
    assert answer.headers["location"] == "/sign-in?next=%2Fdead-letters%3Fstatus%3Dopen"


async def test_a_known_token_signs_in_and_leads_back():
    async with opened_console(an_api()) as browser:
        answer = await browser.http.post("/sign-in", data={"token": f" {OPERATOR} ", "next": "/audit"})
        page = await browser.get("/")

    assert (answer.status_code, answer.headers["location"]) == (303, "/audit")
    assert page.status_code == 200
    assert "olga" in page.text


async def test_every_page_has_the_headers_of_its_protection():
    async with signed_in(an_api()) as browser:
        page, missing = await browser.get("/"), await browser.get("/nothing-here")

    assert missing.status_code == 404
    for answer in (page, missing):
        assert answer.headers["cache-control"] == "no-store"
        assert answer.headers["x-frame-options"] == "DENY"
        policy = answer.headers["content-security-policy"]
        assert policy.startswith("default-src 'none'; script-src 'self'; style-src 'self';")
        assert "frame-ancestors 'none'" in policy
        assert "unsafe" not in policy
