"""Ask for replays, steer them and follow them: requests to the operators' API, with a line for each change."""

from __future__ import annotations

import asyncio
import json
import os
import shlex
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final
from uuid import uuid4

import typer

from services.cli.choices import Format
from services.cli.client import Operators, patiently
from services.cli.confirm import confirm
from services.cli.operators.replay_text import (
    LETTERS,
    REPLAYS,
    counted,
    foreseen,
    held_up_by,
    is_underway,
    print_replay,
    short_id,
    total,
)
from services.cli.output import console, print_json, tell, to_json
from services.cli.problem import Problem
from services.cli.table import print_list, print_table, tell_if_cut
from services.ops.letters.views import LetterView
from services.ops.replays.plan import Outcome, Status
from services.ops.replays.views import ReplayView
from shared.contract.envelope import is_structured
from shared.runtime.settings import OpsClientSettings
from shared.runtime.tokens import read_token

_POLL_SECONDS: Final = 0.5
#: For a first look at what would happen, before somebody is asked.
_LOOK_SECONDS: Final = 5.0
#: A whole id needs no list to find it; a beginning is looked for among the newest.
_ID_LENGTH: Final = 36
_REMEMBERED: Final = 200


@dataclass(frozen=True, slots=True)
class Plan:
    """What is to be replayed, and how."""

    letters: Sequence[int]
    filter: Mapping[str, str]
    reason: str
    rate_per_second: float | None
    steps: str | None
    stop_share: float | None

    def body(self, *, dry_run: bool) -> dict[str, Any]:
        """
        The request for it.

        Raises:
            Problem: if it does not say which letters.

        """
        ways = {"letters": list(self.letters), "filter": dict(self.filter)}
        given = {name: value for name, value in ways.items() if value}
        if len(given) != 1:
            raise Problem(
                "say which letters: by their numbers, or by what they share (--group, --user, --since and so on)",
                then="modelswap dead-letters replay --help",
            )
        how = {
            "rate_per_second": self.rate_per_second,
            "steps": None if self.steps is None else [_step(step) for step in self.steps.split(",")],
            "stop_when_failed_share": self.stop_share,
        }
        chosen = {name: value for name, value in how.items() if value is not None}
        return {**given, **chosen, "reason": self.reason, "dry_run": dry_run}


@asynccontextmanager
async def operators() -> AsyncIterator[Operators]:
    """The operators' API, as the environment says where it is."""
    settings = OpsClientSettings.load(os.environ)
    async with Operators(settings.ops_url, read_token(settings.ops_tokens[0].get_secret_value()).secret) as api:
        yield api


async def replay(plan: Plan, *, dry_run: bool, yes: bool, watch: bool, output: Format) -> bool:
    """Show what would happen, ask, and replay just that; False if letters failed again."""
    async with operators() as api:
        if yes and not dry_run:
            made = await api.start_replay(plan.body(dry_run=False), key=str(uuid4()))
        else:
            made = await api.start_replay(plan.body(dry_run=True), key=str(uuid4()))
            if output is not Format.JSON and dry_run:
                speed = f"{made.rate_per_second:g} per second"
                tell(f"replay {short_id(made)}: looks at its letters ({made.letters}), {speed}")
            made = await _follow(api, made, None if dry_run else _LOOK_SECONDS, shows=False)
            if dry_run:
                await _print_whole(api, made, output, outcome=None, limit=total(made) + 1)
                return True
            made = await _start_if_told(api, made, plan.reason)
        if watch:
            made = await _follow(api, made, None, shows=output is not Format.JSON)
    print_replay(made, output)
    return not made.outcomes.get(Outcome.FAILED)


async def edit(number: int, *, text: str | bytes | None, reason: str, output: Format) -> None:
    """Replay one letter with *text* as its body, or with what whoever is at the terminal makes of it."""
    async with operators() as api:
        if text is None:
            made = await edit_by_hand(api, number, reason=reason)
        else:
            made = await _replay_with(api, number, text, reason)
    print_replay(made, output)


async def edit_by_hand(api: Operators, number: int, *, reason: str) -> ReplayView:
    """Replay one letter with what somebody makes of its body in an editor; their work outlives a refusal."""
    again = f"modelswap dead-letters edit {number} --reason {shlex.quote(reason)} --body"
    file = _in_editor(_data(await api.get_dead_letter(number)), then=f"set EDITOR, or: {again} FILE, or - to read it")
    try:
        made = await _replay_with(api, number, file.read_bytes(), reason)
    except Problem as problem:
        raise Problem(f"{problem}; what you wrote is kept", then=f"mend it, and: {again} {file}") from problem
    file.unlink()
    return made


async def _replay_with(api: Operators, number: int, text: str | bytes, reason: str) -> ReplayView:
    try:
        data = json.loads(text)
    except ValueError as error:
        raise Problem(f"this is no JSON: {error}", then="modelswap dead-letters edit --help") from error
    return await api.edit_and_replay(number, {"body": data, "reason": reason}, key=str(uuid4()))


async def list_replays(*, limit: int, output: Format) -> None:
    async with operators() as api:
        found = await api.list_replays(limit=limit)
    empty = "nothing was replayed yet: modelswap dead-letters replay --help"
    print_list(found, REPLAYS, output, empty=empty, limit=limit)


async def show(replay_id: str, *, outcome: str | None, limit: int, watch: bool, output: Format) -> None:
    async with operators() as api:
        found = await _find(api, replay_id)
        if watch:
            found = await _follow(api, found, None, shows=output is not Format.JSON)
        await _print_whole(api, found, output, outcome=outcome, limit=limit)


async def steer(
    replay_id: str, verb: str, *, reason: str, watch: bool = False, yes: bool = True, output: Format
) -> bool:
    """*verb*: start, pause, resume, cancel or undo; asks first unless *yes*. False if letters have failed again."""
    async with operators() as api:
        found = await _find(api, replay_id)
        if not yes:
            ask_before(verb, found)
        found = await api.steer_replay(str(found.id), verb, reason)
        if watch:
            found = await _follow(api, found, None, shows=output is not Format.JSON)
    print_replay(found, output)
    return not found.outcomes.get(Outcome.FAILED)


def ask_before(verb: str, found: ReplayView) -> None:
    """
    Say how much *verb* (cancel or undo) changes, and ask where that is more than one thing.

    Raises:
        Problem: if the answer is no, or there is no terminal.

    """
    count = {outcome: found.outcomes.get(outcome, 0) for outcome in Outcome}
    name = f"replay {short_id(found)}"
    if verb == "undo":
        changes = count[Outcome.SWAPPED]
        said = f"{name} has set {changes} models: each goes back, of those users who use it still"
    elif found.status is Status.CANCELED:
        changes = count[Outcome.SENT]
        said = f"{changes} letters of {name} went, and have no outcome: they are given up, and open again"
    else:
        changes = count[Outcome.WAITING] + count[Outcome.PLANNED]
        said = f"{changes} letters of {name} did not go: they never do, and are open again"
    if changes > 1:
        confirm(said, f"{verb.capitalize()} it?", then=f"modelswap replays show {short_id(found)}")


async def _print_whole(api: Operators, found: ReplayView, output: Format, *, outcome: str | None, limit: int) -> None:
    letters = await api.list_replay_letters(str(found.id), outcome=outcome, limit=limit)
    if output is Format.JSON:
        print_json({**found.model_dump(mode="json", exclude_unset=True), "of_letters": letters})
        return
    print_replay(found, output)
    console().print()
    print_table(letters, LETTERS, output, empty="no such letter in it")
    tell_if_cut(letters, limit)


async def _start_if_told(api: Operators, planned: ReplayView, reason: str) -> ReplayView:
    """Ask whoever is at the terminal; what was shown is what goes."""
    replay_id = str(planned.id)
    looked = sum(planned.predictions.values())
    steps = ", ".join(map(str, planned.steps))
    said = (
        f"letters: {planned.letters}, {planned.rate_per_second:g} per second, in steps that end after {steps}\n"
        f"it stops by itself when more than {planned.stop_when_failed_share:.0%} fail\n"
        f"looked at {looked} of them: {foreseen(planned)}\n"
        f"what would become of each: modelswap replays show {short_id(planned)}"
    )
    if not sys.stdin.isatty():
        await api.steer_replay(replay_id, "cancel", "nobody was there to be asked")
        raise Problem(
            f"nobody is there to be asked about {planned.letters} letters", then="the same command with --yes"
        )
    tell(said)
    if not typer.confirm("Replay them?", err=True):
        await api.steer_replay(replay_id, "cancel", "no, after a look at what would happen")
        raise Problem("nothing was replayed", then=f"modelswap replays show {replay_id}, for what would have happened")
    return await api.steer_replay(replay_id, "start", reason)


async def _follow(api: Operators, found: ReplayView, seconds: float | None, *, shows: bool) -> ReplayView:
    """
    Wait until it does not change by itself any more, at most *seconds*; with *shows*, a line for each change.

    What holds it up is said in any case.
    """
    trouble = ""
    try:
        async with asyncio.timeout(seconds):
            while is_underway(found):
                await asyncio.sleep(_POLL_SECONDS)
                later = await patiently(partial(api.get_replay, str(found.id)))
                if (said := held_up_by(later)) != trouble:
                    trouble = said
                    tell(f"replay {short_id(later)} {f'waits: {trouble}' if trouble else 'goes on'}")
                if shows and later.outcomes != found.outcomes:
                    so_far = f"{later.ended} of {later.letters}: {counted(later.outcomes)}"
                    console().print(f"{later.status}: {so_far}", soft_wrap=True)
                found = later
    except TimeoutError:
        pass
    return found


async def _find(api: Operators, beginning: str) -> ReplayView:
    """The replay whose id begins so."""
    if len(beginning) == _ID_LENGTH:
        return await api.get_replay(beginning)
    found = [each for each in await api.list_replays(limit=_REMEMBERED) if str(each.id).startswith(beginning)]
    if len(found) != 1:
        raise Problem(f"{len(found)} replays have an id that begins with {beginning}", then="modelswap replays list")
    return found[0]


def _data(letter: LetterView) -> Any:
    """What can be edited of a letter."""
    try:
        document = json.loads(letter.body_text or "")
    except ValueError:
        return {}
    return document.get("data", {}) if is_structured(letter.content_type) else document


def _in_editor(data: Any, *, then: str) -> Path:
    """The file with what somebody made of *data* in the editor of their own; *then* is what to do without one."""
    if not sys.stdin.isatty():
        raise Problem("nobody is there to edit it", then="give the body with --body FILE, or --body - to read it")
    before = to_json(data, indent=2)
    editor = os.environ.get("VISUAL") or os.environ.get("EDITOR") or "vi"
    opened, name = tempfile.mkstemp(prefix="modelswap-", suffix=".json")
    os.close(opened)
    file = Path(name)
    file.write_text(before, encoding="utf-8")
    try:
        failed = subprocess.run([*shlex.split(editor), name], check=False).returncode  # noqa: S603 (their own choice)
        is_as_it_was = file.read_text(encoding="utf-8", errors="replace").strip() == before
    except (OSError, ValueError) as error:
        file.unlink(missing_ok=True)
        raise Problem(f"the editor {editor!r} can not be run: {error}", then=then) from error
    if not failed and not is_as_it_was:
        return file
    file.unlink()
    if failed:
        raise Problem(f"{editor} did not end well, so nothing was replayed", then=then)
    raise Problem("nothing was edited, so nothing was replayed", then="modelswap dead-letters replay, as it is")


def _step(text: str) -> int | str:
    step = text.strip()
    return int(step) if step.isdecimal() else step
