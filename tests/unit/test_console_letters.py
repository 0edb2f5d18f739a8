"""The views of dead letters, replays and the audit: addresses, what is new, bodies, links."""

from __future__ import annotations

import base64
import json
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest

from services.ops.console.views.audit import Entry, target_address
from services.ops.console.views.bodies import SHOWN_BYTES, Letter, diff, pretty
from services.ops.console.views.filters import LETTER_FIELDS, address, asked, chips, given, moment, pager
from services.ops.console.views.letters import (
    Group,
    change_sentence,
    changed_sentence,
    found_count,
    narrowed,
    offers,
    selection_of,
)
from services.ops.console.views.looks import Look
from services.ops.console.views.replays import Replay, number_of, selection_text, steps_of
from services.ops.letters.views import (
    Changed,
    Facet,
    LetterStatus,
    Suggestions,
    ValueCount,
)
from services.ops.replays.plan import Outcome, Status
from services.ops.replays.views import UndoView

NOW = datetime(2026, 11, 24, 12, tzinfo=UTC)
HOUR = timedelta(hours=1)


# Filters in addresses


@pytest.mark.parametrize(
    ("typed", "means"),
    [
        ("2h", "2026-11-24T10:00:00Z"),
        ("30min", "2026-11-24T11:30:00Z"),
        ("30m", "2026-11-24T11:30:00Z"),
        ("7d", "2026-11-17T12:00:00Z"),
        ("1 w", "2026-11-17T12:00:00Z"),
        ("999999w", "999999w"),
        ("2026-11-24", "2026-11-24T00:00:00Z"),
        ("2026-11-24 09:30", "2026-11-24T09:30:00Z"),
        ("2026-11-24T09:30:15", "2026-11-24T09:30:15Z"),
        ("2026-11-24T09:30:15+01:00", "2026-11-24T09:30:15+01:00"),
        ("yesterday", "yesterday"),
    ],
)
def test_ages_and_days_become_times_of_the_api(typed, means):
    assert moment(typed, NOW) == means


def test_a_filter_keeps_what_is_known_and_given():
    query = {"queue": " q ", "text": "  ", "cursor": "x", "until": "2h"}

    chosen = given(query, LETTER_FIELDS)

    assert chosen == {"queue": "q", "until": "2h"}
    assert asked(chosen, NOW) == {"queue": "q", "until": "2026-11-24T10:00:00Z"}


def test_a_chip_leads_to_the_page_without_it():
    found = chips("/dead-letters", {"queue": "a&b", "user_id": "<x>"}, LETTER_FIELDS)

    assert [(each.label, each.value, each.without) for each in found] == [
        ("Queue", "a&b", "/dead-letters?user_id=%3Cx%3E"),
        ("User", "<x>", "/dead-letters?queue=a%26b"),
    ]


def test_an_address_repeats_what_is_given_several_times():
    assert address("/replays/new", {"letters": ["1", "2"]}, {"status": None}) == "/replays/new?letters=1&letters=2"
    assert address("/audit", {"text": ""}) == "/audit"


def test_the_other_pages_of_a_list_keep_its_filter():
    first, second = (
        pager("/audit", {"actor": "ada", "text": None}, cursor=at, following=to)
        for at, to in ((None, "b"), ("b", None))
    )

    assert first == ("/audit?actor=ada&cursor=b", None)
    assert second == (None, "/audit?actor=ada")


# New since you looked


def test_what_came_since_the_last_visit_stays_new_while_looking():
    look = Look.first(NOW).showing(10).all_seen(NOW)

    later = look.again(NOW + 5 * HOUR).showing(14)
    reloaded = later.again(NOW + 5 * HOUR + HOUR / 4).showing(15)
    next_day = reloaded.again(NOW + 24 * HOUR).showing(20)

    assert [later.seen, reloaded.seen, next_day.seen] == [10, 10, 15]


def test_a_look_is_remembered_in_a_cookie():
    look = Look(10, NOW, 14, NOW + HOUR)

    assert Look.read(look.cookie()) == look
    assert look.all_seen(NOW + 2 * HOUR) == Look(14, NOW + 2 * HOUR, 14, NOW + 2 * HOUR)


@pytest.mark.parametrize("cookie", ["", "1", "1.2.3", "a.b.c.d", "1.2.3.4.5", "9999999999999999.1.1.1", "-1.1.1.1"])
def test_a_cookie_of_others_is_no_look(cookie):
    assert Look.read(cookie) is None


# Groups and suggestions


def group(**changes: Any) -> Group:
    known: dict[str, Any] = {
        "fingerprint": "f<p",
        "queue": "q",
        "error_code": "no_model",
        "error_class": "NoModel",
        "error_text": "none",
        "open": 3,
        "replaying": 0,
        "resolved": 0,
        "dropped": 0,
        "last_hour": 2,
        "last_day": 3,
        "last_week": 3,
        "hourly": [0] * 22 + [1, 2],
        "first_failed_at": NOW,
        "last_failed_at": NOW,
        "newest": 3,
        "oldest": 1,
    }
    return Group(**{**known, **changes})


def test_a_group_leads_to_its_letters_and_tells_its_trend():
    found = group()

    assert found.address("open") == "/dead-letters?fingerprint=f%3Cp&status=open"
    assert 'aria-label="3 failures in the last 24 hours, 2 in the last hour"' in found.small_trend
    assert "2 failed" in found.trend(NOW)


def suggestions(**values: list[tuple[str, int]]) -> Suggestions:
    counted = {Facet(name): [ValueCount(value=v, letters=n) for v, n in each] for name, each in values.items()}
    return Suggestions(letters=10, is_complete=True, values=counted)


def test_only_values_that_tell_letters_apart_are_offered():
    chosen = {"text": "gone"}

    ((facet, values),) = offers(
        suggestions(queue=[("q", 10)], error_code=[("a", 7), ("b", 3)], user_id=[("x", 1), ("y", 1)], event_type=[]),
        chosen,
    )

    assert LETTER_FIELDS[facet] == "Error"
    assert [(each.value, each.letters, narrowed(chosen, facet, each.value)) for each in values] == [
        ("a", 7, "/dead-letters?show=list&text=gone&error_code=a"),
        ("b", 3, "/dead-letters?show=list&text=gone&error_code=b"),
    ]


def test_a_chosen_field_is_not_offered_again():
    assert offers(suggestions(error_code=[("a", 7), ("b", 3)]), {"error_code": "a"}) == []


def test_a_status_narrows_the_list_down_and_shows_no_groups():
    ((facet, values),) = offers(suggestions(status=[("open", 7), ("dropped", 3)]), {})

    assert narrowed({}, facet, values[0].value) == "/dead-letters?show=list&status=open"


def test_a_count_says_when_there_are_more():
    many = Suggestions(letters=10_000, is_complete=False, values={})

    assert [found_count(suggestions()), found_count(many)] == ["10 dead letters", "More than 10,000 dead letters"]


# Selections


def test_named_letters_are_selected_before_a_filter():
    selection = selection_of(["17", "18"], {"queue": "q"})

    assert selection.body == {"letters": [17, 18]}
    assert selection.fields == [("letters", "17"), ("letters", "18")]
    assert selection.sentence == "Dead letters 17, 18"


def test_a_selection_by_filter_leaves_the_status_out():
    selection = selection_of([], {"queue": "q", "status": "open"})

    assert (selection.body, selection.sentence) == ({"filter": {"queue": "q"}}, "All with queue q")


def test_what_is_no_number_is_left_to_the_api():
    assert selection_of(["x", "9" * 50], {}).body == {"letters": ["x", "9" * 50]}


def test_a_drop_says_what_it_would_change():
    planned = Changed(letters=1, unchanged={LetterStatus.REPLAYING: 2})

    assert change_sentence("drop", planned) == (
        "1 dead letter would be dropped. Unchanged stay 2 replaying: only those that are open are changed."
    )
    assert changed_sentence("restore", Changed(letters=2)) == "2 dead letters are open again. It is in the audit."


# Bodies


def letter(body: bytes, *, whole: int | None = None, text: str | None = None) -> Letter:
    try:
        text = body.decode() if text is None else text
    except UnicodeDecodeError:
        text = None
    return Letter(
        **dict.fromkeys(("event_type", "event_id", "training_id", "user_id", "replay_id", "content_type")),
        **dict.fromkeys(("first_failed_at", "last_failed_at", "archived_at", "status_at"), NOW),
        **dict.fromkeys(("queue", "error_code", "error_class", "error_text", "fingerprint", "exchange"), "x"),
        number=1,
        status=LetterStatus.OPEN,
        attempts=1,
        returns=0,
        body_bytes=len(body) if whole is None else whole,
        routing_key="x",
        headers={},
        body_base64=base64.b64encode(body).decode(),
        body_text=text,
        traceback="",
    )


def test_a_json_body_is_a_tree_text_and_bytes():
    body = letter(b'{"a": [1, null]}')

    assert (body.tree, body.body_text, body.is_cut) == ({"a": [1, None]}, '{"a": [1, null]}', False)
    assert body.dump[0].bytes.startswith("7b 22 61 22")
    assert body.dump[0].text == '{"a": [1, null]}'


def test_a_binary_body_is_bytes_alone():
    body = letter(b"\xff\x00A" * 10)

    assert (body.tree, body.body_text, len(body.dump)) == (None, None, 2)
    assert body.dump[0].text == "··A··A··A··A··A·"


def test_of_a_large_body_the_beginning_is_no_tree():
    body = letter(b'{"a": "' + b"x" * SHOWN_BYTES, whole=10_000_000)

    assert (body.is_cut, body.tree, body.body_bytes) == (True, None, 10_000_000)
    assert body.undumped_bytes == 10_000_000 - 2048


@pytest.mark.parametrize("text", ["[" * 100 + "]" * 100, json.dumps(list(range(5000))), "1", '"a"', "no", "[" * 60_000])
def test_what_is_too_much_for_a_tree_is_text(text):
    assert letter(text.encode()).tree is None


def test_an_edit_is_shown_line_by_line():
    lines = diff('{"a": 1, "b": "<x>"}', '{"a": 2, "b": "<x>"}')

    assert [(line.kind, line.text) for line in lines if line.kind in ("added", "removed")] == [
        ("removed", '-  "a": 1,'),
        ("added", '+  "a": 2,'),
    ]
    assert diff('{"a":1}', '{"a": 1}') == []


def test_text_that_is_no_json_stays_as_it_is():
    assert pretty("no") == "no"


# Replays


def replay(status: Status, outcomes: dict[Outcome, int], **changes: Any) -> Replay:
    known: dict[str, Any] = {
        "id": UUID(int=1),
        "status": status,
        "status_reason": "",
        "trouble": "",
        "reason": "fixed",
        "actor": "olga",
        "selection": {"letters": [1]},
        "rate_per_second": 10.0,
        "steps": [1, 3, 10],
        "stop_when_failed_share": 0.2,
        "outcomes": outcomes,
        "predictions": {},
        "arrived_since": 0,
        "created_at": NOW,
        "started_at": NOW,
        "ended_at": None,
        "undo": None,
    }
    return Replay(**{**known, **changes})


def test_a_dry_run_counts_its_predictions():
    view = replay(Status.PREVIEWING, {Outcome.PLANNED: 10}, predictions={Outcome.SWAPPED: 6})

    assert (view.is_plan, view.done, view.letters, view.word) == (True, 6, 10, "being predicted")
    assert [(each.outcome, each.count) for each in view.counts] == [("swapped", 6), ("planned", 4)]
    assert view.verbs == ("start", "cancel")


@pytest.mark.parametrize(
    ("status", "outcomes", "verbs", "may_undo"),
    [
        (Status.RUNNING, {Outcome.SWAPPED: 1, Outcome.WAITING: 9}, ("pause", "cancel"), False),
        (Status.PAUSED, {Outcome.SWAPPED: 1, Outcome.WAITING: 9}, ("resume", "cancel"), True),
        (Status.STOPPED, {Outcome.FAILED: 1, Outcome.WAITING: 9}, ("resume", "cancel"), False),
        (Status.DONE, {Outcome.SWAPPED: 10}, (), True),
        (Status.DONE, {Outcome.FAILED: 10}, (), False),
        (Status.CANCELED, {Outcome.SWAPPED: 1, Outcome.SENT: 1}, ("give up",), True),
        (Status.CANCELED, {Outcome.CANCELED: 10}, (), False),
    ],
)
def test_only_what_is_possible_now_has_a_button(status, outcomes, verbs, may_undo):
    view = replay(status, outcomes)

    assert (view.verbs, view.may_undo) == (verbs, may_undo)


def test_a_replay_that_is_being_undone_is_not_undone_twice():
    undo = UndoView(status="undoing", actor="olga", reason="blurred", reverted=0, kept=0, waiting=1)

    assert not replay(Status.DONE, {Outcome.SWAPPED: 1}, undo=undo).may_undo


def test_the_bar_says_what_its_parts_are():
    view = replay(Status.RUNNING, {Outcome.SWAPPED: 3, Outcome.FAILED: 1, Outcome.WAITING: 6})

    assert 'aria-label="Of 10 dead letters: 3 swapped, 1 failed, 6 waiting"' in view.bar
    assert view.step_sizes == "1, then 2, then 7"


@pytest.mark.parametrize(
    ("selection", "said"),
    [
        ({"letters": [17], "steps": []}, "dead letter 17"),
        ({"letters": [1, 2]}, "2 named dead letters"),
        ({"group": "f"}, "all open ones of group f"),
        ({"filter": {"queue": "q", "text": None}}, "all open ones with queue q"),
        ({"another": "version"}, "dead letters"),
    ],
)
def test_a_replay_says_which_letters_it_was_asked_for(selection, said):
    assert selection_text(selection) == said


def test_typed_numbers_are_left_to_the_api_where_they_are_none():
    assert steps_of("1, 5%,rest,, ٣") == ["1", "5%", "rest", "٣"]
    assert [number_of(typed) for typed in ("2.5", "fast", "inf", "nan")] == [2.5, "fast", "inf", "nan"]


# The audit


@pytest.mark.parametrize(
    ("target", "address"),
    [
        ("dead letter 17", "/dead-letters/17"),
        ("dead letter x", None),
        (f"replay {UUID(int=7)}", f"/replays/{UUID(int=7)}"),
        ("user a/b?<c>", "/users/a%2Fb%3F%3Cc%3E"),
        ("user ", None),
        ("training t1", "/trainings/t1"),
        ("subscription app", "/queues"),
        (
            "dead letters with queue a, b, user_id x, since 2026-11-24 12:00:00+00:00",
            "/dead-letters?queue=a%2C+b&user_id=x&since=2026-11-24+12%3A00%3A00%2B00%3A00",
        ),
        ("dead letters with nothing known", None),
        ("the moon", None),
    ],
)
def test_each_target_leads_to_its_page(target, address):
    assert target_address(target) == address


def test_what_was_done_is_written_in_words():
    entry = Entry(number=1, at=NOW, actor="olga", action="replay.undo_started", target="x", reason="", outcome="")

    assert (entry.words, entry.kind) == ("replay undo started", "warn")
