"""Who may use the console: sessions, CSRF tokens, headers, slowed sign-ins. Over ASGI, before an API that is a fake."""

import contextlib
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from starlette.responses import Response
from starlette.routing import Route
from structlog.testing import capture_logs

from services.ops.api import create_api
from services.ops.console import app as console_app
from services.ops.console.attempts import FREE, LONGEST, Attempts
from services.ops.console.console import page_route
from services.ops.console.session import Flash, begin, csrf_token, from_cookie, open_flash, seal_flash, to_cookie
from services.ops.letters.views import LetterCounts
from shared.contract.errors import DependencyDown
from shared.runtime.http import Api, Router
from shared.runtime.tokens import read_token
from tests.console import ADDRESS, TOKENS, opened_console, signed_in
from tests.ops import OPERATOR, READER

NOON = datetime(2026, 11, 29, 12, tzinfo=UTC)
OLGA, RITA = TOKENS


def an_api() -> Api:
    router = Router()

    @router.get("/dead-letter-counts")
    async def count_dead_letters() -> LetterCounts:
        return LetterCounts(open=7)

    return create_api(router, tokens=TOKENS)


class Clock:
    now = NOON

    def __call__(self) -> datetime:
        return self.now


# Sessions


async def test_without_a_session_a_page_leads_to_the_sign_in():
    async with opened_console(an_api()) as browser:
        answer = await browser.get("/dead-letters?status=open")

    assert answer.status_code == 303
    assert answer.headers["location"] == "/sign-in?next=%2Fdead-letters%3Fstatus%3Dopen"


@pytest.mark.parametrize("host", ["x/static/", "x/sign-in?", "[", "x y", "x#"])
async def test_no_host_header_makes_a_page_open(host):
    async with opened_console(an_api()) as browser:
        answer = await browser.get("/dead-letters", Host=host)

    assert (answer.status_code, answer.headers["location"]) == (303, "/sign-in?next=%2Fdead-letters")


async def test_a_known_token_signs_in_and_leads_back():
    async with opened_console(an_api()) as browser:
        answer = await browser.http.post("/sign-in", data={"token": f" {OPERATOR} ", "next": "/audit"})
        page = await browser.get("/search")

    assert (answer.status_code, answer.headers["location"]) == (303, "/audit")
    assert page.status_code == 200
    assert "olga" in page.text


async def test_the_cookie_is_for_this_site_alone_and_has_no_token():
    async with opened_console(an_api()) as browser:
        answer = await browser.sign_in()

    cookie = answer.headers["set-cookie"]
    assert {"HttpOnly", "Path=/", "SameSite=strict", "Max-Age=28800"} <= set(cookie.split("; "))
    assert "Secure" not in cookie
    assert OPERATOR not in cookie


@pytest.mark.parametrize(
    ("client", "secure"), [(("10.1.2.3", 1), True), (("203.0.113.9", 1), False)], ids=["trusted", "anybody"]
)
async def test_behind_a_trusted_proxy_with_https_the_cookie_is_secure(client, secure):
    async with opened_console(an_api(), client=client) as browser:
        answer = await browser.http.post("/sign-in", data={"token": OPERATOR}, headers={"X-Forwarded-Proto": "https"})

    assert ("Secure" in answer.headers["set-cookie"]) is secure


async def test_after_the_sign_out_there_is_no_session():
    async with signed_in(an_api()) as browser:
        answer = await browser.post("/sign-out")
        after = await browser.get("/search")

    assert (answer.status_code, after.status_code) == (303, 303)


async def test_a_session_ends_after_eight_hours():
    clock = Clock()
    async with signed_in(an_api(), clock=clock) as browser:
        clock.now = NOON + timedelta(hours=7, minutes=59)
        before = await browser.get("/search")
        clock.now = NOON + timedelta(hours=8)
        after = await browser.get("/search")

    assert (before.status_code, after.status_code) == (200, 303)


def test_a_rotated_token_ends_its_sessions_and_no_others():
    cookie = to_cookie(begin(OLGA, nonce="n", now=NOON))

    assert from_cookie(cookie, TOKENS, NOON) is not None
    assert from_cookie(cookie, [RITA, read_token("operator/olga:another")], NOON) is None


def test_a_reader_cannot_turn_a_session_into_an_operators():
    cookie = to_cookie(begin(RITA, nonce="n", now=NOON))
    payload, _, signature = cookie.rpartition(".")

    for forged in (f"{payload[:-1]}A.{signature}", f"{payload}.{signature[:-2]}AA", payload, "", "." * 5000):
        assert from_cookie(forged, TOKENS, NOON) is None
    read = from_cookie(cookie, TOKENS, NOON)
    assert read is not None
    assert not read.may_write


def test_a_flash_is_for_its_session_alone():
    mine, other = (begin(OLGA, nonce=nonce, now=NOON) for nonce in "ab")
    sealed = seal_flash(Flash(text="done"), mine)

    assert open_flash(sealed, mine) == Flash(text="done")
    assert open_flash(sealed, other) is None
    assert csrf_token(mine) != csrf_token(other)


async def test_a_link_from_another_site_is_followed_with_the_session():
    """Browsers keep the strict cookie back: the page then loads itself, which sends it."""
    async with opened_console(an_api()) as browser:
        answer = await browser.get("/dead-letters/7", **{"Sec-Fetch-Site": "cross-site"})

    assert answer.status_code == 200
    assert '<meta http-equiv="refresh" content="0">' in answer.text


async def test_a_part_that_is_asked_for_without_a_session_loads_the_page_anew():
    async with opened_console(an_api()) as browser:
        answer = await browser.get("/", **{"HX-Request": "true"})

    assert (answer.status_code, answer.headers["hx-refresh"]) == (401, "true")


# Sign-in


async def test_every_failed_sign_in_has_the_same_answer():
    async with opened_console(an_api()) as browser:
        answers = [
            await browser.http.post("/sign-in", data=data)
            for data in ({"token": "wrong"}, {"token": OPERATOR[:-1]}, {})
        ]

    assert {answer.status_code for answer in answers} == {401}
    assert len({answer.text for answer in answers}) == 1
    assert "wrong" not in answers[0].text


async def test_sign_ins_are_slowed_even_with_the_right_token():
    clock = Clock()
    async with opened_console(an_api(), clock=clock) as browser:
        for _ in range(FREE):
            await browser.sign_in("wrong")
        slowed = await browser.sign_in()
        clock.now += timedelta(seconds=1)
        waited = await browser.sign_in()

    assert (slowed.status_code, slowed.headers["retry-after"]) == (429, "1")
    assert waited.status_code == 303


async def test_links_that_could_not_be_looked_up_slow_nobody():
    async def away(_: str) -> Any:
        raise DependencyDown("Postgres is away")

    async with opened_console(an_api(), redeem=away) as browser:
        answers = [await browser.http.post("/sign-in", data={"code": "a-code"}) for _ in range(2 * FREE)]

    assert {answer.status_code for answer in answers} == {503}


async def test_a_trusted_proxys_clients_are_slowed_one_by_one():
    async with opened_console(an_api(), client=("10.1.2.3", 1)) as browser:
        for _ in range(FREE):
            await browser.http.post("/sign-in", data={"token": "no"}, headers={"X-Forwarded-For": "1.1.1.1, 9.9.9.9"})
        same, other = [
            await browser.http.post("/sign-in", data={"token": "no"}, headers={"X-Forwarded-For": address})
            for address in ("6.6.6.6, 9.9.9.9", "8.8.8.8")
        ]

    assert (same.status_code, other.status_code) == (429, 401)


async def test_a_client_cannot_hide_behind_a_line_of_its_own():
    async with opened_console(an_api(), client=("10.1.2.3", 1)) as browser:
        answers = [
            await browser.http.post(
                "/sign-in",
                data={"token": "no"},
                headers=[("X-Forwarded-For", f"6.6.6.{number}"), ("X-Forwarded-For", "9.9.9.9")],
            )
            for number in range(FREE + 1)
        ]

    assert [answer.status_code for answer in answers] == [401] * FREE + [429]


def test_the_wait_doubles_up_to_five_minutes_and_is_forgotten():
    attempts, now = Attempts(), NOON
    waits = []
    for _ in range(14):
        attempts.failed("192.0.2.1", now)
        waits.append(attempts.wait("192.0.2.1", now).total_seconds())
        now += attempts.wait("192.0.2.1", now)

    assert waits == [0, 0, 1, 2, 4, 8, 16, 32, 64, 128, 256, 300, 300, 300]
    assert attempts.wait("192.0.2.1", now + 4 * LONGEST) == timedelta()


def test_a_client_with_many_ipv6_addresses_is_one_client():
    attempts = Attempts()
    for number in range(FREE):
        attempts.failed(f"2001:db8::{number}", NOON)

        attempts.failed("192.0.2.1", NOON)
    assert attempts.wait("2001:db8::ffff", NOON)
    assert attempts.wait("::ffff:192.0.2.1", NOON)
    assert not attempts.wait("2001:db8:1::", NOON)


def test_the_table_of_attempts_is_bounded():
    attempts = Attempts(limit=3)
    for number in range(10):
        attempts.failed(f"192.0.2.{number}", NOON)

    assert len(attempts._records) == 3


# Writes


@contextlib.asynccontextmanager
async def writable(monkeypatch, token=OPERATOR, **options):
    """The console with one more screen, which writes down who posted what."""
    seen = []

    def routes(console):
        async def post(visit):
            seen.append((visit.session.name, visit.form.get("word")))
            return Response("done")

        return [page_route(console, "/word", post, method="POST")]

    monkeypatch.setattr(console_app, "SCREENS", (*console_app.SCREENS, routes))
    async with signed_in(an_api(), token=token, **options) as browser:
        yield browser, seen


async def test_a_form_with_its_token_is_taken(monkeypatch):
    async with writable(monkeypatch) as (browser, seen):
        answer = await browser.post("/word", word="yes")

    assert (answer.status_code, seen) == (200, [("olga", "yes")])


@pytest.mark.parametrize(
    "forged",
    [{}, {"csrf": ""}, {"csrf": "0" * 64}, {"csrf": "\u2603"}],
    ids=["none", "empty", "another", "no-ascii"],
)
async def test_a_form_without_its_token_is_refused(monkeypatch, forged):
    async with writable(monkeypatch) as (browser, seen):
        answer = await browser.http.post("/word", data={"word": "no", **forged})

    assert (answer.status_code, seen) == (403, [])


@pytest.mark.parametrize("headers", [{"Sec-Fetch-Site": "cross-site"}, {"Origin": "https://evil.example"}])
async def test_a_form_of_another_site_is_refused_even_with_the_token(monkeypatch, headers):
    async with writable(monkeypatch) as (browser, seen):
        answer = await browser.post("/word", headers=headers, word="no")

    assert (answer.status_code, seen) == (403, [])


async def test_a_sign_in_sent_by_another_site_is_refused():
    async with opened_console(an_api()) as browser:
        answer = await browser.http.post(
            "/sign-in", data={"token": OPERATOR}, headers={"Origin": "https://evil.example"}
        )

    assert answer.status_code == 403
    assert "set-cookie" not in answer.headers


async def test_a_readers_forged_write_is_refused(monkeypatch):
    async with writable(monkeypatch, READER) as (browser, seen):
        answer = await browser.post("/word", word="no")

    assert (answer.status_code, seen) == (403, [])
    assert "look, but change nothing" in answer.text


async def test_a_body_that_is_too_large_is_refused(monkeypatch):
    async with writable(monkeypatch) as (browser, seen):
        answer = await browser.http.post("/word", data={"word": "x" * 5_000_000})

    assert (answer.status_code, seen) == (413, [])


# The person's name


@pytest.mark.parametrize(
    ("client", "header", "name"),
    [
        (("10.1.2.3", 1), "grace@example.com", "grace@example.com"),
        (("10.1.2.3", 1), "no name\u00ff", "olga"),
        (("203.0.113.9", 1), "grace@example.com", "olga"),
    ],
    ids=["trusted", "invalid", "anybody"],
)
async def test_a_trusted_proxy_names_the_person(monkeypatch, client, header, name):
    async with writable(monkeypatch, client=client, name_header="X-Forwarded-User") as (browser, seen):
        await browser.post("/word", headers={"X-Forwarded-User": header.encode("latin-1")})

    assert seen == [(name, None)]


async def test_without_the_setting_no_header_names_the_person(monkeypatch):
    async with writable(monkeypatch, client=("10.1.2.3", 1)) as (browser, seen):
        await browser.post("/word", headers={"X-Forwarded-User": "grace"})

    assert seen == [("olga", None)]


async def test_a_header_from_outside_names_nobody_at_the_api():
    router = Router()
    api = create_api(router, tokens=TOKENS)

    @router.get("/x")
    async def x() -> None: ...

    async with opened_console(api) as browser:
        answer = await browser.get("/v1/nowhere", **{"modelswap-console-person": "eve"})

    assert answer.status_code == 401


# Headers and errors


async def test_every_page_has_the_headers_of_its_protection(monkeypatch):
    def routes(console):
        async def broken(request):
            raise RuntimeError("internals")

        return [Route("/broken", broken)]

    monkeypatch.setattr(console_app, "SCREENS", (*console_app.SCREENS, routes))
    with capture_logs():
        async with signed_in(an_api()) as browser:
            answers = [await browser.get(path) for path in ("/search", "/nothing-here", "/broken", "/sign-in")]
            answers.append(await browser.http.post("/search", data={}))

    assert [answer.status_code for answer in answers] == [200, 404, 500, 200, 403]
    for answer in answers:
        assert answer.headers["cache-control"] == "no-store"
        assert answer.headers["x-frame-options"] == "DENY"
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["referrer-policy"] == "same-origin"
        policy = answer.headers["content-security-policy"]
        assert policy.startswith("default-src 'none'; script-src 'self'; style-src 'self';")
        assert "frame-ancestors 'none'" in policy
        assert "unsafe" not in policy
        assert "internals" not in answer.text


async def test_a_static_file_may_be_kept_for_ever_under_its_digest():
    async with opened_console(an_api()) as browser:
        page = (await browser.get("/sign-in")).text
        address = page.partition('rel="stylesheet" href="')[2].partition('"')[0]
        kept, asked = await browser.get(address), await browser.get("/static/console.css")
        missing = [await browser.get(f"/static/{name}") for name in ("nothing.css", "..%2Fapp.py", "%2e%2e/app.py")]

    assert kept.headers["cache-control"] == "public, max-age=31536000, immutable"
    assert kept.headers["content-type"].startswith("text/css")
    assert asked.headers["cache-control"] == "no-cache"
    assert kept.content == asked.content
    assert {answer.status_code for answer in missing} <= {303, 404}


async def test_the_navigation_shows_how_many_dead_letters_are_open():
    async with signed_in(an_api()) as browser:
        page = await browser.get("/search")

    assert '<span class="count" title="open dead letters">7</span>' in page.text


async def test_the_health_and_the_api_are_not_the_consoles():
    async with opened_console(an_api()) as browser:
        live, api = await browser.get("/livez"), await browser.get("/v1/dead-letter-counts")

    assert live.json() == {"status": "ok"}
    assert api.status_code == 401
    assert api.headers["content-type"] == "application/problem+json"
    assert str(live.url).startswith(ADDRESS)
