"""The navigation of the console: its screens, and the key that leads to each. Pure."""

from __future__ import annotations

from typing import Final, NamedTuple


class Section(NamedTuple):
    """One screen in the navigation; *key* is pressed after ``g``."""

    path: str
    title: str
    key: str


SECTIONS: Final = (
    Section("/", "Now", "n"),
    Section("/trainings", "Trainings", "t"),
    Section("/dead-letters", "Dead letters", "d"),
    Section("/replays", "Replays", "r"),
    Section("/queues", "Queues", "q"),
    Section("/audit", "Audit", "a"),
)


def section_of(path: str) -> str | None:
    """Return the path of the section that *path* belongs to; None if it belongs to none."""
    first = "/" + path.lstrip("/").partition("/")[0]
    if first == "/users":
        return "/trainings"
    return first if any(first == section.path for section in SECTIONS) else None
