"""Values that an AMQP message may carry, for tests of our encoder and decoder."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Final

from hypothesis import strategies as st

NOW: Final = datetime(2026, 11, 28, tzinfo=UTC)

short_texts = st.text(max_size=60)
header_values = (
    st.text(max_size=300)
    | st.integers(-(2**63), 2**63 - 1)
    | st.booleans()
    | st.none()
    | st.just(NOW)
    | st.lists(st.text(max_size=5) | st.integers(-5, 5), max_size=3)
    | st.dictionaries(st.text(max_size=5), st.text(max_size=5), max_size=3)
)
