"""The webhook's address: it proves what we knew of the training, and nobody else can write one."""

from collections.abc import Sequence
from urllib.parse import parse_qs, urlsplit
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st
from itsdangerous import URLSafeSerializer

from shared.contract.identity import ModelName
from shared.replicate.webhook_url import Claim, _serializer, claim_from_headers, claim_headers, read_claim, webhook_url

OLD, NEW = "old secret", "new secret"
CLAIM = Claim(UUID("0193f0c0-0000-7000-8000-000000000001"), ModelName("acme", "u-42"), 1000)


def token(claim: Claim = CLAIM, secrets: Sequence[str] = (NEW, OLD)) -> str:
    return parse_qs(urlsplit(webhook_url("https://hooks.example.com", claim, secrets)).query)["ref"][0]


@pytest.mark.parametrize("public_url", ["https://hooks.example.com", "https://hooks.example.com/"])
def test_the_address_is_the_receivers(public_url):
    address = urlsplit(webhook_url(public_url, CLAIM, [NEW]))

    assert (address.scheme, address.netloc, address.path) == ("https", "hooks.example.com", "/webhooks/replicate")


@given(st.uuids(), st.none() | st.integers(1, 2**31))
def test_a_claim_is_read_back_as_it_was(ref, total_steps):
    claim = Claim(ref, ModelName("a-1", "b.2_c"), total_steps)

    assert read_claim(token(claim), [NEW]) == claim


def test_the_first_secret_signs_and_all_verify():
    signed_with_new = token(secrets=[NEW, OLD])
    signed_with_old = token(secrets=[OLD])

    assert read_claim(signed_with_new, [NEW]) == CLAIM
    assert read_claim(signed_with_new, [OLD]) is None
    assert read_claim(signed_with_old, [NEW, OLD]) == CLAIM


@pytest.mark.parametrize("foreign", [None, "", ".", "a.b", "customer-42", "\ud800", "ä.ö", "x" * 5000, "e30.AAAA"])
def test_a_missing_or_foreign_token_is_no_claim(foreign):
    assert read_claim(foreign, [NEW]) is None


def test_without_secrets_nothing_is_claimed():
    assert read_claim(token(), []) is None


@given(st.data())
def test_no_character_of_a_token_can_change(data):
    good = token()
    index = data.draw(st.integers(0, len(good) - 2))  # the last one has bits that base64 does not use
    other = data.draw(st.sampled_from("ABCabc019-_.").filter(lambda character: character != good[index]))

    assert read_claim(good[:index] + other + good[index + 1 :], [NEW]) is None


def test_a_token_that_was_signed_for_something_else_is_no_claim():
    elsewhere = URLSafeSerializer(NEW, salt="session").dumps([CLAIM.ref.hex, "acme/u-42", 1000])

    assert read_claim(str(elsewhere), [NEW]) is None


@pytest.mark.parametrize(
    "content",
    [None, [], {}, "text", [CLAIM.ref.hex, "acme/u-42"], ["no uuid", "acme/u-42", 1], [CLAIM.ref.hex, "Acme", 1]],
)
def test_a_token_of_ours_with_another_content_is_no_claim(content):
    assert read_claim(str(_serializer((NEW,)).dumps(content)), [NEW]) is None


@given(st.uuids(), st.none() | st.integers(1, 2**31))
def test_what_an_address_proved_can_wait_in_a_message(ref, total_steps):
    claim = Claim(ref, ModelName("acme", "u-42"), total_steps)

    assert claim_from_headers({"webhook-id": "msg_1", **claim_headers(claim)}) == claim


@pytest.mark.parametrize("headers", [{}, {"claim-ref": "x", "claim-destination": "acme/ada"}, {"claim-ref": 7}])
def test_a_message_without_a_claim_has_none(headers):
    assert claim_from_headers(headers) is None
