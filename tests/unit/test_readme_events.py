"""What subscribers are told is what the events are: the snippet runs, and the table names every field."""

from __future__ import annotations

import itertools
import re
from typing import Any
from uuid import UUID

import pytest

from shared.contract.envelope import wrap
from shared.contract.events import EVENTS, EVENTS_EXCHANGE, Event
from shared.runtime.clock import now
from tests.readme import SECTION, Message, used

PUBLIC = {key: event for key, event in EVENTS.items() if event.exchange == EVENTS_EXCHANGE}
OLD, NEW = (f"acme/u-42:{digit * 64}" for digit in "ab")
#: What each public event of a user may say; `generation` is set by the test.
FIELDS: dict[str, dict[str, Any]] = {
    "model.ready.v1": {"model": NEW, "evidence": {"shape": "version", "checks": ["exists"], "seconds": 1}},
    "model.activated.v1": {"model": NEW, "previous": OLD},
    "model.withdrawn.v1": {"previous": OLD},
    "model.superseded.v1": {"model": OLD, "current_generation": 9},
    "extraction.failed.v1": {"error": "no_version", "detail": "names no version"},
}


def message(key: str, generation: int) -> Message:
    known = {"training_id": "t1", "user_id": "u-42", "ref": str(UUID(int=1)), "generation": generation, **FIELDS[key]}
    envelope = wrap(PUBLIC[key].model_validate(known), source="state", now=now())
    return Message(envelope.headers(), envelope.body())


@pytest.mark.parametrize("key", PUBLIC)
def test_the_readmes_snippet_takes_every_public_event(key: str):
    models = used([message(key, 3)])

    expected: dict[str, dict[str, str | None]] = {
        "model.activated.v1": {"u-42": NEW},
        "model.withdrawn.v1": {"u-42": None},
    }
    assert models == expected.get(key, {})


def test_the_readmes_snippet_keeps_the_highest_generation():
    last = message("model.withdrawn.v1", 5)
    others = [message("model.activated.v1", 2), message("model.superseded.v1", 7), message("model.activated.v1", 4)]

    for order in itertools.permutations([last, *others, last]):
        assert used(order) == {"u-42": None}


def test_the_readme_lists_every_field_of_public_events():
    rows = dict(re.findall(r"(?m)^\| `([\w.]+)` \|[^|]*\| (.+) \|$", SECTION))

    assert {key: shown(event) for key, event in PUBLIC.items()} == {
        key: sorted(re.findall(r"`([\w?]+)`", fields)) for key, fields in rows.items()
    }, "correct the row in shared/subscriber/README.md"


def shown(event: type[Event]) -> list[str]:
    """Each field's name; with a question mark if an event may come without it."""
    return sorted(
        name if field.is_required() or field.get_default(call_default_factory=True) is not None else f"{name}?"
        for name, field in event.model_fields.items()
    )
