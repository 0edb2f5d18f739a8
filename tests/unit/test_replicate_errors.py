"""Replicate's refusals: each becomes the error that says who can heal it, and how long to wait."""

import json
from typing import Any

import pytest

from shared.contract.errors import DependencyDown, PermanentError, TransientError
from shared.replicate.errors import BadAnswer, NoAnswer, NotThere, OperatorNeeded, Refused, error_for


def error(status: int, problem: Any = None, **headers: str) -> Any:
    body = json.dumps(problem).encode() if problem is not None else b"<html>"
    return error_for("get training abc", status, headers, body)


@pytest.mark.parametrize(
    ("status", "kind", "code"),
    [
        (301, BadAnswer, "replicate_bad_answer"),
        (400, Refused, "replicate_refused"),
        (401, OperatorNeeded, "replicate_unauthorized"),
        (402, OperatorNeeded, "replicate_billing"),
        (403, OperatorNeeded, "replicate_forbidden"),
        (404, NotThere, "replicate_not_there"),
        (408, NoAnswer, "replicate_down"),
        (409, Refused, "replicate_refused"),
        (422, NotThere, "replicate_not_there"),
        (429, DependencyDown, "replicate_throttled"),
        (500, NoAnswer, "replicate_down"),
        (503, NoAnswer, "replicate_down"),
        (599, NoAnswer, "replicate_down"),
    ],
)
def test_each_status_is_one_error(status, kind, code):
    seen = error(status)

    assert type(seen) is kind
    assert seen.code == code
    assert "get training abc" in str(seen)
    assert str(status) in str(seen)


def test_refusals_and_throttling_concern_all_trainings():
    down = [status for status in range(400, 600) if isinstance(error(status), DependencyDown)]

    alone = {status for status in down if error(status).may_concern_one}

    assert set(down) - alone == {401, 402, 403, 429}


def test_only_a_refusal_is_for_ever():
    assert isinstance(error(400), PermanentError)
    assert all(isinstance(error(status), TransientError) for status in (301, 401, 404, 422, 429, 500))


@pytest.mark.parametrize(
    ("problem", "detail"),
    [
        ({"detail": "The specified version does not exist", "title": "Invalid version"}, "specified version"),
        ({"errors": [{"detail": "A model with that name and owner already exists."}]}, "already exists"),
        ({"title": "Billing required"}, "Billing required"),
        ({"detail": [{"loc": ["steps"]}]}, '[{"loc": ["steps"]}]'),
    ],
)
def test_replicates_own_words_are_kept(problem, detail):
    assert detail in str(error(409, problem))


def test_but_not_without_end():
    assert len(str(error(400, {"detail": "x" * 10_000}))) < 1000


@pytest.mark.parametrize("body", [b"", b"[]", b"null", b"\xff", b"[" * 100_000, b'{"detail": null}'])
def test_a_body_that_is_no_problem_report_does_no_harm(body):
    assert isinstance(error_for("get x", 500, {}, body), NoAnswer)


def test_wait_as_long_as_the_longest_of_what_is_said():
    said = error(429, {"detail": "Your rate limit resets in ~7s.", "retry_after": 5}, **{"retry-after": "3"})

    assert said.retry_after_seconds == 7


@pytest.mark.parametrize(
    ("problem", "headers", "seconds"),
    [
        ({"detail": "Request was throttled. Expected available in 1 second."}, {}, 1),
        ({"detail": "Your rate limit for creating predictions resets in ~30s."}, {}, 30),
        ({"retry_after": 5}, {}, 5),
        ({}, {"retry-after": "12"}, 12),
        ({}, {"retry-after": "Tue, 24 Nov 2026 10:00:30 GMT", "date": "Tue, 24 Nov 2026 10:00:00 GMT"}, 30),
        ({}, {"retry-after": "Tue, 24 Nov 2026 10:00:00 GMT", "date": "Tue, 24 Nov 2026 10:00:30 GMT"}, 0),
        ({}, {"retry-after": "Tue, 24 Nov 2026 10:00:30 GMT"}, None),
        ({}, {"retry-after": "soon", "date": "today"}, None),
        ({}, {"retry-after": f"Tue, 24 Nov 2026 10:00:30 +{10**20}", "date": "Tue, 24 Nov 2026 10:00:00 GMT"}, None),
        ({}, {}, None),
        ({"retry_after": "nan"}, {}, None),
        ({"retry_after": -5}, {}, None),
        ({"retry_after": [5]}, {}, None),
        ({"retry_after": 1e12}, {}, 3600),
    ],
)
def test_the_wait_is_found_wherever_it_is_said(problem, headers, seconds):
    assert error(429, problem, **headers).retry_after_seconds == seconds
