"""The console's style sheet: its blocks are balanced, so that no rule is lost."""

import re
from itertools import accumulate
from pathlib import Path

SHEET = Path("services/ops/console/static/console.css")


def test_no_rule_of_the_style_sheet_swallows_the_next():
    text = re.sub(r"/\*.*?\*/", "", SHEET.read_text(), flags=re.DOTALL)

    depths = list(accumulate({"{": 1, "}": -1}.get(character, 0) for character in text))

    # Rules, and rules in an @media.
    assert (min(depths), max(depths), depths[-1]) == (0, 2, 0)
    assert all(depths[found.start()] == 0 for found in re.finditer("@media", text))
