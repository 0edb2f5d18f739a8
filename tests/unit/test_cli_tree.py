"""What the tree of commands promises to whoever types."""

import ast
import inspect
import re
import shlex
from collections.abc import Iterator
from contextlib import redirect_stdout
from functools import cache
from importlib.metadata import version
from io import StringIO
from itertools import takewhile
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from services.cli.local import roles
from services.cli.main import app, main
from services.cli.mistyped import tree_of
from services.cli.problem import Problem, exit_code, explain
from shared.contract.errors import DependencyDown
from shared.runtime.settings_base import BadSetting, SettingsError

ROOT = Path(__file__).parents[2]
COMMANDS = {
    *("demo", "up", "serve", "doctor", "listen", "trigger", "extract", "progress", "config show"),
    *("db roles", "db migrate", "db status", "topology apply", "topology diff"),
    *("trainings list", "trainings show", "trainings timeline", "trainings watch", "models current", "models history"),
    *(f"dead-letters {name}" for name in ("list", "groups", "show", "drop", "restore", "export")),
    *("audit", "console"),
    *("trainings retry-extraction", "trainings cancel", "models rollback", "models withdraw"),
    *("dead-letters replay", "dead-letters edit", "replays list", "replays show", "replays start", "replays pause"),
    *("replays resume", "replays cancel", "replays undo"),
    *("trainings re-extract", "dead-letters try", "reconcile status"),
    *("events list", "events tail", "events resend"),
    *("docs asyncapi", "docs openapi", "docs schemas"),
    *(f"webhooks {name}" for name in ("list", "add", "show", "edit", "remove", "rotate-secret", "test", "deliveries")),
    "webhooks resend",
    *(f"subscriptions {name}" for name in ("add", "list", "show", "rotate-password", "remove")),
}


def test_the_command_says_its_version():
    shown = CliRunner().invoke(app, ["--version"])

    assert (shown.exit_code, shown.output) == (0, f"modelswap {version('modelswap')}\n")


def walk(command: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    yield path, command
    for name, child in getattr(command, "commands", {}).items():
        yield from walk(child, (*path, name))


TREE = dict(walk(tree_of(app)))
LEAVES = {path: command for path, command in TREE.items() if not hasattr(command, "commands")}


@cache
def help_of(path: tuple[str, ...]) -> str:
    with redirect_stdout(StringIO()) as out:
        assert main([*path, "--help"]) == 0
    return out.getvalue()


PAGES = [ROOT / folder / "README.md" for folder in (".", "deploy", "shared/subscriber", "services/simulator")] + [
    ROOT / "deploy/runbook.md"
]


def told() -> set[str]:
    """What people are told to type: in every page, and by every help."""
    pages = [page.read_text() for page in PAGES]
    # With compose it is the same commands.
    pages = [re.sub(r"docker compose run --rm (?:-T )?cli ", "modelswap ", page) for page in pages]
    pages += [inspect.cleandoc(command.help or "") for command in TREE.values()]
    return {
        (inline or line).partition("  ")[0].strip()
        for page in pages
        for inline, line in re.findall(r"(?m)`(modelswap [^`\n]+)`|^ *(?:Example: )?(modelswap .+)$", page)
    } | advised()


def advised() -> set[str]:
    """What errors advise to type, where they say the same each time."""
    trees = [ast.parse(file.read_text()) for file in (ROOT / "services/cli").rglob("*.py")]
    thens = [
        node.value for tree in trees for node in ast.walk(tree) if isinstance(node, ast.keyword) and node.arg == "then"
    ]
    texts = {re.split("[,;]", str(then.value))[0] for then in thens if isinstance(then, ast.Constant)}
    return {text for text in texts if text.startswith("modelswap ") and not text.endswith("--help")}


@pytest.mark.parametrize("typed", sorted(told()))
def test_what_people_are_told_to_type_can_be_typed(typed, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "fixed.json").write_text("{}")
    words = list(takewhile(lambda word: word not in ("|", ">", "<"), shlex.split(typed, comments=True)))[1:]
    path = next(tuple(words[:length]) for length in range(len(words), -1, -1) if tuple(words[:length]) in TREE)

    if not path:
        # Each does its work, such as writing into the shell's own files, as soon as it is parsed.
        assert words == [option for parameter in TREE[()].params for option in parameter.opts if option in words]
        return
    assert path in LEAVES
    # An option that there is not, or an argument that lacks, is refused here; nothing is run.
    LEAVES[path].make_context(" ".join(path), words[len(path) :])


def test_these_are_the_commands():
    assert {" ".join(path) for path in LEAVES} == COMMANDS


@pytest.mark.parametrize("path", TREE, ids=" ".join)
def test_help_says_what_a_command_does(path):
    said = help_of(path)

    assert "Usage: " in said
    assert "..." not in re.sub(r"\[\w+\]\.\.\.|\w+\.\.\. <|\{EVENT\}\.\.\.", "", said)


def test_the_help_of_roles_names_each_password():
    said = help_of(("db", "roles"))

    assert [name for name in roles.PASSWORDS.values() if name not in said] == []


@pytest.mark.parametrize("group", ["dead-letters", "replays"])
def test_the_help_of_what_operators_repair_with_walks_through_it(group):
    said = help_of((group,))

    assert len(re.findall(rf"\n +modelswap {group} ", said)) >= 5


@pytest.mark.parametrize("path", TREE, ids=" ".join)
def test_helps_name_dead_letters_and_speak_plainly(path):
    said = " ".join(help_of(path).split())

    assert not re.search(r"\b(can not|whoever|nobody|anybody|public door)\b", said, re.IGNORECASE)
    assert not re.search(r"(?<!dead )(?<!dead-)(?<![\w\"])letters?\b(?!\.)", said, re.IGNORECASE)


@pytest.mark.parametrize("path", LEAVES, ids=" ".join)
def test_no_command_is_async_because_nobody_would_await_it(path):
    assert not inspect.iscoroutinefunction(inspect.unwrap(LEAVES[path].callback))


@pytest.mark.parametrize(
    "path",
    [
        "doctor",
        "config show",
        "db status",
        "topology diff",
        "trainings list",
        "models current",
        "listen",
        "dead-letters list",
        "audit",
        "reconcile status",
        "subscriptions show",
    ],
)
def test_whatever_reads_can_print_json(path):
    options = {option for parameter in LEAVES[tuple(path.split())].params for option in parameter.opts}

    assert {"--output", "-o"} <= options


@pytest.mark.parametrize(
    "typed",
    [
        ["nonsense"],
        ["serve", "nobody"],
        ["up", "--restart", "nobody"],
        ["trainings", "list", "-n"],
        ["dead-letters", "replay", "1", "--reason", "x", "--rate", "0"],
        # It would be sent.
        ["webhooks", "resend", "endpoint", "delivery", "--reason", "x", "--dry-run"],
        ["webhooks", "resend", "endpoint", "delivery", "--reason", "x", "--all"],
        ["dead-letters", "replay", "1", "--reason", "x", "--rate", "nan"],
    ],
)
def test_a_mistake_in_the_command_line_is_exit_code_2(typed):
    assert main(typed) == 2


@pytest.mark.parametrize(
    ("error", "code", "then"),
    [
        (
            SettingsError([BadSetting("MODELSWAP_AMQP_URL", "MODELSWAP_AMQP_URL is missing", is_missing=True)]),
            2,
            "modelswap config show, or modelswap up --embedded, which needs no settings",
        ),
        (DependencyDown("Postgres is away"), 1, "modelswap doctor"),
        (Problem("no such user", then="modelswap trainings list"), 1, "modelswap trainings list"),
    ],
)
def test_an_error_is_said_in_one_line_and_ends_with_what_to_do(error, code, then):
    assert explain(error) == f"modelswap: {error}\nNext: {then}\n"
    assert exit_code(error) == code
