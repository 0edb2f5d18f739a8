"""The webhook's address: it proves what we knew of the training, and nobody else can write one."""

from collections.abc import Sequence
from dataclasses import replace
from urllib.parse import parse_qs, urlsplit
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st
from itsdangerous import URLSafeSerializer

from shared.contract.identity import ModelName
from shared.replicate.training import Training
from shared.replicate.webhook_url import (
    Claim,
    ForeignRef,
    Origin,
    _encrypt,
    _serializer,
    claim_in,
    find_origin,
    origin_from_headers,
    origin_headers,
    read_claim,
    webhook_url,
)

OLD, NEW = "old secret", "new secret"
CLAIM = Claim(UUID("0193f0c0-0000-7000-8000-000000000001"), ModelName("acme", "u-42"), 1000, "user-42")


def token(claim: Claim = CLAIM, secrets: Sequence[str] = (NEW, OLD)) -> str:
    return parse_qs(urlsplit(webhook_url("https://hooks.example.com", claim, secrets)).query)["ref"][0]


@pytest.mark.parametrize("public_url", ["https://hooks.example.com", "https://hooks.example.com/"])
def test_the_address_is_the_receivers(public_url):
    address = urlsplit(webhook_url(public_url, CLAIM, [NEW]))

    assert (address.scheme, address.netloc, address.path) == ("https", "hooks.example.com", "/webhooks/replicate")


USERS = st.none() | st.text(st.characters(exclude_categories=["C", "Z"]), min_size=1, max_size=100)


@given(st.uuids(), st.none() | st.integers(1, 2**31), USERS)
def test_a_claim_is_read_back_as_it_was(ref, total_steps, user_id):
    claim = Claim(ref, ModelName("a-1", "b.2_c"), total_steps, user_id)

    assert read_claim(token(claim), [NEW]) == claim


@pytest.mark.parametrize(("user_id", "kept"), [("u" * 200, True), ("\N{GRINNING FACE}" * 200, False)])
def test_a_user_that_makes_the_token_too_long_is_left_out(user_id, kept):
    claim = Claim(CLAIM.ref, ModelName("a" * 64, "b" * 128), 2**31, user_id)

    assert read_claim(token(claim), [NEW]) == (claim if kept else replace(claim, user_id=None))


def test_a_token_of_an_earlier_version_names_no_user():
    earlier = _serializer((NEW,)).dumps([CLAIM.ref.hex, "acme/u-42", 1000])

    assert read_claim(str(earlier), [NEW]) == replace(CLAIM, user_id=None)


@pytest.mark.parametrize("user", ["", "a\nb", "u" * 201])
def test_what_can_be_no_user_is_none(user):
    assert read_claim(token(replace(CLAIM, user_id=user)), [NEW]) == replace(CLAIM, user_id=None)


def test_the_user_cannot_be_read_in_the_url():
    ref, destination, steps, encrypted = _serializer((NEW, OLD)).loads(token())

    assert (ref, destination, steps) == (CLAIM.ref.hex, "acme/u-42", 1000)
    assert CLAIM.user_id not in encrypted


@pytest.mark.parametrize(
    "user",
    ["user-42", "", 7, None, _encrypt("user-42", CLAIM.ref, OLD), _encrypt("user-42", UUID(int=9), NEW)],
    ids=str,
)
def test_a_user_that_was_not_encrypted_by_us_is_none(user):
    signed = _serializer((NEW,)).dumps([CLAIM.ref.hex, "acme/u-42", 1000, user])

    assert read_claim(str(signed), [NEW]) == replace(CLAIM, user_id=None)


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
    [
        *(None, [], {}, "text", [CLAIM.ref.hex, "acme/u-42"], ["no uuid", "acme/u-42", 1], [CLAIM.ref.hex, "Acme", 1]),
        [CLAIM.ref.hex, "acme/u-42", 1000, "user-42", "more"],
    ],
)
def test_a_token_of_ours_with_another_content_is_no_claim(content):
    assert read_claim(str(_serializer((NEW,)).dumps(content)), [NEW]) is None


OTHER = Claim(UUID(int=9), ModelName("acme", "u-7"), 500)


def webhook_of(claim: Claim) -> str:
    return webhook_url("https://hooks.example.com", claim, [NEW])


def posted(webhook: str | None) -> Training:
    """A training whose body says that its webhooks go to *webhook*."""
    return Training.model_validate({"id": "t1", "status": "succeeded", "webhook": webhook})


@pytest.mark.parametrize("called", [[token(CLAIM)], [], ["foreign"], [token(CLAIM), token(OTHER)]])
def test_a_body_that_names_its_address_confirms_the_ref(called):
    assert find_origin(posted(webhook_of(CLAIM)), called, [NEW, OLD]) == Origin(CLAIM)


def test_a_body_of_another_training_than_the_address_is_refused():
    with pytest.raises(ForeignRef, match="t1"):
        find_origin(posted(webhook_of(CLAIM)), [token(OTHER)], [NEW, OLD])


@pytest.mark.parametrize("webhook", [None, "", "https://example.com/hook?ref=x", "https://[", "x" * 5000])
def test_the_called_address_alone_is_only_a_hint(webhook):
    assert find_origin(posted(webhook), [token(CLAIM)], [NEW]) == Origin(called_ref=CLAIM.ref)


@pytest.mark.parametrize("called", [[], ["foreign"], [token(CLAIM), token(CLAIM)]])
def test_no_address_of_ours_is_no_origin(called):
    assert find_origin(posted(None), called, [NEW]) == Origin()


def test_an_address_with_two_refs_claims_nothing():
    assert claim_in(f"{webhook_of(CLAIM)}&ref={token(OTHER)}", [NEW]) is None


@given(st.uuids(), st.none() | st.integers(1, 2**31), USERS)
def test_the_origin_can_wait_in_a_message(ref, total_steps, user_id):
    for origin in (
        Origin(Claim(ref, ModelName("acme", "u-42"), total_steps, user_id)),
        Origin(called_ref=ref),
        Origin(),
    ):
        assert origin_from_headers({"webhook-id": "msg_1", **origin_headers(origin)}) == origin


@pytest.mark.parametrize("headers", [{}, {"claim-ref": "x", "claim-destination": "acme/ada"}, {"claim-ref": 7}])
def test_a_message_without_an_origin_has_none(headers):
    assert origin_from_headers(headers) == Origin()
