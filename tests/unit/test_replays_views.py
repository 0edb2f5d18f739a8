"""What are operators told of a replay, and of what to do next?"""

from __future__ import annotations

import asyncio
import io
import re
import sys
from datetime import UTC, datetime
from uuid import UUID

import httpx
import pytest

from services.cli.choices import Format
from services.cli.operators import replay_commands
from services.cli.operators.client import Operators
from services.cli.operators.replay_text import print_replay
from services.cli.operators.replays import ask_before, find_replay, follow, start_if_confirmed, watched
from services.cli.problem import Problem
from services.ops.replays.plan import Outcome, Status
from services.ops.replays.views import UNDERWAY, ReplayView
from shared.contract.answers import Page
from tests.replays import shown_replay

NOW = datetime(2026, 11, 24, 12, tzinfo=UTC)

NOON = datetime(2026, 11, 24, 12, tzinfo=UTC)


def test_the_help_names_every_outcome():
    assert set(re.split(", | or ", replay_commands._OUTCOMES)) == {outcome.value for outcome in Outcome}


@pytest.mark.parametrize(("count", "said"), [(3, "no replay has an id"), (200, "none of the newest 200 replays has")])
async def test_a_replay_is_found_among_the_newest(count: int, said: str):
    made = [shown_replay({}).model_copy(update={"id": UUID(int=number << 96)}) for number in range(count)]

    def answer(request: httpx.Request) -> httpx.Response:
        begin = int(request.url.params.get("cursor", "0"))
        end = begin + int(request.url.params["limit"])
        following = str(end) if end < count else None
        return httpx.Response(200, text=Page(items=made[begin:end], next_cursor=following).model_dump_json())

    async with Operators("http://ops", "a-token", transport=httpx.MockTransport(answer)) as api:
        found = await find_replay(api, "00000002")
        with pytest.raises(Problem, match=said):
            await find_replay(api, "5f0e")

    assert found.id == made[2].id


@pytest.mark.parametrize(
    ("record", "begins", "is_underway"),
    [
        (shown_replay({Outcome.WAITING: 9}), "", False),
        (shown_replay({Outcome.WAITING: 8, Outcome.SENT: 1}), "A dead letter that was sent", True),
        (shown_replay({Outcome.SWAPPED: 9}, {Outcome.SWAPPED: 9}), "Each dead letter is predicted alone", False),
        (shown_replay({Outcome.SWAPPED: 9}, {Outcome.SWAPPED: 9}, ended_at=NOON), "", False),
        (shown_replay({Outcome.SENT: 9}, {Outcome.SWAPPED: 9}), "Each dead letter is predicted alone", True),
    ],
)
def test_the_note_says_what_letters_that_stay_sent_may_wait_for(record: ReplayView, begins: str, *, is_underway: bool):
    note = record.note

    assert note.startswith(begins)
    assert (UNDERWAY in note) == is_underway


def test_underway_letters_are_explained_with_a_command(capsys):
    print_replay(shown_replay({Outcome.WAITING: 8, Outcome.SENT: 1}), Format.TABLE)

    shown = capsys.readouterr().out
    assert UNDERWAY in shown
    assert "modelswap replays show 00000000 --watch, or replays pause 00000000" in shown


def test_replay_shows_what_services_wait_for(capsys):
    waiting_for = ["the extractor: consumer: Replicate does not accept our token", "state: database: away"]

    print_replay(shown_replay({Outcome.SENT: 1}).model_copy(update={"waiting_for": waiting_for}), Format.TABLE)

    lines = [line.strip().split(maxsplit=2) for line in capsys.readouterr().out.splitlines()]
    assert [line[2] for line in lines if line[:2] == ["waits", "for"]] == waiting_for


@pytest.mark.parametrize(
    ("verb", "record", "said"),
    [
        ("undo", shown_replay({Outcome.SWAPPED: 3, Outcome.MOVED: 4}), "has set 3 models"),
        (
            "cancel",
            shown_replay({Outcome.WAITING: 8, Outcome.SENT: 1}),
            "8 dead letters of replay 00000000 were not sent",
        ),
        (
            "cancel",
            shown_replay({Outcome.SENT: 2}).model_copy(update={"status": Status.CANCELED}),
            "2 dead letters of replay 00000000 were sent",
        ),
    ],
)
def test_what_changes_many_is_done_only_by_a_yes(monkeypatch, verb: str, record: ReplayView, said: str):
    monkeypatch.setattr(sys, "stdin", io.StringIO())

    with pytest.raises(Problem, match=said) as refused:
        ask_before(verb, record)

    assert refused.value.then == "the same command with --yes"


def test_what_changes_one_is_not_asked_about(monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.StringIO())

    for verb in ("undo", "cancel"):
        ask_before(verb, shown_replay({Outcome.SWAPPED: 1, Outcome.WAITING: 1}))


async def test_following_says_the_end_though_no_outcome_is_new(capsys):
    running = shown_replay({Outcome.SWAPPED: 3})
    done = running.model_copy(update={"status": Status.DONE, "ended_at": NOW})

    answer = httpx.Response(200, text=done.model_dump_json())
    async with Operators("http://ops", "a-token", transport=httpx.MockTransport(lambda _: answer)) as api:
        await follow(api, running, None, shows=True)

    assert capsys.readouterr().out == "done: 3 of 3: 3 swapped\n"


async def test_ctrl_c_before_the_question_cancels_the_dry_run():
    previewing, steered, is_asked = shown_replay(status=Status.PREVIEWING), [], asyncio.Event()

    def answer(request: httpx.Request) -> httpx.Response:
        if request.method == "POST":
            steered.append(request.url.path.rpartition("/")[2])
        is_asked.set()
        return httpx.Response(200, text=previewing.model_dump_json())

    async with Operators("http://ops", "a-token", transport=httpx.MockTransport(answer)) as api:
        starting = asyncio.create_task(start_if_confirmed(api, previewing, "fixed"))
        async with asyncio.timeout(60):
            await is_asked.wait()
        starting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await starting

    assert steered == ["cancel"]


async def test_ctrl_c_says_that_a_replay_goes_on(capsys):
    running, is_asked = shown_replay(), asyncio.Event()

    def answer(_: httpx.Request) -> httpx.Response:
        is_asked.set()
        return httpx.Response(200, text=running.model_dump_json())

    async with Operators("http://ops", "a-token", transport=httpx.MockTransport(answer)) as api:
        watching = asyncio.create_task(watched(api, running, shows=True))
        async with asyncio.timeout(60):
            await is_asked.wait()
        watching.cancel()
        with pytest.raises(asyncio.CancelledError):
            await watching

    assert capsys.readouterr().err == "replay 00000000 goes on: modelswap replays show 00000000 --watch\n"
