"""One-time codes: what the database holds of them, and whom they sign in."""

from __future__ import annotations

from services.ops.api import create_api
from services.ops.sign_in.codes import digest_of, maker_of, proof_of
from shared.contract.errors import DependencyDown
from tests.console import TOKENS, opened_console

CODE = "a-code-of-a-link"
SECRET = "token-of-olga-which-is-long"


def test_a_code_stands_for_the_token_that_made_it():
    proof = proof_of(CODE, SECRET)

    assert maker_of(CODE, proof, ["another-token", SECRET]) == SECRET


def test_a_rotated_token_ends_its_codes():
    proof = proof_of(CODE, SECRET)

    assert maker_of(CODE, proof, ["another-token"]) is None


def test_a_row_of_another_code_proves_nothing():
    assert maker_of(CODE, proof_of("another code", SECRET), [SECRET]) is None


def test_what_is_stored_shows_neither_code_nor_token():
    stored = digest_of(CODE) + proof_of(CODE, SECRET)

    assert CODE.encode() not in stored
    assert SECRET.encode() not in stored
    assert proof_of(CODE, SECRET) != proof_of("another code", SECRET)


async def test_a_link_survives_an_outage_of_the_database():
    async def away(_: str) -> None:
        raise DependencyDown("Postgres does not answer")

    async with opened_console(create_api(tokens=TOKENS), redeem=away) as browser:
        answer = await browser.http.post("/sign-in", data={"code": CODE})

    assert answer.status_code == 503
    assert "set-cookie" not in answer.headers
