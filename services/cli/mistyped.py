"""Mistyped commands and options: suggest the right ones. Pure."""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from difflib import get_close_matches
from functools import cache
from typing import Final

import typer
from typer.core import TyperGroup
from typer.main import get_command

#: Returns the tree of a Typer's commands, built once: that takes longer than most commands.
tree_of = cache(get_command)

_NAME: Final = "modelswap"
_NOT_A_NUMBER: Final = "must be a whole number"
_GROUP: Final = re.compile("[0-9a-f]{16}")
#: How pydantic, with which Typer reads numbers, says what is wrong → how we do.
_SAID: Final = {
    "Value error, ": "",
    "Input should be a valid integer, unable to parse string as an integer": _NOT_A_NUMBER,
    "Input should be a valid number, unable to parse string as a number": "must be a number",
    "Input should be greater than or equal to": "must be at least",
    "Input should be less than or equal to": "must be at most",
}


def explain_mistake(error: typer.TyperException, app: typer.Typer, typed: Sequence[str]) -> str:
    """Return the text for standard error about the arguments *typed*: why they are invalid, then what to type."""
    command = tree_of(app)
    typed, depth = list(typed), 0
    words = [*typed]
    while isinstance(command, TyperGroup) and depth < len(words) and not words[depth].startswith("-"):
        words[depth] = _closest(words[depth], list(command.commands))
        if words[depth] not in command.commands:
            break
        command = command.commands[words[depth]]
        depth += 1
    if isinstance(command, TyperGroup) and depth == len(words) and words == typed:
        # A group without a command: show its help.
        return f"{error.format_message()}\n"
    options = [option for parameter in command.params for option in (*parameter.opts, *parameter.secondary_opts)]
    words[depth:] = [_option(word, [*options, "--help"]) for word in words[depth:]]
    meant = [after for before, after in zip(typed, words, strict=True) if before != after]
    why = error.message if meant else _in_our_words(error.format_message())
    hint = f"; did you mean {' '.join(meant)}?" if meant else ""
    then = words if meant else [*words[:depth], "--help"]
    if _NOT_A_NUMBER in why and (group := next(filter(_GROUP.fullmatch, words[depth:]), None)):
        hint, at = f": {group} is a group", words.index(group)
        then = (
            [*words[:at], "--group", *words[at:]]
            if "--group" in options
            else ["dead-letters", "list", "--group", group]
        )
    return f"{_NAME}: {why.rstrip('.')}{hint}\nNext: {shlex.join([_NAME, *then])}\n"


def _in_our_words(why: str) -> str:
    for theirs, ours in _SAID.items():
        why = why.replace(theirs, ours)
    return why


def _option(word: str, options: Sequence[str]) -> str:
    name, equals, value = word.partition("=")
    if name == "--json" and "--output" in options:
        return "--output=json"
    if not name.startswith("--") or name == "--":
        return word
    # Without the dashes, which all of them have in common.
    return "--" + _closest(name[2:], [each[2:] for each in options if each.startswith("--")]) + equals + value


def _closest(word: str, known: Sequence[str]) -> str:
    """Return the word in *known* closest to *word*; *word* itself if it is known or nothing is close."""
    return word if word in known else next(iter(get_close_matches(word, known, 1)), word)
