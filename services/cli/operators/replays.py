"""Start, steer and follow replays: requests to the operators' API, with a line for each change."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Final
from uuid import uuid4

import typer
from pydantic import JsonValue

from services.cli.choices import Format
from services.cli.client import Body, patiently, segment
from services.cli.operators.client import Operators, operators
from services.cli.operators.dead_letters import selection
from services.cli.operators.replay_text import (
    LETTERS,
    REPLAYS,
    counted,
    held_up_by,
    is_underway,
    print_replay,
    short_id,
)
from services.cli.output import confirm, console, tell
from services.cli.problem import Problem
from services.cli.table import print_list
from services.ops.replays.plan import Outcome, Status
from services.ops.replays.views import ReplayedLetterView, ReplayView
from shared.contract.answers import Page
from shared.contract.text import plural

_POLL_SECONDS: Final = 0.5
#: For the predictions that are shown before the question.
_LOOK_SECONDS: Final = 5.0
#: A whole id needs no list to find it; a beginning is looked for among the newest.
_ID_LENGTH: Final = 36
_REMEMBERED: Final = 200


def request(
    numbers: Sequence[int],
    chosen: Mapping[str, str],
    *,
    reason: str,
    rate: float | None,
    steps: str | None,
    stop_share: float | None,
) -> Body:
    """Return the request for a replay; what is None takes the API's default."""
    # An option's smallest and largest value let it pass, and JSON has none.
    if any(value is not None and math.isnan(value) for value in (rate, stop_share)):
        raise Problem("nan is no number", then="modelswap dead-letters replay --help")
    pace: dict[str, JsonValue] = {
        "rate_per_second": rate,
        "steps": None if steps is None else [step.strip() for step in steps.split(",")],
        "stop_when_failed_share": stop_share,
    }
    given = {name: value for name, value in pace.items() if value is not None}
    return {**selection(numbers, chosen, "replay"), **given, "reason": reason}


async def replay(body: Body, *, dry_run: bool, yes: bool, watch: bool, output: Format) -> bool:
    """Predict outcomes, ask, and replay exactly those dead letters; return False if some failed again."""
    async with operators() as api:
        if yes and not dry_run:
            made = await _start(api, body)
        else:
            made = await _start(api, {**body, "dry_run": True})
            if output is not Format.JSON and dry_run:
                speed = f"{made.rate_per_second:g} per second"
                tell(f"replay {short_id(made)}: a dry run of {plural(made.letters, 'dead letter')}, {speed}")
            if dry_run:
                made = await watched(api, made, shows=False)
                await _print_whole(api, made, output, outcome=None, limit=sum(made.outcomes.values()) + 1)
                return True
            made = await start_if_confirmed(api, made, str(body["reason"]))
        if watch:
            made = await watched(api, made, shows=output is not Format.JSON)
    print_replay(made, output)
    return not made.outcomes.get(Outcome.FAILED)


async def _start(api: Operators, body: Body) -> ReplayView:
    then = "modelswap dead-letters replay --help"
    return await api.post(ReplayView, "/v1/replays", body, key=str(uuid4()), then=then)


async def list_replays(*, limit: int, output: Format) -> None:
    async with operators() as api:
        found = await api.list_replays(limit=limit)
    empty = "nothing was replayed yet: modelswap dead-letters replay --help"
    print_list(found, REPLAYS, output, empty=empty, limit=limit)


async def show(replay_id: str, *, outcome: str | None, limit: int, watch: bool, output: Format) -> None:
    async with operators() as api:
        found = await find_replay(api, replay_id)
        if watch:
            found = await follow(api, found, None, shows=output is not Format.JSON)
        await _print_whole(api, found, output, outcome=outcome, limit=limit)


async def steer(
    replay_id: str, verb: str, *, reason: str, watch: bool = False, yes: bool = True, output: Format
) -> bool:
    """*verb*: start, pause, resume, cancel or undo; asks first unless *yes*. Return False if some failed again."""
    async with operators() as api:
        found = await find_replay(api, replay_id)
        if not yes:
            ask_before(verb, found)
        found = await api.steer_replay(str(found.id), verb, reason)
        if watch:
            found = await watched(api, found, shows=output is not Format.JSON)
    print_replay(found, output)
    return not found.outcomes.get(Outcome.FAILED)


def ask_before(verb: str, found: ReplayView) -> None:
    """Say how much *verb* (cancel or undo) changes, and ask if that is more than one model or dead letter."""
    count = {outcome: found.outcomes.get(outcome, 0) for outcome in Outcome}
    name = f"replay {short_id(found)}"
    if verb == "undo":
        changes = count[Outcome.SWAPPED]
        said = f"{name} has set {changes} models: each is rolled back if its user still uses it"
    elif found.status is Status.CANCELED:
        changes = count[Outcome.SENT]
        said = f"{changes} dead letters of {name} were sent and have no outcome: they are given up, and open again"
    else:
        changes = count[Outcome.WAITING] + count[Outcome.PLANNED]
        said = f"{changes} dead letters of {name} were not sent: they never will be, and are open again"
    if changes > 1:
        confirm(said, f"{verb.capitalize()} it?", then=f"modelswap replays show {short_id(found)}")


async def _print_whole(api: Operators, found: ReplayView, output: Format, *, outcome: str | None, limit: int) -> None:
    path = f"/v1/replays/{segment(str(found.id))}/letters"
    letters = await api.list(Page[ReplayedLetterView], path, {"outcome": outcome}, limit=limit)
    whole = {**found.model_dump(mode="json", exclude_unset=True), "of_letters": letters}
    if output is not Format.JSON:
        print_replay(found, output)
        console().print()
    print_list(letters, LETTERS, output, empty="no such dead letter in it", limit=limit, data=whole)


async def start_if_confirmed(api: Operators, made: ReplayView, reason: str) -> ReplayView:
    """Look at the first predictions, ask, and start exactly what was shown; cancel it after a no or Ctrl-C."""
    replay_id = str(made.id)
    try:
        planned = await follow(api, made, _LOOK_SECONDS, shows=False)
        then = f"modelswap replays show {replay_id}, for the predictions"
        confirm(_plan(planned), "Replay them?", then=then, nothing="nothing was replayed")
    except (Problem, typer.Abort, asyncio.CancelledError):
        await api.steer_replay(replay_id, "cancel", "not confirmed")
        raise
    return await api.steer_replay(replay_id, "start", reason)


def _plan(planned: ReplayView) -> str:
    foreseen = f"{counted(planned.predictions)}, if sent now" if planned.predictions else "nothing is known yet"
    return (
        f"dead letters: {planned.letters}, {planned.rate_per_second:g} per second, "
        f"in steps that end after {', '.join(map(str, planned.steps))}\n"
        f"it stops by itself when more than {planned.stop_when_failed_share * 100:g}% fail\n"
        f"predicted for {sum(planned.predictions.values())} of them: {foreseen}\n"
        f"the prediction for each: modelswap replays show {short_id(planned)}"
    )


async def watched(api: Operators, found: ReplayView, *, shows: bool) -> ReplayView:
    """Follow it to its end; after Ctrl-C, say that it goes on."""
    try:
        return await follow(api, found, None, shows=shows)
    except asyncio.CancelledError:
        tell(f"replay {short_id(found)} goes on: modelswap replays show {short_id(found)} --watch")
        raise


async def follow(api: Operators, found: ReplayView, seconds: float | None, *, shows: bool) -> ReplayView:
    """
    Wait until it no longer changes by itself, at most *seconds*; *shows* prints a line for each change and the end.

    What holds it up is always said.
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
                if shows and (later.outcomes != found.outcomes or not is_underway(later)):
                    so_far = f"{later.ended} of {later.letters}: {counted(later.outcomes)}"
                    console().print(f"{later.status}: {so_far}", soft_wrap=True)
                found = later
    except TimeoutError:
        pass
    return found


async def find_replay(api: Operators, beginning: str) -> ReplayView:
    if len(beginning) == _ID_LENGTH:
        return await api.get_replay(beginning)
    newest = await api.list_replays(limit=_REMEMBERED)
    found = [each for each in newest if str(each.id).startswith(beginning)]
    if len(found) == 1:
        return found[0]
    how_many, then = f"{len(found)} replays have" if found else "no replay has", "modelswap replays list"
    if not found and len(newest) == _REMEMBERED:
        how_many, then = f"none of the newest {_REMEMBERED} replays has", f"the whole id, or {then}"
    raise Problem(f"{how_many} an id that begins with {beginning}", then=then)
