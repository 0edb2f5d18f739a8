"""Our frames of a message are those of the client library's own encoder."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pamqp.frame
from aiormq import spec
from hypothesis import given
from hypothesis import strategies as st
from pamqp.body import ContentBody
from pamqp.header import ContentHeader

from shared.runtime.broker.frames import publish_frames
from shared.runtime.broker.message import Outgoing

NOW = datetime(2026, 11, 28, tzinfo=UTC)

short_texts = st.text(max_size=60)
values = (
    st.text(max_size=300)
    | st.integers(-(2**63), 2**63 - 1)
    | st.booleans()
    | st.none()
    | st.just(NOW)
    | st.lists(st.text(max_size=5) | st.integers(-5, 5), max_size=3)
    | st.dictionaries(st.text(max_size=5), st.text(max_size=5), max_size=3)
)


def by_the_library(message: Outgoing, *, message_id: str, channel: int, frame_bytes: int) -> list[bytes]:
    properties = spec.Basic.Properties(
        message_id=message_id,
        delivery_mode=2,
        content_type=message.content_type,
        message_type=message.message_type,
        correlation_id=message.correlation_id,
        timestamp=NOW,
        # The library leaves out an empty table, or none; the broker reads both alike.
        headers=dict(message.headers),
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
    headers=st.dictionaries(st.text(max_size=40), values, max_size=6),
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
