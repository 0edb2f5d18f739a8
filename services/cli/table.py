"""Tables: one line for each item, with as many columns as fit the terminal."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from math import ceil
from typing import Final, Generic, TypeVar

from rich.text import Text

from services.cli.choices import Format
from services.cli.output import console, print_json, tell
from shared.contract.text import without_controls

T = TypeVar("T")

_NOTHING: Final = "-"
_GAP: Final = "  "
#: Text is not cut below this.
_PROSE_WIDTH: Final = 20
#: The rank of a column that says nothing.
_LAST: Final = 100
#: A version, and as much of it as tells it from others, for text that has to be cut.
_VERSION: Final = re.compile(r"\b([0-9a-f]{8})[0-9a-f]{56}\b")
_STYLES: Final = {
    "active": "green",
    "ok": "green",
    "wrong": "bold red",
    "failed": "red",
    "unverified": "red",
    "warning": "yellow",
    "canceled": "yellow",
    "running": "cyan",
    "verifying": "cyan",
}


@dataclass(frozen=True, slots=True)
class Column(Generic[T]):
    """One column of a list."""

    name: str
    #: Its value for an item.
    value: Callable[[T], object]
    #: Rank 0 is always shown: the id for a next command. Columns with higher ranks are dropped first.
    rank: int = 0
    #: Text, which may be cut to the rest of the line. Everything else is shown whole or not at all.
    is_prose: bool = False


def print_list(
    found: Sequence[T],
    columns: Sequence[Column[T]],
    output: Format,
    *,
    empty: str,
    limit: int | None = None,
    data: object = None,
) -> None:
    """
    Print items as a table or as JSON (*data*, if it is not just the items); *empty* is printed if there are none.

    With a *limit*, say on standard error if there may be more.
    """
    if output is Format.JSON:
        print_json(found if data is None else data)
        return
    print_table(found, columns, output, empty=empty)
    if limit is not None:
        tell_if_cut(found, limit)


def print_one(facts: Iterable[Sequence[object]], output: Format, *, data: object) -> None:
    """Print one thing as lines of name and value, or *data* as JSON."""
    if output is Format.JSON:
        print_json(data)
    else:
        print_facts(facts)


def print_table(found: Iterable[T], columns: Sequence[Column[T]], output: Format, *, empty: str) -> None:
    """Print one line for each item: every column if *output* is wide or piped, else those that fit."""
    rows = [[_cell(column.value(item)) for column in columns] for item in found]
    out = console()
    if not rows:
        out.print(empty, soft_wrap=True)
        return
    rows.insert(0, [Text(column.name, style="bold") for column in columns])
    room = out.width if sys.stdout.isatty() and output is not Format.WIDE else None
    columns = [_ranked(column, cells[1:]) for column, cells in zip(columns, zip(*rows, strict=True), strict=True)]
    fitted = fit(columns, _widths(rows), room)
    if any(columns[index].is_prose and width < _widths(rows)[index] for index, width in fitted.items()):
        rows = [
            [_short(cell) if column.is_prose else cell for column, cell in zip(columns, row, strict=True)]
            for row in rows
        ]
        fitted = fit(columns, _widths(rows), room)
    for line in _lines(rows, fitted):
        out.print(line, soft_wrap=True)


def _ranked(column: Column[T], cells: Sequence[Text]) -> Column[T]:
    """Return *column*, to be dropped first if none of its *cells* says anything."""
    return replace(column, rank=_LAST) if column.rank and all(cell.plain == _NOTHING for cell in cells) else column


def _short(cell: Text) -> Text:
    return Text(_VERSION.sub(r"\1…", cell.plain), style=cell.style)


def print_facts(rows: Iterable[Sequence[object]]) -> None:
    """Print one line for each fact: name and value, uncut. Only the terminal wraps it."""
    cells = [[_cell(value) for value in row] for row in rows]
    for line in _lines(cells, dict(enumerate(_widths(cells)))):
        console().print(line, soft_wrap=True)


def fit(columns: Sequence[Column[T]], widths: Sequence[int], room: int | None) -> Mapping[int, int]:
    """Return the width of each column that fits into *room* (None: all), by index; *widths* are of the contents."""
    if room is None:
        return dict(enumerate(widths))
    least = [
        min(width, max(_PROSE_WIDTH, len(column.name))) if column.is_prose else width
        for column, width in zip(columns, widths, strict=True)
    ]

    def needed(indices: Sequence[int]) -> int:
        return sum(least[index] for index in indices) + len(_GAP) * (len(indices) - 1)

    chosen = [index for index, column in enumerate(columns) if column.rank == 0]
    # The terminal wraps an id that is wider than it; the rows it takes then have room for more columns.
    room *= max(1, ceil(needed(chosen) / room))
    for index in sorted(range(len(columns)), key=lambda index: columns[index].rank):
        if index not in chosen and needed([*chosen, index]) <= room:
            chosen.append(index)
    left = room - needed(chosen)
    fitted = {}
    for index in chosen:
        fitted[index] = least[index] + min(left, widths[index] - least[index])
        left -= fitted[index] - least[index]
    return dict(sorted(fitted.items()))


def tell_if_cut(shown: Sequence[object], limit: int) -> None:
    if len(shown) >= limit:
        tell(f"{limit} are shown; for more, --limit")


def _widths(rows: Sequence[Sequence[Text]]) -> list[int]:
    return [max(cell.cell_len for cell in column) for column in zip(*rows, strict=True)]


def _lines(rows: Iterable[Sequence[Text]], widths: Mapping[int, int]) -> Iterator[Text]:
    for row in rows:
        cells = [row[index].copy() for index in widths]
        for cell, width in zip(cells, widths.values(), strict=True):
            cell.truncate(width, overflow="ellipsis", pad=True)
        line = Text(_GAP).join(cells)
        line.rstrip()
        yield line


def _cell(value: object) -> Text:
    match value:
        case Text():
            return value
        case None | "":
            return Text(_NOTHING, style="dim")
        case list():
            return _cell(", ".join(map(str, value)))
        case datetime():
            return Text(f"{value.astimezone():%Y-%m-%d %H:%M:%S}")
    return Text(without_controls(str(value)), style=_STYLES.get(str(value), ""))
