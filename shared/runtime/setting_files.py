"""The ``_FILE`` form of settings: the value is the content of a file, such as a mounted secret. Edge: reads files."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Final

FILE: Final = "_FILE"


def read_files(values: Mapping[str, str]) -> tuple[dict[str, str], list[str]]:
    """Replace each ``NAME_FILE`` by ``NAME`` with the file's content; also return an error line per unreadable file."""
    read, mistakes = dict(values), []
    for name, path in values.items():
        if not name.endswith(FILE):
            continue
        target = name.removesuffix(FILE)
        if target in values:
            mistakes.append(f"{target} is given twice, also as {name}")
            continue
        try:
            read[target] = Path(path).read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            mistakes.append(f"{name}: {type(error).__name__} while reading {path}")
    return read, mistakes
