"""Documents as files: written, or compared with what is there. Edge: the file system."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from services.cli.problem import Problem

Document = Mapping[str, Any]


def write(documents: Mapping[Path, Document], folder: Path | None = None) -> None:
    """Write *documents*; delete other documents in *folder*."""
    for path, document in documents.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(_text(document), encoding="utf-8")
    for path in _others(documents, folder):
        path.unlink()


def check(documents: Mapping[Path, Document], folder: Path | None = None) -> None:
    """
    Compare *documents* with their files.

    Raises:
        Problem: if a file differs, is missing, or is in *folder* without being one of them.

    """
    differing = [path for path, document in documents.items() if _read(path) != _text(document)]
    if wrong := [*differing, *_others(documents, folder)]:
        names = ", ".join(map(str, wrong))
        raise Problem(f"not what the code says: {names}", then="make docs, and commit the documents with the change")


def read(folder: Path) -> dict[str, Document]:
    """Return the documents in *folder* by their names."""
    return {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in sorted(folder.glob("*.json"))}


def _text(document: Document) -> str:
    return json.dumps(document, indent=2, ensure_ascii=False) + "\n"


def _read(path: Path) -> str | None:
    return path.read_text(encoding="utf-8") if path.exists() else None


def _others(documents: Mapping[Path, Document], folder: Path | None) -> Iterator[Path]:
    if folder is not None:
        yield from (path for path in sorted(folder.glob("*.json")) if path not in documents)
