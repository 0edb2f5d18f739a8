"""Frames are split wherever the bytes were; messages and confirms are read as the client library reads them."""

from __future__ import annotations

import itertools
from typing import Any

import pamqp.frame
import pytest
from aiormq import spec
from hypothesis import given
from hypothesis import strategies as st
from pamqp.base import Frame
from pamqp.body import ContentBody
from pamqp.header import ContentHeader
from pamqp.heartbeat import Heartbeat

from shared.runtime.broker.decoding import UNREADABLE_HEADER, Incoming
from shared.runtime.broker.message import Delivery
from tests.amqp import NOW, header_values, short_texts
from tests.hostile import HOSTILE, UNREADABLE

OURS, OTHERS = 1, 2

values = header_values | st.binary(max_size=20).map(bytearray)


class Received:
    """What came, in order."""

    def __init__(self) -> None:
        self.all: list[object] = []
        self.incoming = Incoming(lambda *confirm: self.all.append(confirm), self.all.append)
        self.incoming.channel = OURS
        self.incoming.deliver("queue", self.all.append)

    @property
    def delivery(self) -> Delivery:
        assert isinstance(self.all[0], Delivery)
        return self.all[0]


def sent(*frames: Frame | ContentHeader | ContentBody | Heartbeat, channel: int = OURS) -> bytes:
    return b"".join(pamqp.frame.marshal(frame, channel) for frame in frames)


def message(method: Frame, body: bytes = b"", part: int = 100, **properties: Any) -> bytes:
    parts = [ContentBody(body[at : at + part]) for at in range(0, len(body), part)]
    header = ContentHeader(properties=spec.Basic.Properties(**properties), body_size=len(body))
    return sent(method, header, *parts)


def delivery(tag: int = 1, **fields: Any) -> bytes:
    return message(spec.Basic.Deliver("consumer", tag, False, "exchange", "key"), **fields)


@given(
    headers=st.dictionaries(st.text(max_size=40), values, max_size=6),
    content_type=st.none() | short_texts,
    content_encoding=st.none() | short_texts,
    correlation_id=st.none() | short_texts,
    priority=st.none() | st.integers(0, 9),
    message_id=st.none() | short_texts,
    timestamp=st.none() | st.just(NOW),
    body=st.binary(max_size=500),
)
def test_a_delivery_is_read_as_the_library_reads_it(body: bytes, **properties: Any):
    received = Received()
    raw = delivery(tag=7, body=body, **properties)
    _, _, header = pamqp.frame.unmarshal(raw[len(sent(spec.Basic.Deliver("consumer", 7, False, "exchange", "key"))) :])

    assert isinstance(header, ContentHeader)
    expected = header.properties

    others = received.incoming.feed(raw)

    assert others == b""
    assert received.all == [
        Delivery(
            queue="queue",
            tag=7,
            exchange="exchange",
            routing_key="key",
            headers=dict(expected.headers or {}),
            content_type=expected.content_type,
            body=body,
            published_at=expected.timestamp,
        )
    ]


@given(cuts=st.sets(st.integers(1, 400)))
def test_wherever_bytes_are_cut_the_frames_are_the_same(cuts: set[int]):
    received = Received()
    declared = sent(spec.Queue.DeclareOk("q", 1, 2))
    raw = delivery(1, body=b"x" * 250) + declared + sent(spec.Basic.Ack(3, multiple=True)) + delivery(2)
    edges = [0, *sorted(cut for cut in cuts if cut < len(raw)), len(raw)]

    others = b"".join(received.incoming.feed(raw[start:end]) for start, end in itertools.pairwise(edges))

    assert others == declared
    assert [getattr(each, "tag", each) for each in received.all] == [1, (3, True, True), 2]
    assert received.delivery.body == b"x" * 250


def test_confirms_say_which_messages_they_are_for():
    received = Received()

    received.incoming.feed(sent(spec.Basic.Ack(1), spec.Basic.Ack(5, multiple=True), spec.Basic.Nack(6)))

    assert received.all == [(1, False, True), (5, True, True), (6, False, False)]


def test_a_returned_message_says_its_id():
    received = Received()

    received.incoming.feed(message(spec.Basic.Return(312, "NO_ROUTE", "e", "k"), b"body", message_id="m1"))

    assert received.all == ["m1"]


@pytest.mark.parametrize(
    "raw",
    [
        pamqp.frame.marshal(Heartbeat(), 0),
        sent(spec.Channel.Close(406, "PRECONDITION_FAILED", 60, 40)),
        sent(spec.Basic.CancelOk("c")),
        message(spec.Basic.GetOk(1, False, "e", "k", 0), b"body"),
        sent(spec.Basic.Ack(1), channel=OTHERS),
        b"AMQP\x00\x00\x09\x01",
        b"\x01\x00\x01\x00\x00\x00\x01a!",
    ],
    ids=["heartbeat", "close", "cancel", "get", "channel", "protocol", "end"],
)
def test_all_other_frames_are_left_to_the_library(raw: bytes):
    received = Received()

    assert received.incoming.feed(raw) == raw
    assert received.all == []


@pytest.mark.parametrize("headers", HOSTILE.values(), ids=HOSTILE)
def test_hostile_headers_are_read(headers: dict[str, Any]):
    received = Received()

    received.incoming.feed(delivery(headers=headers))

    assert received.delivery.headers == headers


def with_table(table: bytes) -> Delivery:
    """The delivery of a message whose headers are these bytes."""
    received = Received()
    raw = delivery(headers={}, content_type="text/plain", timestamp=NOW, body=b"body")
    at = raw.index(b"\x00\x00\x00\x00", raw.index(b"text/plain"))
    raw = raw[:at] + len(table).to_bytes(4) + table + raw[at + 4 :]
    start = raw.index(b"\x02\x00\x01") + 3
    size = int.from_bytes(raw[start : start + 4]) + len(table)
    received.incoming.feed(raw[:start] + size.to_bytes(4) + raw[start + 4 :])
    return received.delivery


@pytest.mark.parametrize("table", UNREADABLE.values(), ids=UNREADABLE)
def test_an_unreadable_table_harms_no_other_property(table: bytes):
    delivered = with_table(table)

    assert (delivered.content_type, delivered.published_at, delivered.body) == ("text/plain", NOW, b"body")
    assert set(delivered.headers) == {UNREADABLE_HEADER}


@pytest.mark.parametrize("where", ["before", "behind"])
@pytest.mark.parametrize("name", ["timestamp", "name", "nested"])
def test_a_place_in_a_stream_is_found_beside_what_is_unreadable(name: str, where: str):
    place = b"\x0fx-stream-offset" + b"l" + (7).to_bytes(8)
    table = place + UNREADABLE[name] if where == "before" else UNREADABLE[name] + place

    headers = with_table(table).headers

    assert (headers["x-stream-offset"], set(headers)) == (7, {UNREADABLE_HEADER, "x-stream-offset"})


@given(flags=st.integers(0, 2**16 - 1), rest=st.binary(max_size=60))
def test_no_properties_stop_the_reading(flags: int, rest: bytes):
    received = Received()
    header = spec.Basic.Deliver.index.to_bytes(4)[:2] + bytes(2) + bytes(8) + flags.to_bytes(2) + rest
    frame = b"\x02\x00\x01" + len(header).to_bytes(4) + header + b"\xce"

    others = received.incoming.feed(sent(spec.Basic.Deliver("c", 1, False, "e", "k")) + frame + sent(spec.Basic.Ack(1)))

    assert others == b""
    assert [getattr(each, "tag", each) for each in received.all] == [1, (1, False, True)]
