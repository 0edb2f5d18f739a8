"""Headers that a message or webhook from outside may carry: giant, of every AMQP type, and such as no client reads."""

from __future__ import annotations

import functools
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any, Final

TRACEPARENT: Final = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"

#: Headers that a publisher may write.
HOSTILE: Final[dict[str, dict[str, Any]]] = {
    "giant": {"a": "x" * 130_000},
    "giant-id": {"ce-id": "x" * 129_000},
    "giant-cause": {"ce-causationid": "x" * 60_000, "ce-replay": "y" * 60_000},
    "giant-trace": {"traceparent": TRACEPARENT, "tracestate": "b" * 129_000},
    "many": {f"name-{number:05}": "x" * 10 for number in range(4000)},
    "bytes": {"a": bytearray(b"\xff\x00" * 30_000)},
    "routing": {"CC": ["modelswap.state"], "a": 1},
    "integers": {"a": -(2**63), "x-attempt": 2**63 - 1},
    "tables": {"a": {"b": [{"c": [None, True, 1.5, {"d": "e"}]}]}, "x-death": "no list"},
    "others": {"a": datetime(2026, 1, 1, tzinfo=UTC), "ce-time": Decimal("1.5"), "ce-source": None},
    "text": {"ce-type": 7, "ce-id": ["x"], "traceparent": {"a": 1}, "tracestate": False, "x-attempt": "many"},
}

#: Tables as bytes, such as the client library would neither write nor read.
UNREADABLE: Final = {
    "timestamp": b"\x04time" + b"T" + (2**63 - 1).to_bytes(8),
    "name": b"\x02\xff\xfeV",
    "type": b"\x01a" + b"U" + b"\x00",
    "nested": functools.reduce(lambda inner, _: b"\x01aF" + len(inner).to_bytes(4) + inner, range(5000), b""),
}
