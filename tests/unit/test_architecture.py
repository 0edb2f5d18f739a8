"""ARCHITECTURE.md and CONTRIBUTING.md name what there is: folders, layers, files, functions, make targets and steps."""

import ast
import re
import subprocess
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = {name: (ROOT / name).read_text() for name in ("ARCHITECTURE.md", "CONTRIBUTING.md")}
ARCHITECTURE = PAGES["ARCHITECTURE.md"]
RULES = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
TARGETS = set(re.findall(r"(?m)^([a-z][a-z-]*):", (ROOT / "Makefile").read_text()))
CODE = ("services", "shared")
#: A path of this repository, as the pages write it.
PATH = re.compile(r"`((?:services|shared|deploy|tests|\.ci)(?:/[\w.-]+)*|[\w.-]+\.(?:md|toml|yml|txt))`")


def section(title: str) -> str:
    """The text below a heading of ARCHITECTURE.md, up to the next one of its rank or above."""
    rank, rest = re.split(rf"(?m)^(#+) {re.escape(title)}\n", ARCHITECTURE, maxsplit=1)[1:]
    return re.split(rf"(?m)^#{{1,{len(rank)}}} ", rest)[0]


def rows(text: str) -> list[list[str]]:
    """The cells of a table, without its head."""
    lines = [line.strip("|").split("|") for line in text.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line] for line in lines][2:]


def packages() -> set[str]:
    return {str(file.parent.relative_to(ROOT)) for folder in CODE for file in (ROOT / folder).rglob("__init__.py")}


def functions(file: Path) -> set[str]:
    tree = ast.parse(file.read_text())
    return {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)}


def test_every_package_is_a_folder_on_the_page_and_vice_versa():
    told = {path for folder, _ in rows(section("The folders").partition("### ")[0]) for path in PATH.findall(folder)}

    assert {folder for folder in told if folder.startswith(CODE)} == packages() - set(CODE)


def test_no_other_folder_is_in_the_repository():
    tracked = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout

    folders = {path.partition("/")[0] for path in tracked.split("\0") if "/" in path}
    assert folders == {".ci", "deploy", "services", "shared", "tests"}


def test_the_layers_on_the_page_are_those_of_the_import_rules():
    (layers,) = (rule["layers"] for rule in RULES if rule["type"] == "layers")

    told = [PATH.findall(folders) for _, folders in rows(section("Who may import whom"))]

    assert told == [layer.replace(".", "/").split(" | ") for layer in layers]


@pytest.mark.parametrize("page", PAGES)
def test_every_path_that_a_page_names_exists(page):
    named = set(PATH.findall(PAGES[page]))

    assert named
    assert {path for path in named if not (ROOT / path).exists()} == set()


@pytest.mark.parametrize("page", PAGES)
def test_every_make_target_that_a_page_names_exists(page):
    named = set(re.findall(r"(?m)(?:`|^)make ([a-z-]+)", PAGES[page]))

    assert named
    assert named <= TARGETS


def test_contributing_names_every_make_target():
    told = set(re.findall(r"make ([a-z-]+)", PAGES["CONTRIBUTING.md"]))

    assert TARGETS - told == set()


@pytest.mark.parametrize(
    "step",
    [
        pytest.param(step, id=f"{path} {step[0]}")
        for path in ("one webhook", "a dead letter")
        for step in rows(section(f"Read it in this order: the path of {path}"))
    ],
)
def test_each_step_of_the_path_names_functions_of_its_files(step):
    _, files, told = step
    paths = [ROOT / path for path in PATH.findall(files)]

    named = set(re.findall(r"`(\w+)\(\)`", told))

    assert paths
    assert named
    assert named <= {name for path in paths for name in functions(path)}


@pytest.mark.parametrize("recipe", re.findall(r"(?m)^### (Add .+)$", ARCHITECTURE))
def test_each_recipe_names_code_tests_and_functions_that_exist(recipe):
    text = section(recipe)
    paths = [ROOT / path for path in PATH.findall(text)]
    tests = [path for path in paths if path.name.startswith("test_")]
    code = [path for path in paths if path.suffix == ".py" and path not in tests]

    named = set(re.findall(r"`(\w+)\(\)`", text))

    assert tests
    assert code
    assert [path for path in paths if not path.exists()] == []
    assert named <= {name for path in code for name in functions(path)}


def test_the_four_recipes_are_on_the_page():
    recipes = re.findall(r"(?m)^### Add (.+)$", ARCHITECTURE)

    assert recipes == ["an output shape", "an event field", "a setting", "a replay action"]


@pytest.mark.parametrize(("page", "limit"), [("ARCHITECTURE.md", 230), ("CONTRIBUTING.md", 100)])
def test_a_page_stays_a_page(page, limit):
    lines = len(PAGES[page].splitlines())

    assert lines < limit, "say it in fewer lines, or leave out what the code says"


def anchors(page: Path) -> set[str]:
    """The names by which links reach the headings of *page*."""
    headings = re.findall(r"(?m)^#+ (.+)$", page.read_text())
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize(
    "page", ["README.md", "deploy/README.md", "deploy/runbook.md", "shared/subscriber/README.md", *PAGES]
)
def test_every_link_of_a_page_leads_somewhere(page):
    links = re.findall(r"\]\((?!https?:)([^)#\s]*)(?:#([\w-]+))?\)", (ROOT / page).read_text())
    places = [((ROOT / page).parent / path if path else ROOT / page, anchor) for path, anchor in links]

    assert [str(place) for place, anchor in places if not place.exists()] == []
    assert [(str(place), anchor) for place, anchor in places if anchor and anchor not in anchors(place)] == []
