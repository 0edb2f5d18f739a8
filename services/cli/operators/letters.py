"""What is shown and said of dead letters? Requests to the operators' API, as tables, JSON or lines of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from services.cli.choices import Format
from services.cli.client import Operators
from services.cli.confirm import confirm
from services.cli.operators.replays import operators
from services.cli.output import console, print_json, print_json_line, printable
from services.cli.problem import Problem
from services.cli.table import Column, print_facts, print_list
from services.cli.timestamp import read_timestamp
from services.ops.letters.views import AuditView, Changed, GroupView, LetterLine, LetterView
from shared.runtime.clock import now

LETTERS: Final[Sequence[Column[LetterLine]]] = (
    Column("letter", lambda each: each.number),
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
AUDIT: Final[Sequence[Column[AuditView]]] = (
    Column("when", lambda each: each.at, 2),
    Column("who", lambda each: each.actor, 1),
    Column("what", lambda each: each.action),
    Column("of", lambda each: each.target),
    Column("why", lambda each: each.reason, 3, is_prose=True),
    Column("outcome", lambda each: each.outcome, 4, is_prose=True),
)
#: What stands below the other fields of a letter.
_APART: Final = frozenset({"headers", "body_base64", "body_text", "traceback"})
_NONE: Final = "there are no dead letters"
_NONE_FITS: Final = "no dead letter fits"


def wanted(chosen: Mapping[str, str]) -> dict[str, str]:
    """Return *chosen* as the API takes it, with times of day in place of ages such as 2h."""
    times = {name: read_timestamp(chosen[name], now=now()).isoformat() for name in {"since", "until"} & chosen.keys()}
    return {**chosen, **times}


async def list_letters(chosen: Mapping[str, str], *, limit: int, output: Format) -> None:
    async with operators() as api:
        found = await api.list_dead_letters(chosen, limit=limit)
    print_list(found, LETTERS, output, empty=_NONE_FITS if chosen else _NONE, limit=limit)


async def list_groups(status: str | None, *, limit: int, output: Format) -> None:
    async with operators() as api:
        found = await api.list_dead_letter_groups(status=status, limit=limit)
    print_list(found, GROUPS, output, empty=_NONE_FITS if status else _NONE, limit=limit)


async def show_letter(number: int, output: Format) -> None:
    async with operators() as api:
        print_letter(await api.get_dead_letter(number), output)


def print_letter(found: LetterView, output: Format) -> None:
    if output is Format.JSON:
        print_json(found)
        return
    shown = [(name, value) for name, value in found if name not in _APART and value is not None]
    print_facts([*shown, *((f"header {name}", value) for name, value in found.headers.items())])
    out = console()
    for title, text in (("body", _body(found)), ("traceback", found.traceback)):
        out.print(f"\n{title}:", *map(printable, text.splitlines()), sep="\n  ", soft_wrap=True)


async def export(chosen: Mapping[str, str], *, limit: int | None) -> None:
    """Each letter whole, as one line."""
    async with operators() as api:
        async for line in api.each_dead_letter(chosen, limit=limit):
            print_json_line((await api.get_dead_letter(line.number)).model_dump(mode="json", exclude={"body_text"}))


async def change(
    verb: str,
    numbers: Sequence[int],
    chosen: Mapping[str, str],
    *,
    reason: str,
    yes: bool,
    output: Format,
) -> None:
    """Drop or restore letters: by their numbers, or all that a filter finds. More than one only after asking."""
    if bool(numbers) == bool(chosen):
        raise Problem(
            "say which: either letters by their numbers, or what they have in common",
            then=f"modelswap dead-letters {verb} --help",
        )
    async with operators() as api:
        wanted = {"letters": list(numbers)} if numbers else {"filter": dict(chosen)}
        changed = await change_if_told(api, verb, wanted, reason=reason, yes=yes)
    if output is Format.JSON:
        print_json(changed.model_dump(mode="json", exclude={"newest"}))
    else:
        print(f"{_in_words(verb, changed, is_done=True)}; it stands in the audit")


async def change_if_told(api: Operators, verb: str, wanted: Mapping[str, Any], *, reason: str, yes: bool) -> Changed:
    """Show what would change where that is more than one letter, ask, and change just what was looked at."""
    if yes:
        return await api.change_dead_letters(verb, wanted, reason)
    planned = await api.change_dead_letters(verb, wanted, reason, dry_run=True)
    if planned.letters > 1:
        then = "modelswap dead-letters list, for which they are"
        confirm(_in_words(verb, planned, is_done=False), f"{verb.capitalize()} them?", then=then)
    return await api.change_dead_letters(verb, wanted, reason, up_to=planned.newest)


_DONE: Final = {"drop": "dropped", "restore": "open again"}


def _in_words(verb: str, changed: Changed, *, is_done: bool) -> str:
    one = changed.letters == 1
    is_or_would = ("is" if one else "are") if is_done else "would be"
    said = f"{changed.letters} {'letter' if one else 'letters'} {is_or_would} {_DONE[verb]}"
    if changed.unchanged:
        stay = ", ".join(f"{count} {status}" for status, count in changed.unchanged.items())
        said += f", unchanged: {stay}"
    return said


async def list_audit(chosen: Mapping[str, str | None], *, limit: int, output: Format) -> None:
    async with operators() as api:
        found = await api.list_audit(chosen, limit=limit)
    print_list(found, AUDIT, output, empty="no such action was taken", limit=limit)


def _body(letter: LetterView) -> str:
    if letter.body_text is None:
        return f"{letter.body_bytes} bytes that are no text, as base64:\n{letter.body_base64}"
    return letter.body_text
