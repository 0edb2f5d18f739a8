"""The Grafana dashboards load, ask what Prometheus understands, and look alike."""

from __future__ import annotations

from collections import Counter
from itertools import combinations

import promql_parser
import pytest

from tests.dashboards import Panel, boards, expressions

BOARDS = boards()
PANELS = [(name, panel) for name, board in BOARDS.items() for panel in board["panels"]]
PANEL_IDS = [f"{name}-{panel['title']}" for name, panel in PANELS]
#: Where Grafana draws.
COLUMNS = 24


def test_there_is_a_dashboard_for_each_question() -> None:
    assert list(BOARDS) == ["overview", "queues", "replay", "replicate", "walk"]


@pytest.mark.parametrize("name", BOARDS)
def test_a_dashboard_is_found_by_its_name(name) -> None:
    board = BOARDS[name]

    assert board["uid"] == f"modelswap-{name}"
    assert board["title"].startswith("modelswap: ")
    assert board["tags"] == ["modelswap"]


@pytest.mark.parametrize("name", BOARDS)
def test_panels_of_a_dashboard_have_ids_and_titles_of_their_own(name) -> None:
    for key in ("id", "title"):
        assert [each for each, n in Counter(panel[key] for panel in BOARDS[name]["panels"]).items() if n > 1] == []


@pytest.mark.parametrize("name", BOARDS)
def test_panels_of_a_dashboard_do_not_overlap(name) -> None:
    panels = BOARDS[name]["panels"]

    assert [panel["title"] for panel in panels if panel["gridPos"]["x"] + panel["gridPos"]["w"] > COLUMNS] == []
    assert [(a["title"], b["title"]) for a, b in combinations(panels, 2) if overlap(a, b)] == []


def overlap(one: Panel, other: Panel) -> bool:
    a, b = one["gridPos"], other["gridPos"]
    return bool(
        a["x"] < b["x"] + b["w"] and b["x"] < a["x"] + a["w"] and a["y"] < b["y"] + b["h"] and b["y"] < a["y"] + a["h"]
    )


@pytest.mark.parametrize(("name", "panel"), PANELS, ids=PANEL_IDS)
def test_a_panel_says_what_it_shows_and_in_which_unit(name, panel) -> None:
    assert panel["description"].endswith(".")
    assert panel["fieldConfig"]["defaults"]["unit"]
    # The data source is chosen on the dashboard: that of another installation has another uid.
    listed = BOARDS[name]["templating"]["list"]
    variables = {each["name"]: each["query"] for each in listed if each["type"] == "datasource"}
    assert variables[panel["datasource"]["uid"].strip("${}")] == panel["datasource"]["type"]


@pytest.mark.parametrize(("name", "panel"), PANELS, ids=PANEL_IDS)
def test_prometheus_understands_what_a_panel_asks(name, panel) -> None:
    for expression in expressions({"panels": [panel]}):
        promql_parser.parse(expression)
