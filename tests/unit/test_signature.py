"""Webhook signatures: only somebody who knows one of our secrets, and lately, gets in."""

import base64
import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from standardwebhooks.webhooks import Webhook

from shared.replicate.signature import BadSignature, decode_secret, sign, verify

# The vector that all of Replicate's own clients test with.
SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
ID = "msg_p5jXN8AQM9LWM0D4loKWxJek"
TIMESTAMP = 1614265330
BODY = b'{"test": 2432232314}'
SIGNATURE = "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="
OTHER_SECRET = "whsec_" + base64.b64encode(b"another secret of 24 byte").decode()

WEBHOOKS = Path(__file__).parent.parent / "fixtures" / "webhooks"
INDEX = [json.loads(line) for line in (WEBHOOKS / "index.jsonl").read_text().splitlines()]


def check(**changes: Any) -> None:
    good = {
        "secrets": [SECRET],
        "message_id": ID,
        "timestamp": str(TIMESTAMP),
        "signatures": SIGNATURE,
        "body": BODY,
        "now": TIMESTAMP,
    }
    verify(**{**good, **changes})


def refusal(**changes: Any) -> str:
    with pytest.raises(BadSignature) as caught:
        check(**changes)
    return caught.value.code


def test_the_public_vector_is_signed_and_accepted():
    check()

    assert sign(SECRET, ID, TIMESTAMP, BODY) == SIGNATURE


@pytest.mark.parametrize("entry", INDEX, ids=lambda entry: entry["file"])
def test_every_sample_is_accepted_byte_for_byte(entry):
    body = (WEBHOOKS / entry["file"]).read_bytes()
    headers = entry["headers"]

    check(
        message_id=headers["webhook-id"],
        timestamp=headers["webhook-timestamp"],
        signatures=headers["webhook-signature"],
        body=body,
        now=int(headers["webhook-timestamp"]),
    )

    assert len(body) == entry["bytes"]


@given(st.text(st.characters(codec="ascii", categories=("L", "N")), min_size=1, max_size=50), st.text(max_size=200))
def test_the_reference_library_signs_alike(message_id, text):
    moment = datetime.fromtimestamp(TIMESTAMP, UTC)

    assert Webhook(SECRET).sign(message_id, moment, text) == sign(SECRET, message_id, TIMESTAMP, text.encode())


def test_the_same_json_spelled_otherwise_is_another_body():
    assert refusal(body=b'{"test":2432232314}') == "wrong_signature"


@given(st.integers(0, len(BODY) * 8 - 1))
def test_no_bit_of_the_body_can_change(bit):
    body = bytearray(BODY)
    body[bit // 8] ^= 1 << bit % 8

    assert refusal(body=bytes(body)) == "wrong_signature"


@given(st.integers(3, len(SIGNATURE) - 1), st.integers(0, 7))
def test_no_bit_of_the_signature_can_change(index, bit):
    changed = SIGNATURE[:index] + chr(ord(SIGNATURE[index]) ^ 1 << bit) + SIGNATURE[index + 1 :]

    assert refusal(signatures=changed) == "wrong_signature"


def test_the_id_and_the_timestamp_are_signed_too():
    assert refusal(message_id=ID + "x") == "wrong_signature"
    assert refusal(timestamp=str(TIMESTAMP + 1)) == "wrong_signature"


@pytest.mark.parametrize("header", ["message_id", "timestamp", "signatures"])
def test_a_missing_header_is_refused(header):
    assert refusal(**{header: ""}) == "missing_headers"


NOTHING = {"message_id": "", "timestamp": "", "signatures": "", "body": b""}


def test_what_has_neither_signature_nor_body_is_empty():
    assert refusal(**NOTHING) == "empty"


@pytest.mark.parametrize("part", NOTHING)
def test_a_part_of_a_webhook_is_not_empty(part):
    given = {"message_id": ID, "timestamp": str(TIMESTAMP), "signatures": SIGNATURE, "body": BODY}

    assert refusal(**{**NOTHING, part: given[part]}) == "missing_headers"


@pytest.mark.parametrize(
    "timestamp",
    ["1_614_265_330", " 1614265330", "1614265330\n", "\N{ARABIC-INDIC DIGIT ONE}614265330", "-1", "1e9", "9" * 13],
)
def test_a_timestamp_that_is_not_plain_digits_is_refused(timestamp):
    assert refusal(timestamp=timestamp) == "malformed_headers"


@pytest.mark.parametrize("message_id", ["msg 1", "msg\n1", "ä", "\ud800", "m" * 256])
def test_an_id_that_is_not_short_and_plain_is_refused(message_id):
    assert refusal(message_id=message_id) == "malformed_headers"


@pytest.mark.parametrize("skew", [-300, 0, 300])
def test_five_minutes_of_skew_are_fine(skew):
    check(now=TIMESTAMP + skew)


@pytest.mark.parametrize("skew", [-301, 301, 86_400])
def test_more_than_five_minutes_of_skew_are_stale(skew):
    assert refusal(now=TIMESTAMP + skew) == "stale_timestamp"


def test_any_of_several_secrets_will_do():
    check(secrets=[OTHER_SECRET, SECRET])

    assert refusal(secrets=[OTHER_SECRET]) == "wrong_signature"
    assert refusal(secrets=[]) == "wrong_signature"


def test_one_valid_signature_of_several_is_enough():
    check(signatures=f"v1a,AAAA v2,{SIGNATURE[3:]} v1,AAAA {SIGNATURE}")


def test_the_eleventh_signature_is_not_looked_at():
    check(signatures=" ".join(["v1,AAAA"] * 9 + [SIGNATURE]))

    assert refusal(signatures=" ".join(["v1,AAAA"] * 10 + [SIGNATURE])) == "wrong_signature"


@pytest.mark.parametrize(
    "signatures",
    [
        "xx",
        "v1",
        "v1,",
        ",",
        "v1," + SIGNATURE,
        SIGNATURE[3:],
        SIGNATURE + "\n",
        "v1,ä",
        "\ud800",
        "V1" + SIGNATURE[2:],
    ],
)
def test_a_malformed_signature_is_only_a_wrong_one(signatures):
    assert refusal(signatures=signatures) == "wrong_signature"


def test_the_secret_is_the_decoded_part_after_its_prefix():
    key = decode_secret(SECRET)

    assert key == base64.b64decode("MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
    assert key == decode_secret("MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")


@pytest.mark.parametrize("secret", ["", "whsec_", "whsec_c2hvcnQ=", "whsec_not base64!", SECRET + "\n", "whsec_ä"])
def test_a_bad_secret_is_refused_without_repeating_it(secret):
    with pytest.raises(ValueError, match="a webhook secret") as caught:
        decode_secret(secret)

    assert secret.removeprefix("whsec_") not in str(caught.value) or not secret.removeprefix("whsec_")


def test_a_refusal_names_no_secret():
    with pytest.raises(BadSignature) as caught:
        check(secrets=[OTHER_SECRET])

    assert OTHER_SECRET[6:] not in str(caught.value)
