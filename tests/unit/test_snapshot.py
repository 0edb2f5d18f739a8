"""Where a page of a snapshot ended, as a cursor."""

from __future__ import annotations

from datetime import UTC, datetime

from hypothesis import given
from hypothesis import strategies as st

from services.state.snapshot import CURSOR, Position

MOMENTS = st.datetimes(min_value=datetime(1970, 1, 1), max_value=datetime(3000, 1, 1), timezones=st.just(UTC))  # noqa: DTZ001 (they get one)
USERS = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1, max_size=200)


@given(MOMENTS, MOMENTS, USERS)
def test_a_position_is_read_from_its_cursor(began_at: datetime, updated_at: datetime, user_id: str) -> None:
    position = Position(began_at, updated_at, user_id)

    assert Position.of(position.cursor()) == position


@given(st.from_regex(CURSOR, fullmatch=True))
def test_every_text_in_the_form_of_a_cursor_is_a_position(cursor: str) -> None:
    assert "\0" not in Position.of(cursor).user_id
