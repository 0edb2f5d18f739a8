"""How does a command say what it found? Tables for people, JSON for programs; piped, without colour and uncut."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any, Final

from rich.console import Console
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

#: Wider than any line, so that nothing is folded for a program that reads it.
_PIPED_WIDTH: Final = 10_000
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


def console(*, stderr: bool = False) -> Console:
    """Standard output (or *stderr*), as wide as a terminal is and with its colours; plain where it is none."""
    stream = sys.stderr if stderr else sys.stdout
    width = None if stream.isatty() else _PIPED_WIDTH
    return Console(stderr=stderr, highlight=False, markup=False, emoji=False, width=width)


def printable(text: str) -> str:
    """*text* without what would steer a terminal: some of it was written by strangers."""
    return "".join(character if character.isprintable() else "\N{REPLACEMENT CHARACTER}" for character in text)


def print_table(columns: Sequence[str], rows: Iterable[Sequence[object]], *, empty: str) -> None:
    """A table without lines; *empty* is what to say when it has no rows."""
    cells = [[_cell(value) for value in row] for row in rows]
    out = console()
    out.print(arranged(columns, cells, out) if cells else empty)


def arranged(columns: Sequence[str], rows: Sequence[Sequence[Text]], out: Console) -> Table:
    """*rows* as a table; one below the other where *out* is too narrow for it without breaking words, such as ids."""
    table = Table(*columns, box=None, pad_edge=False, header_style="bold")
    for row in rows:
        table.add_row(*row)
    if Measurement.get(out, out.options.update(width=_PIPED_WIDTH), table).minimum <= out.width:
        return table
    records = Table(box=None, pad_edge=False, show_header=False)
    records.add_column(style="bold", no_wrap=True)
    records.add_column()
    for number, row in enumerate(rows):
        if number:
            records.add_row()
        for name, value in zip(columns, row, strict=True):
            records.add_row(name, value)
    return records


def tell(text: str) -> None:
    """On standard error: the answer goes to standard output."""
    sys.stderr.write("\n".join(map(printable, text.splitlines())) + "\n")
    sys.stderr.flush()


def tell_if_cut(shown: Sequence[object], limit: int) -> None:
    """Say, apart from what was found, that there may be more than the *limit* that was asked for."""
    if len(shown) >= limit:
        tell(f"{limit} are shown; for more, --limit")


def to_json(value: Any, *, indent: int | None = None) -> str:
    r"""Return *value* as JSON that people can read and that steers no terminal: what is not printable as ``\uXXXX``."""
    text = json.dumps(value, indent=indent, ensure_ascii=False, default=str)
    return "".join(each if each.isprintable() or each == "\n" else json.dumps(each)[1:-1] for each in text)


def print_json(value: Any) -> None:
    sys.stdout.write(to_json(value, indent=2) + "\n")


def print_json_line(value: Any) -> None:
    """One line, out at once: somebody may wait for it."""
    sys.stdout.write(to_json(value) + "\n")
    sys.stdout.flush()


def _cell(value: object) -> Text:
    match value:
        case None | "":
            return Text("-", style="dim")
        case datetime():
            return Text(f"{value.astimezone():%Y-%m-%d %H:%M:%S}")
    return Text(printable(str(value)), style=_STYLES.get(str(value), ""), overflow="fold")
