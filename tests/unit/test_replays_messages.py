"""What is sent when a letter is replayed?"""

from __future__ import annotations

import json
import math
from dataclasses import replace
from uuid import UUID

import pytest

from services.ops.letters.letter import ReplayMark
from services.ops.replays.messages import EditRefused, StoredLetter, edited, headers_of, message_of, translated
from shared.contract.envelope import REPLAY_HEADER, Envelope, decode
from shared.contract.events import TrainingCanceled, TrainingSucceeded
from shared.contract.identity import ModelName
from shared.contract.topology import DELIVERIES_QUEUE, RECEIVER
from shared.replicate.translate import UnknownStatus
from tests.replays import letter_of
from tests.state import NOON, ready, succeeded

MARK = ReplayMark(UUID(int=7), 1)


def structured(event: Envelope) -> StoredLetter:
    """*event* as one message that says everything in its body."""
    attributes = {name[3:]: value for name, value in event.headers().items()}
    body = json.dumps({**attributes, "data": json.loads(event.body())}).encode()
    return letter_of(event, headers={}, content_type="application/cloudevents+json; charset=utf-8", body=body)


def webhook(status: str = "thinking", **fields):
    body = json.dumps({"id": "t1", "status": status, **fields}).encode()
    headers = {"webhook-id": "msg_1", "claim-ref": str(UUID(int=3)), "claim-destination": "acme/ada"}
    return letter_of(ready("t1"), queue=RECEIVER, headers=headers, body=body, event_type=None)


def test_letter_is_sent_byte_for_byte_with_headers_and_mark():
    letter = letter_of(
        ready("t1"),
        headers={**ready("t1").headers(), "x-attempt": 3, "x-failed-at": "then", "x-failed-by": "x", "own": 1},
    )

    assert headers_of(letter, MARK) == {**ready("t1").headers(), "own": 1, REPLAY_HEADER: str(MARK)}
    assert message_of(letter, MARK).body == letter.body


def test_the_mark_of_an_earlier_replay_gives_way():
    letter = letter_of(ready("t1"), headers={**ready("t1").headers(), REPLAY_HEADER: "an-older-one:1"})

    assert headers_of(letter, MARK)[REPLAY_HEADER] == str(MARK)


@pytest.mark.parametrize("make", [letter_of, structured], ids=["binary", "structured"])
def test_whoever_reads_it_sees_the_event_and_the_mark(make):
    letter = make(ready("t1"))

    envelope = decode(headers_of(letter, MARK), letter.content_type, letter.body)

    assert (envelope.event, envelope.id, envelope.replay) == (ready("t1").event, ready("t1").id, str(MARK))


def test_webhook_letter_is_translated_with_todays_code():
    envelope = translated(webhook("succeeded", output={"version": "x"}), MARK)

    assert isinstance(envelope.event, TrainingSucceeded)
    assert (envelope.event.ref, envelope.event.destination) == (UUID(int=3), ModelName("acme", "ada"))
    assert (envelope.replay, envelope.time) == (str(MARK), NOON)


def test_a_webhook_without_a_claim_is_translated_as_well():
    letter = webhook("aborted")
    envelope = translated(letter_of(ready("t1"), queue=RECEIVER, headers={}, body=letter.body), MARK)

    assert isinstance(envelope.event, TrainingCanceled)
    assert envelope.event.ref is None


def test_a_status_that_is_still_unknown_is_still_refused():
    with pytest.raises(UnknownStatus):
        translated(webhook("thinking"), MARK)


def test_edit_keeps_event_type_and_training():
    letter = letter_of(succeeded("t1", output="nonsense"))
    data = {**json.loads(letter.body), "output": {"version": "acme/ada:" + "a" * 64}}

    assert json.loads(edited(letter, data)) == data


def test_of_a_structured_event_only_the_data_is_edited():
    letter = structured(succeeded("t1", output="nonsense"))
    data = {"training_id": "t1", "output": "sense"}

    assert json.loads(edited(letter, data)) == {**json.loads(letter.body), "data": data}


@pytest.mark.parametrize("beside", ["\ud83d", "\x00"], ids=["half a pair", "a NUL"])
def test_what_stands_beside_the_edited_data_is_kept(beside):
    letter = structured(succeeded("t1", output="nonsense"))
    document = {**json.loads(letter.body), "subject": beside}
    data = {"training_id": "t1", "output": "sense"}

    body = edited(replace(letter, body=json.dumps(document).encode()), data)

    assert json.loads(body) == {**document, "data": data}


def test_an_edit_beside_a_number_that_is_none_is_refused():
    letter = structured(succeeded("t1", output="nonsense"))
    body = json.dumps({**json.loads(letter.body), "subject": math.nan}).encode()

    with pytest.raises(EditRefused, match="#: another attribute of the event is NaN"):
        edited(replace(letter, body=body), {"training_id": "t1", "output": "sense"})


def test_data_that_cannot_be_sent_can_be_mended():
    letter = structured(succeeded("t1", output="nonsense"))
    body = json.dumps({**json.loads(letter.body), "data": {"training_id": "t1", "output": "\ud83d"}}).encode()

    mended = json.loads(edited(replace(letter, body=body), {"training_id": "t1", "output": "sense"}))

    assert mended["data"] == {"training_id": "t1", "output": "sense"}


def test_a_body_that_could_not_be_read_can_be_mended():
    letter = letter_of(succeeded("t1"), body=b"{broken")

    assert json.loads(edited(letter, {"training_id": "t1", "output": "sense"})) == {
        "training_id": "t1",
        "output": "sense",
    }


@pytest.mark.parametrize(
    ("data", "where"),
    [
        ({"training_id": "t2"}, "#/training_id"),
        ({"training_id": "t1", "ref": str(UUID(int=9))}, "#/ref"),
        ({}, "#/training_id"),
        ({"training_id": "t1", "output_omitted_bytes": "many"}, "#/output_omitted_bytes"),
    ],
)
def test_ids_and_nonsense_are_refused_with_the_place(data, where):
    with pytest.raises(EditRefused) as refused:
        edited(letter_of(succeeded("t1")), data)

    assert [mistake.pointer for mistake in refused.value.mistakes] == [where]


def test_a_destination_that_was_proved_is_not_edited():
    signed = succeeded("t1", destination="acme/ada")
    data = json.loads(signed.body())

    with pytest.raises(EditRefused, match="destination: cannot be edited"):
        edited(letter_of(signed), {**data, "destination": "acme/eve"})

    assert json.loads(edited(letter_of(signed), {**data, "output": "sense"}))["destination"] == "acme/ada"


def test_what_webhook_endpoints_get_signed_is_not_edited():
    letter = letter_of(ready("t1"), queue=DELIVERIES_QUEUE)
    data = {**json.loads(letter.body), "model": "acme/eve:" + "a" * 64}

    with pytest.raises(EditRefused, match="endpoints get what was published"):
        edited(letter, data)


def test_an_edit_of_what_names_no_training_is_refused():
    with pytest.raises(EditRefused, match="which training"):
        edited(letter_of(succeeded("t1"), body=b"\x00", training_id=None), {"training_id": "t1"})


def test_a_webhook_can_be_edited_until_it_says_something():
    assert json.loads(edited(webhook("thinking"), {"id": "t1", "status": "failed"}))["status"] == "failed"


@pytest.mark.parametrize(
    ("data", "where"), [({"id": "t2", "status": "failed"}, "#/id"), ({"id": "t1", "status": "dreaming"}, "#")]
)
def test_a_webhook_stays_about_its_training_and_must_be_known(data, where):
    with pytest.raises(EditRefused) as refused:
        edited(webhook("thinking"), data)

    assert [mistake.pointer for mistake in refused.value.mistakes] == [where]
