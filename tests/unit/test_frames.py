"""Our frames of a message are those of the client library's own encoder."""

from __future__ import annotations

from typing import Any, cast

import pamqp.frame
from aiormq import spec
from hypothesis import given
from hypothesis import strategies as st
from pamqp.body import ContentBody
from pamqp.common import FieldTable
from pamqp.header import ContentHeader

from shared.runtime.broker.frames import publish_frames
from shared.runtime.broker.message import Outgoing
from tests.amqp import NOW, header_values, short_texts


def by_the_library(message: Outgoing, *, message_id: str, channel: int, frame_bytes: int) -> list[bytes]:
    properties = spec.Basic.Properties(
        message_id=message_id,
        delivery_mode=2,
        content_type=message.content_type,
        message_type=message.message_type,
        correlation_id=message.correlation_id,
        timestamp=NOW,
        # The library leaves out an empty table, or none; the broker reads both alike.
        headers=cast("FieldTable", dict(message.headers)),
    )
    method = spec.Basic.Publish(exchange=message.exchange, routing_key=message.routing_key, mandatory=message.mandatory)
    most = frame_bytes - 8
    frames: list[spec.Basic.Publish | ContentHeader | ContentBody] = [
        method,
        ContentHeader(properties=properties, body_size=len(message.body)),
    ]
    frames += [ContentBody(message.body[at : at + most]) for at in range(0, len(message.body), most)]
    return [pamqp.frame.marshal(frame, channel) for frame in frames]


@given(
    exchange=st.text("abc.-_:9", max_size=60),
    routing_key=short_texts,
    body=st.binary(max_size=5000),
    headers=st.dictionaries(st.text(max_size=40), header_values, max_size=6),
    content_type=st.none() | short_texts,
    message_type=st.none() | short_texts,
    correlation_id=st.none() | short_texts,
    mandatory=st.booleans(),
)
def test_frames_are_the_librarys(**fields: Any):
    headers = {"a": 1, **fields.pop("headers")}
    message = Outgoing(headers=dict(sorted(headers.items())), **fields)

    frames = publish_frames(message, message_id="m1", timestamp=int(NOW.timestamp()), channel=3, frame_bytes=4096)

    assert frames == b"".join(by_the_library(message, message_id="m1", channel=3, frame_bytes=4096))
