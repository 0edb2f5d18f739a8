"""What is said of messages that the broker does not take?"""

from __future__ import annotations

from shared.runtime.broker.refusals import Refusals


def test_what_is_refused_is_said_until_it_is_taken():
    refusals = Refusals(300, clock=lambda: 0.0)
    refusals.note("here", "here is full")
    refusals.note("there", "there is full")

    refusals.forget("here")
    first = refusals.reason
    refusals.forget("there")

    assert (first, refusals.reason) == ("there is full", None)


def test_what_nobody_tells_us_of_any_more_is_forgotten_after_a_while():
    now = [0.0]
    refusals = Refusals(300, clock=lambda: now[0])
    refusals.note("here", "here is full")

    now[0] = 299.0
    first = refusals.reason
    now[0] = 300.0

    assert (first, refusals.reason) == ("here is full", None)
