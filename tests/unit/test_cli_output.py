"""What a command prints steers no terminal, whoever wrote it."""

import json

import pytest

from services.cli.output import to_json


@pytest.mark.parametrize(
    ("character", "shown"),
    [
        ("\x1b", "\\u001b"),
        ("\x9b", "\\u009b"),
        ("\u202e", "\\u202e"),
        ("\u2028", "\\u2028"),
        ("\U000e0001", "\\udb40\\udc01"),
        ("ä", "ä"),
        ("🎨", "🎨"),
    ],
)
@pytest.mark.parametrize("indent", [None, 2])
def test_json_shows_what_steers_a_terminal_as_its_number(character, shown, indent):
    value = {f"name {character}": [f"text {character}"]}

    text = to_json(value, indent=indent)

    assert f'"text {shown}"' in text
    assert value == json.loads(text)
