"""What becomes of a letter that is edited by hand, and of the work that went into it?"""

from __future__ import annotations

import base64
import contextlib
import io
import json
import re
import shlex
import sys
import tempfile
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import httpx
import pytest
from typer.testing import CliRunner

from services.cli.main import app
from services.cli.operators.client import Operators
from services.cli.operators.edit import edit_by_hand
from services.cli.problem import Problem

NOW = datetime(2026, 11, 24, 12, tzinfo=UTC).isoformat()
LETTER = {
    "number": 17,
    "status": "open",
    "queue": "modelswap.extractor",
    "event_type": "training.succeeded.v1",
    "event_id": "e",
    "training_id": "t1",
    "user_id": "ann",
    "error_code": "no_version",
    "error_class": "NoVersion",
    "error_text": "there is none",
    "attempts": 1,
    "returns": 0,
    "first_failed_at": NOW,
    "last_failed_at": NOW,
    "archived_at": NOW,
    "status_at": NOW,
    "fingerprint": "f",
    "replay_id": None,
    "body_bytes": 19,
    "exchange": "",
    "routing_key": "",
    "content_type": "application/json",
    "headers": {},
    "body_text": '{"output": "cut o"}',
    "traceback": "",
}
REPLAY = {
    "id": str(UUID(int=1)),
    "status": "running",
    "status_reason": "",
    "trouble": "",
    "reason": "it was cut off",
    "actor": "olga",
    "selection": {"letters": [17]},
    "rate_per_second": 1,
    "steps": [1],
    "stop_when_failed_share": 0.2,
    "letters": 1,
    "ended": 0,
    "outcomes": {"waiting": 1},
    "predictions": {},
    "note": "",
    "arrived_since": 0,
    "created_at": NOW,
    "started_at": NOW,
    "ended_at": None,
    "undo": None,
}


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def somebody_is_there(monkeypatch, tmp_path):
    monkeypatch.setattr(sys, "stdin", Terminal())
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.delenv("VISUAL", raising=False)


@contextlib.asynccontextmanager
async def asking(
    status: int = 202, answer: Any = REPLAY, body: bytes = b'{"output": "cut o"}'
) -> AsyncIterator[tuple[Operators, list[Any]]]:
    """The operators' API, which has a dead letter with *body*, and answers an edit so."""
    sent: list[Any] = []

    def handle(request: httpx.Request) -> httpx.Response:
        if request.method == "GET":
            return httpx.Response(200, json={**LETTER, "body_base64": base64.b64encode(body).decode()})
        sent.append(json.loads(request.content)["body"])
        return httpx.Response(status, json=answer)

    async with Operators("http://ops", "a-token", transport=httpx.MockTransport(handle)) as api:
        yield api, sent


def writes(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    """The editor of somebody who types this."""
    code = "import pathlib, sys; pathlib.Path(sys.argv[2]).write_text(sys.argv[1])"
    monkeypatch.setenv("EDITOR", shlex.join([sys.executable, "-c", code, text]))


async def test_what_was_edited_is_replayed_and_leaves_no_file(monkeypatch, tmp_path):
    writes(monkeypatch, '{"output": "whole"}')

    async with asking() as (api, sent):
        made = await edit_by_hand(api, 17, reason="it was cut off")

    assert (str(made.id), sent) == (REPLAY["id"], [{"output": "whole"}])
    assert list(tmp_path.iterdir()) == []


async def test_without_an_editor_it_is_said_how_to_give_the_body(monkeypatch, tmp_path):
    monkeypatch.setenv("EDITOR", "no-such-editor")

    async with asking() as (api, _):
        with pytest.raises(Problem, match="'no-such-editor' cannot be run") as refused:
            await edit_by_hand(api, 17, reason="it was cut off")

    assert "dead-letters edit 17 --reason 'it was cut off' --body FILE, or - to read it" in refused.value.then
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("body", [b"{broken", b"[]"])
async def test_a_body_that_cannot_be_edited_opens_no_editor(monkeypatch, tmp_path, body):
    writes(monkeypatch, '{"output": "whole"}')

    async with asking(body=body) as (api, sent):
        with pytest.raises(Problem, match="dead letter 17 cannot be edited: it holds no JSON object") as refused:
            await edit_by_hand(api, 17, reason="it was cut off")

    assert refused.value.then == "modelswap dead-letters show 17"
    assert (sent, list(tmp_path.iterdir())) == ([], [])


@pytest.mark.parametrize(
    ("typed", "status", "what"),
    [
        ('{"output": whole}', 202, "this cannot be sent: it is no JSON"),
        ('{"loss": NaN}', 202, "this cannot be sent: it holds"),
        ('{"logs": "\\ud83d"}', 202, "this cannot be sent: it holds"),
        ('{"training_id": "t2"}', 422, "cannot be edited"),
        ('{"output": "whole"}', 503, "cannot answer now"),
    ],
)
async def test_what_was_edited_is_kept_when_it_does_not_go(monkeypatch, tmp_path, typed, status, what):
    writes(monkeypatch, typed)

    async with asking(status, {"detail": "training_id: cannot be edited"}) as (api, _):
        with pytest.raises(Problem, match=f"{what}.* is kept") as refused:
            await edit_by_hand(api, 17, reason="it was cut off")

    kept = re.fullmatch(r".*--reason 'it was cut off' --body (\S+)", refused.value.then)
    assert kept is not None
    (file,) = tmp_path.iterdir()
    assert (str(file), file.read_text()) == (kept[1], typed)


@pytest.mark.parametrize(("editor", "why"), [("true", "nothing was edited"), ("false", "failed, so nothing")])
async def test_whoever_changes_their_mind_replays_nothing(monkeypatch, tmp_path, editor, why):
    monkeypatch.setenv("EDITOR", editor)

    async with asking() as (api, sent):
        with pytest.raises(Problem, match=why):
            await edit_by_hand(api, 17, reason="it was cut off")

    assert (sent, list(tmp_path.iterdir())) == ([], [])


@pytest.mark.parametrize(
    ("body", "typed", "said"), [("-", "{whole}", "this cannot be sent: it is no JSON"), ("no.json", "", "No such file")]
)
def test_a_body_is_read_from_a_file_or_from_standard_input(body, typed, said):
    settings = {"MODELSWAP_OPS_URL": "http://127.0.0.1:1", "MODELSWAP_OPS_TOKENS": "a-token-of-an-operator"}

    result = CliRunner().invoke(
        app, ["dead-letters", "edit", "17", "--reason", "x", "--body", body], input=typed, env=settings
    )

    assert said in f"{result.exception} {result.stderr}"
