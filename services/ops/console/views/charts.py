"""
Small charts as SVG. Pure.

The policy for browsers forbids styles in attributes: colours are classes of `console.css`, sizes are attributes. Each
chart is an image whose name is a sentence that says the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from markupsafe import Markup, escape

from services.ops.console.views.formats import iso

_WIDTH: Final = 480
_HEIGHT: Final = 96
_GAP: Final = 2.0
#: What is not zero is seen.
_LEAST: Final = 2.0
_DOT: Final = 2.2
_NOTHING: Final = Markup()


@dataclass(frozen=True, slots=True)
class Point:
    """One value of a chart; None: there is none. *title* appears under the pointer, with the time *at* before it."""

    value: float | None
    title: str
    at: datetime


@dataclass(frozen=True, slots=True)
class Part:
    """One part of a whole; *kind* is a status colour: good, info, warn, bad or quiet."""

    value: float
    title: str
    kind: str


def bars(points: Sequence[Point], *, sentence: str, kind: str = "info") -> Markup:
    """Return a chart with one bar for each point, from zero to the highest value."""
    top = max([each.value or 0 for each in points] + [1])
    width = _WIDTH / max(len(points), 1)
    drawn = Markup()
    for index, point in enumerate(points):
        value = point.value or 0
        height = max(_LEAST, value / top * _HEIGHT) if value else 1.0
        colour = f"fill-{kind}" if value else "fill-none"
        bar = Markup('<rect class="{}" x="{}" y="{}" width="{}" height="{}" rx="1.5"/>').format(
            colour, _n(index * width + _GAP / 2), _n(_HEIGHT - height), _n(max(width - _GAP, 1)), _n(height)
        )
        drawn += _titled(point, index, width, bar)
    return _chart(drawn, sentence)


def sparkbars(values: Sequence[int], *, sentence: str, kind: str = "info") -> Markup:
    """Return bars without titles, for a cell of a table: one path, since a page has many of them."""
    top, width = max([*values, 1]), _WIDTH / max(len(values), 1)
    heights = [max(_LEAST, value / top * _HEIGHT) if value else 0 for value in values]
    path = "".join(
        f"M{_n(place * width + _GAP / 2)} {_HEIGHT}v-{_n(height)}h{_n(width - _GAP)}V{_HEIGHT}z"
        for place, height in enumerate(heights)
        if height
    )
    base = Markup('<rect class="fill-none" x="0" y="{}" width="{}" height="1"/>').format(_HEIGHT - 1, _WIDTH)
    return _chart(base + Markup('<path class="fill-{}" d="{}"/>').format(kind, path), sentence)


def lines(series: Sequence[tuple[str, Sequence[Point]]], *, sentence: str) -> Markup:
    """Return a chart with one line for each (kind, points), from zero to the highest value; a None is a gap."""
    top = max([each.value or 0 for _, points in series for each in points] + [1e-9])
    drawn = Markup()
    for kind, points in series:
        step = _WIDTH / max(len(points), 1)
        for run in _runs(points):
            places = [
                (_n((index + 0.5) * step), _n(_HEIGHT - (value / top) * (_HEIGHT - 4) - 2)) for index, value in run
            ]
            if len(places) == 1:
                drawn += Markup('<circle class="fill-{}" cx="{}" cy="{}" r="{}"/>').format(kind, *places[0], _DOT)
            else:
                path = " ".join(f"{x},{y}" for x, y in places)
                drawn += Markup('<polyline class="stroke-{}" points="{}" vector-effect="non-scaling-stroke"/>').format(
                    kind, path
                )
    # Titles of all series together, one place for each point.
    first = series[0][1] if series else ()
    step = _WIDTH / max(len(first), 1)
    for index, point in enumerate(first):
        drawn += _titled(point, index, step)
    return _chart(drawn, sentence)


def stage_bar(parts: Sequence[Part], *, sentence: str) -> Markup:
    """Return one bar with the parts of a whole side by side; each that is not zero is seen."""
    shown = [part for part in parts if part.value > 0]
    total = sum(part.value for part in shown)
    least = _WIDTH / 80
    free = _WIDTH - least * len(shown)
    drawn, x = Markup(), 0.0
    for part in shown:
        width = least + part.value / total * free
        drawn += Markup('<rect class="fill-{}" x="{}" y="0" width="{}" height="{}"><title>{}</title></rect>').format(
            part.kind, _n(x), _n(max(width - 1, 1)), _HEIGHT, part.title
        )
        x += width
    if not shown:
        drawn = Markup('<rect class="fill-none" x="0" y="0" width="{}" height="{}"/>').format(_WIDTH, _HEIGHT)
    return _chart(drawn, sentence, kind="chart stages")


def _runs(points: Sequence[Point]) -> list[list[tuple[int, float]]]:
    """Return the values with their places, in pieces without a gap."""
    runs: list[list[tuple[int, float]]] = [[]]
    for index, point in enumerate(points):
        if point.value is not None:
            runs[-1].append((index, point.value))
        elif runs[-1]:
            runs.append([])
    return [run for run in runs if run]


def _titled(point: Point, index: int, width: float, drawn: Markup = _NOTHING) -> Markup:
    """Return what is *drawn* of *point* with its title, which the whole column shows."""
    # console.js writes the time in the viewer's zone.
    title = Markup('<title data-at="{}" data-says="{}">{:%H:%M} UTC: {}</title>').format(
        iso(point.at), point.title, point.at, point.title
    )
    column = Markup('<rect class="fill-clear" x="{}" y="0" width="{}" height="{}"/>')
    return Markup("<g>{}{}{}</g>").format(title, column.format(_n(index * width), _n(width), _HEIGHT), drawn)


def _chart(drawn: Markup, sentence: str, kind: str = "chart") -> Markup:
    return Markup(
        '<svg class="{}" viewBox="0 0 {} {}" preserveAspectRatio="none" role="img" aria-label="{}">{}</svg>'
    ).format(kind, _WIDTH, _HEIGHT, escape(sentence), drawn)


def _n(value: float) -> str:
    return f"{value:.1f}".removesuffix(".0")
