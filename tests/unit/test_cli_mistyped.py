"""A mistyped command line is answered with what to type."""

import pytest

from services.cli.main import main

_GROUP = "f6677d149013fda7"
_LIST = "dead-letters list"
_NUMBER = "Invalid value for 'number': must be a whole number"


@pytest.mark.parametrize(
    ("typed", "why", "then"),
    [
        ("trainigs list", "No such command 'trainigs'; did you mean trainings?", "trainings list"),
        ("trainings lst --user x", "No such command 'lst'; did you mean list?", "trainings list --user x"),
        ("trainings list --usr x", "No such option: --usr; did you mean --user?", "trainings list --user x"),
        ("replays list --limt=5", "No such option: --limt; did you mean --limit=5?", "replays list --limit=5"),
        ("--versoin", "No such option: --versoin; did you mean --version?", "--version"),
        ("models --hlep", "No such option: --hlep; did you mean --help?", "models --help"),
        ("modles curent ann", "No such command 'modles'; did you mean models current?", "models current ann"),
        ("deadletters", "No such command 'deadletters'; did you mean dead-letters?", "dead-letters"),
        ("dead-letters list --json", "No such option: --json; did you mean --output=json?", f"{_LIST} --output=json"),
        ("trainings list --since 2h", "No such option: --since", "trainings list --help"),
        ("dead-letters show f6677d149013fda7", f"{_NUMBER}: {_GROUP} is a group", f"{_LIST} --group {_GROUP}"),
        (
            "dead-letters drop f6677d149013fda7 --reason x",
            f"Invalid value for 'numbers': must be a whole number: {_GROUP} is a group",
            f"dead-letters drop --group {_GROUP} --reason x",
        ),
        (
            "dead-letters list --group f667",
            "Invalid value for '--group': 'f667' is no group: it has 16 digits, as dead-letters groups shows them",
            "dead-letters list --help",
        ),
        ("nonsense", "No such command 'nonsense'", "--help"),
        ("models nonsense ann", "No such command 'nonsense'", "models --help"),
        ("models current", "Missing argument 'user'", "models current --help"),
        ("audit --limit x", "Invalid value for '--limit': must be a whole number", "audit --help"),
        ("audit --limit 0", "Invalid value for '--limit': must be at least 1", "audit --help"),
        ("up --nodes 12", "Invalid value for '--nodes': must be at most 9", "up --help"),
        (
            "dead-letters replay 1 --reason x --rate fast",
            "Invalid value for '--rate': must be a number",
            "dead-letters replay --help",
        ),
        ("serve me", "Invalid value for 'name': 'me' is not one of", "serve --help"),
    ],
)
def test_a_mistyped_line_is_answered_with_the_right_one(typed: str, why: str, then: str, capsys):
    code = main(typed.split())

    out, err = capsys.readouterr()
    said, following = err.splitlines()
    assert (code, out) == (2, "")
    assert said.startswith(f"modelswap: {why}")
    assert following == f"Next: modelswap {then}"


def test_a_group_alone_shows_its_help(capsys):
    code = main(["trainings"])

    assert code == 2
    assert capsys.readouterr().err.startswith("Usage: modelswap trainings ")
