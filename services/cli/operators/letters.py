"""What is shown and said of dead letters? Requests to the operators' API, as tables, JSON or lines of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from services.cli.client import Operators
from services.cli.confirm import confirm
from services.cli.moment import read_moment
from services.cli.operators.replays import operators
from services.cli.output import console, print_json, print_json_line, print_table, printable, tell_if_cut
from services.cli.problem import Problem
from services.cli.words import Format
from services.ops.letters.views import Changed, LetterLine, LetterView
from shared.runtime.clock import now

_SHOWN: Final = 80
_COLUMNS: Final = ("letter", "status", "queue", "error", "text", "training", "user", "failed", "tries")
_NONE: Final = "there are no dead letters"
_NONE_FITS: Final = "no dead letter fits"


def wanted(given: Mapping[str, str | None]) -> dict[str, str]:
    """What was *given* of a filter, as the API takes it."""
    chosen = {name: text for name, text in given.items() if text is not None}
    for name in {"since", "until"} & chosen.keys():
        chosen[name] = read_moment(chosen[name], now=now()).isoformat()
    return chosen


async def list_letters(chosen: Mapping[str, str], *, limit: int, output: Format) -> None:
    async with operators() as api:
        found = await api.list_dead_letters(chosen, limit=limit)
    if output is Format.JSON:
        print_json([each.model_dump(mode="json") for each in found])
    else:
        print_table(_COLUMNS, map(_row, found), empty=_NONE_FITS if chosen else _NONE)
        tell_if_cut(found, limit)


async def list_groups(status: str | None, *, limit: int, output: Format) -> None:
    async with operators() as api:
        found = await api.list_dead_letter_groups(status=status, limit=limit)
    if output is Format.JSON:
        print_json([each.model_dump(mode="json") for each in found])
        return
    columns = (
        "group",
        "open",
        "replaying",
        "resolved",
        "dropped",
        "1 h",
        "24 h",
        "7 d",
        "first",
        "last",
        "queue",
        "error",
        "text",
    )
    rows = [
        (
            each.fingerprint,
            *(each.open, each.replaying, each.resolved, each.dropped),
            *(each.last_hour, each.last_day, each.last_week),
            *(each.first_failed_at, each.last_failed_at),
            each.queue,
            each.error_code,
            _short(each.error_text),
        )
        for each in found
    ]
    print_table(columns, rows, empty=_NONE_FITS if status else _NONE)
    tell_if_cut(found, limit)


async def show_letter(number: int, output: Format) -> None:
    async with operators() as api:
        found = await api.get_dead_letter(number)
    if output is Format.JSON:
        print_json(found.model_dump(mode="json"))
        return
    shown = found.model_dump(
        mode="json", exclude={"body_base64", "body_text", "headers", "traceback"}, exclude_none=True
    )
    headers = [(f"header {name}", value) for name, value in found.headers.items()]
    print_table(("field", "value"), [*shown.items(), *headers], empty="")
    out = console()
    for title, text in (("body", _body(found)), ("traceback", found.traceback)):
        out.print(f"\n{title}:", *map(printable, text.splitlines()), sep="\n  ")


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
    if output is Format.JSON:
        print_json([each.model_dump(mode="json") for each in found])
        return
    rows = [(each.at, each.actor, each.action, each.target, each.reason, each.outcome) for each in found]
    print_table(("when", "who", "what", "of", "why", "outcome"), rows, empty="nobody has done anything of the kind")
    tell_if_cut(found, limit)


def _row(letter: LetterLine) -> tuple[object, ...]:
    return (
        letter.number,
        letter.status,
        letter.queue,
        letter.error_code,
        _short(letter.error_text),
        letter.training_id,
        letter.user_id,
        letter.last_failed_at,
        letter.attempts,
    )


def _short(text: str) -> str:
    return text if len(text) <= _SHOWN else f"{text[: _SHOWN - 1]}…"


def _body(letter: LetterView) -> str:
    if letter.body_text is None:
        return f"{letter.body_bytes} bytes that are no text, as base64:\n{letter.body_base64}"
    return letter.body_text
