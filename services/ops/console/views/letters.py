"""Dead letters as their screens show them: groups with their trend, selections, suggestions. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from markupsafe import Markup
from pydantic import JsonValue

from services.ops.console.views.charts import Point, bars, sparkbars
from services.ops.console.views.filters import LETTER_FIELDS, address
from services.ops.console.views.formats import number
from services.ops.letters.views import Changed, Facet, GroupView, LetterStatus, Suggestions, ValueCount
from shared.contract.text import plural

PATH: Final = "/dead-letters"
#: How many values of each field are offered as links.
_OFFERED: Final = 6
#: A page's checkboxes; more are selected by a filter.
_NAMED: Final = 12
_VERBS: Final = {"drop": "dropped", "restore": "open again"}
#: The status that each verb changes.
_FROM: Final = {"drop": LetterStatus.OPEN, "restore": LetterStatus.DROPPED}


class Group(GroupView):
    """A group, with its failures in each of the last 24 hours."""

    def address(self, status: str | None) -> str:
        """Return the address of its dead letters with *status*."""
        return address(PATH, {"fingerprint": self.fingerprint, "status": status})

    @property
    def small_trend(self) -> Markup:
        return sparkbars(self.hourly, sentence=self._lately, kind="bad")

    def trend(self, now: datetime) -> Markup:
        count = len(self.hourly)
        points = [
            Point(failed, f"{number(failed)} failed", now - timedelta(hours=count - place))
            for place, failed in enumerate(self.hourly)
        ]
        return bars(points, sentence=self._lately, kind="bad")

    @property
    def _lately(self) -> str:
        return f"{plural(self.last_day, 'failure')} in the last 24 hours, {number(self.last_hour)} in the last hour"


def offers(suggestions: Suggestions, chosen: Mapping[str, str]) -> list[tuple[Facet, Sequence[ValueCount]]]:
    """Return the values that tell the found dead letters apart, by fields that *chosen* does not have."""
    found: list[tuple[Facet, Sequence[ValueCount]]] = []
    for facet in Facet:
        # A value that all of them have tells nothing apart, and neither does one that each has alone.
        tells = [each for each in suggestions.values.get(facet, ()) if each.letters < suggestions.letters]
        if facet.value not in chosen and tells and tells[0].letters > 1:
            found.append((facet, tells[:_OFFERED]))
    return found


def narrowed(chosen: Mapping[str, str], facet: Facet, value: str) -> str:
    """Return the address of the list of those that also have *value*; a status alone would show groups."""
    return address(PATH, {"show": "list"}, chosen, {facet.value: value})


def typed(suggestions: Suggestions) -> dict[str, list[str]]:
    """Return the values that are suggested while a field is typed."""
    return {facet.value: [each.value for each in values] for facet, values in suggestions.values.items()}


def found_count(suggestions: Suggestions) -> str:
    """Return how many dead letters a filter finds, in words."""
    count = plural(suggestions.letters, "dead letter")
    return count if suggestions.is_complete else f"More than {count}"


@dataclass(frozen=True, slots=True)
class Selection:
    """Dead letters that something is done to: named ones, or all that a filter finds."""

    #: As they were given, to be sent again by a form.
    fields: Sequence[tuple[str, str]]
    #: As the API takes it.
    body: Mapping[str, JsonValue]
    sentence: str


def selection_of(numbers: Sequence[str], chosen: Mapping[str, str]) -> Selection:
    """Return the selection of *numbers*, or else of the filter *chosen*, whose times are written out."""
    if numbers:
        few = ", ".join(numbers[:_NAMED])
        more = f" and {number(len(numbers) - _NAMED)} more" if len(numbers) > _NAMED else ""
        said = f"Dead letter{'' if len(numbers) == 1 else 's'} {few}{more}"
        return Selection(
            [("letters", each) for each in numbers], {"letters": [count_of(each) for each in numbers]}, said
        )
    kept = {name: value for name, value in chosen.items() if name != "status"}
    said = ", ".join(f"{LETTER_FIELDS[name].lower()} {value}" for name, value in kept.items())
    return Selection(list(kept.items()), {"filter": {**kept}}, f"All with {said}" if kept else "No dead letter")


def count_of(text: str) -> int | str:
    """Return the whole number that was typed; what is none is refused by the API, with its reason."""
    return int(text) if text.isascii() and text.isdecimal() and len(text) <= len(str(2**63)) else text


def change_sentence(verb: str, planned: Changed) -> str:
    """Return what a drop or a restore would do."""
    said = f"{plural(planned.letters, 'dead letter')} would be {_VERBS[verb]}."
    if planned.unchanged:
        others = ", ".join(f"{number(count)} {status}" for status, count in planned.unchanged.items())
        said += f" Unchanged stay {others}: only those that are {_FROM[verb]} are changed."
    return said


def changed_sentence(verb: str, changed: Changed) -> str:
    """Return what a drop or a restore has done."""
    return f"{plural(changed.letters, 'dead letter is', 'dead letters are')} {_VERBS[verb]}. It is in the audit."
