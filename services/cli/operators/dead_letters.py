"""Dead letters: requests to the operators' API, shown as tables, JSON or JSON lines."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Final

from pydantic import JsonValue

from services.cli.choices import Format
from services.cli.client import Body, NotThere
from services.cli.operators.client import Operators, operators
from services.cli.options import read_timestamp, typed
from services.cli.output import confirm, console, print_json, print_json_line
from services.cli.problem import Problem
from services.cli.table import Column, print_facts, print_list
from services.ops.letters.views import Changed, GroupView, LetterLine, LetterView
from shared.contract.answers import Page
from shared.contract.text import plural, without_controls
from shared.runtime.clock import now

LETTERS: Final[Sequence[Column[LetterLine]]] = (
    Column("dead letter", lambda each: each.number),
    Column("status", lambda each: each.status, 1),
    Column("queue", lambda each: each.queue, 7),
    Column("error", lambda each: each.error_code, 2),
    Column("text", lambda each: each.error_text, 3, is_prose=True),
    Column("training", lambda each: each.training_id, 5),
    Column("user", lambda each: each.user_id, 6),
    Column("failed", lambda each: each.last_failed_at, 4),
    Column("tries", lambda each: each.attempts, 8),
)
GROUPS: Final[Sequence[Column[GroupView]]] = (
    Column("group", lambda each: each.fingerprint),
    Column("open", lambda each: each.open, 1),
    Column("replaying", lambda each: each.replaying, 9),
    Column("resolved", lambda each: each.resolved, 10),
    Column("dropped", lambda each: each.dropped, 11),
    Column("1 h", lambda each: each.last_hour, 5),
    Column("24 h", lambda each: each.last_day, 4),
    Column("7 d", lambda each: each.last_week, 7),
    Column("first", lambda each: each.first_failed_at, 12),
    Column("last", lambda each: each.last_failed_at, 6),
    Column("queue", lambda each: each.queue, 8),
    Column("error", lambda each: each.error_code, 2),
    Column("text", lambda each: each.error_text, 3, is_prose=True),
)
#: Fields that are shown below the others.
_APART: Final = frozenset({"headers", "body_base64", "body_text", "traceback"})
_DONE: Final = {"drop": "dropped", "restore": "open again"}


def to_filter(chosen: Mapping[str, str]) -> dict[str, str]:
    """Return *chosen* as the API takes it, with timestamps in place of ages such as 2h."""
    moment = now()
    times = {name: read_timestamp(chosen[name], now=moment) for name in ("since", "until") if name in chosen}
    if len(times) > 1 and times["since"] >= times["until"]:
        said = f"--since {chosen['since']} is not before --until {chosen['until']}"
        raise Problem(said, then="give the earlier time as --since: 3h is earlier than 2h")
    return {**chosen, **{name: time.isoformat() for name, time in times.items()}}


def selection(numbers: Sequence[int], chosen: Mapping[str, str], command: str) -> dict[str, JsonValue]:
    """Return the selection of dead letters for a request: either their *numbers* or the filter *chosen*."""
    if bool(numbers) == bool(chosen):
        either = "either by their numbers or by what they share (--group, --user, --since and so on), not by both"
        raise Problem(f"say which dead letters: {either}", then=f"modelswap dead-letters {command} --help")
    return {"letters": list(numbers)} if numbers else {"filter": {**to_filter(chosen)}}


async def list_letters(chosen: Mapping[str, str], *, limit: int, output: Format) -> None:
    async with operators() as api:
        found = await api.list(Page[LetterLine], "/v1/dead-letters", to_filter(chosen), limit=limit)
    print_list(found, LETTERS, output, empty=_none(chosen), limit=limit)


async def list_groups(status: str | None, *, limit: int, output: Format) -> None:
    async with operators() as api:
        found = await api.list(Page[GroupView], "/v1/dead-letter-groups", {"status": status}, limit=limit)
    print_list(found, GROUPS, output, empty=_none(status), limit=limit)


async def show_letter(number: int, output: Format) -> None:
    async with operators() as api:
        print_letter(await api.get_dead_letter(number), output)


def print_letter(found: LetterView, output: Format) -> None:
    if output is Format.JSON:
        print_json(found)
        return
    shown = [(name, value) for name, value in found if name not in _APART and value is not None]
    print_facts([*shown, *((f"header {name}", value) for name, value in found.headers.items())])
    body = found.body_text
    if body is None:
        body = f"{found.body_bytes} bytes that are no text, as base64:\n{found.body_base64}"
    out = console()
    for title, text in (("body", body), ("traceback", found.traceback)):
        out.print(f"\n{title}:", *map(without_controls, text.splitlines()), sep="\n  ", soft_wrap=True)


async def export(chosen: Mapping[str, str], *, limit: int | None) -> None:
    async with operators() as api:
        async for line in api.items(Page[LetterLine], "/v1/dead-letters", to_filter(chosen), limit=limit):
            # Housekeeping may have deleted it since it was listed.
            with suppress(NotThere):
                letter = await api.get_dead_letter(line.number)
                print_json_line(letter.model_dump(mode="json", exclude={"body_text"}))


async def change(
    verb: str, numbers: Sequence[int], chosen: Mapping[str, str], *, reason: str, yes: bool, output: Format
) -> None:
    """Drop or restore dead letters (*verb*). Ask first where it is more than one."""
    wanted = selection(numbers, chosen, verb)
    async with operators() as api:
        changed = await change_if_confirmed(api, verb, wanted, reason=reason, yes=yes)
    if not (changed.letters or changed.unchanged):
        raise Problem(f"no dead letter fits {typed(chosen)}: nothing has changed", then="modelswap dead-letters groups")
    if output is Format.JSON:
        print_json(changed.model_dump(mode="json", exclude={"newest"}))
    else:
        print(f"{_summary(verb, changed, is_done=True)}; it is in the audit")


async def change_if_confirmed(api: Operators, verb: str, wanted: Body, *, reason: str, yes: bool) -> Changed:
    """Show what would change where that is more than one dead letter, ask, and change exactly what was shown."""
    body = {**wanted, "reason": reason}
    if yes:
        return await api.change_dead_letters(verb, body)
    planned = await api.change_dead_letters(verb, {**body, "dry_run": True})
    if planned.newest is None:
        return planned
    if planned.letters > 1:
        then = "modelswap dead-letters list, to see which they are"
        confirm(_summary(verb, planned, is_done=False), f"{verb.capitalize()} them?", then=then)
    return await api.change_dead_letters(verb, {**body, "up_to": planned.newest})


def _summary(verb: str, changed: Changed, *, is_done: bool) -> str:
    if is_done:
        said = f"{plural(changed.letters, 'dead letter is', 'dead letters are')} {_DONE[verb]}"
    else:
        said = f"{plural(changed.letters, 'dead letter')} would be {_DONE[verb]}"
    if changed.unchanged:
        said += f", unchanged: {', '.join(f'{count} {status}' for status, count in changed.unchanged.items())}"
    return said


def _none(chosen: object) -> str:
    return "no dead letter fits" if chosen else "there are no dead letters"
