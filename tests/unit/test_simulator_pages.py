"""Pages of the simulated Replicate's lists: cursors lead forth and back, whatever is added meanwhile."""

import base64

import pytest

from services.simulator.pages import Page, page


def numbers(newest: int) -> list[str]:
    return [str(number) for number in range(newest, 0, -1)]


def got(items: list[str], cursor: str | None = None) -> Page[str]:
    found = page(items, cursor, key=str)
    assert found is not None
    return found


def cursor(text: str) -> str:
    return base64.urlsafe_b64encode(text.encode()).decode()


def test_cursors_lead_forth_and_back_while_items_are_added():
    first = got(numbers(250))
    second = got(numbers(260), first.next)
    third = got(numbers(270), second.next)
    back = got(numbers(280), third.previous)

    assert [*first.items, *second.items, *third.items] == numbers(250)
    assert (first.previous, third.next) == (None, None)
    assert back.items == second.items
    assert (got(numbers(280), back.previous).items, back.next) == (first.items, second.next)


def test_a_page_before_one_near_the_newest_is_short():
    second = got(numbers(250), got(numbers(250)).next)
    short = got(numbers(250)[90:], second.previous)

    assert short.items == numbers(250)[90:100]
    assert (short.previous, short.next) == (None, got(numbers(250)).next)


@pytest.mark.parametrize("count", [0, 1, 100])
def test_what_fits_on_one_page_has_no_other(count):
    assert page(numbers(count), None, key=str) == (numbers(count), None, None)


@pytest.mark.parametrize(
    "wrong", ["", "nonsense", "é", "A", cursor("after:1"), cursor("before:3"), cursor("after:9"), cursor("beside:2")]
)
def test_a_cursor_that_leads_nowhere_has_no_page(wrong):
    assert page(numbers(3), wrong, key=str) is None
