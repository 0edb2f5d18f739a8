"""The console's style sheet: its blocks are balanced, so that no rule is lost; the dark has other colours alone."""

import re
from itertools import accumulate
from pathlib import Path

SHEET = Path("services/ops/console/static/console.css")
COLOUR = re.compile(r"#(?:[0-9a-f]{3}){1,2}")


def without_comments() -> str:
    return re.sub(r"/\*.*?\*/", "", SHEET.read_text(), flags=re.DOTALL)


def test_no_rule_of_the_style_sheet_swallows_the_next():
    text = without_comments()

    depths = list(accumulate({"{": 1, "}": -1}.get(character, 0) for character in text))

    # Rules, and rules in an @media.
    assert (min(depths), max(depths), depths[-1]) == (0, 2, 0)
    assert all(depths[found.start()] == 0 for found in re.finditer("@media", text))


def test_in_the_dark_only_the_colours_of_names_differ():
    text = without_comments()

    (dark,) = re.findall(r"prefers-color-scheme: dark\) \{\s*:root \{([^{}]*)\}\s*\}", text)
    declared = dict(each.split(":") for each in re.sub(r"\s", "", dark).rstrip(";").split(";"))

    assert text.count("prefers-color-scheme") == 1
    assert "light-dark(" not in text
    assert declared
    assert {
        name for name, value in declared.items() if not (name.startswith("--") and COLOUR.fullmatch(value))
    } == set()
