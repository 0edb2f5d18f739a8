"""Commands that write the contract's documents."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Final

import typer

from services.cli.options import group
from services.cli.problem import Problem

Document = Mapping[str, Any]

docs = group("docs", "The contract as documents, made from the code.")

_FOLDER: Final = Path("deploy/contract")
_Check = Annotated[bool, typer.Option("--check", help="Write nothing; exit code 1 if a file differs from the code.")]
_Freeze = Annotated[
    bool, typer.Option("--freeze", help="Also keep them as those of a release, which later ones are compared with.")
]
_Folder = Annotated[Path, typer.Option("--folder", metavar="DIR", file_okay=False, help="Where the documents are.")]


@docs.command("asyncapi")
def docs_asyncapi(*, check: _Check = False, folder: _Folder = _FOLDER) -> None:
    """
    Write asyncapi.json: the public events.

    AsyncAPI 3.0: each event with its exchange, routing key, headers, body, an example, and what is promised of it.
    """
    from services.cli.docs.asyncapi import asyncapi

    _write_or_check({folder / "asyncapi.json": asyncapi()}, check=check)


@docs.command("openapi")
def docs_openapi(*, check: _Check = False, folder: _Folder = _FOLDER) -> None:
    """
    Write openapi-PROCESS.json for each HTTP API.

    OpenAPI 3.1: the product's API (state), the operators' (ops), and that of webhook endpoints (notifier).
    """
    from services.cli.docs.http import APIS, openapi

    _write_or_check({folder / f"openapi-{name}.json": openapi(name) for name in APIS}, check=check)


@docs.command("schemas")
def docs_schemas(*, check: _Check = False, freeze: _Freeze = False, folder: _Folder = _FOLDER) -> None:
    """
    Write a JSON Schema of each public event.

    Each is named by its routing key. headers.json is that of the headers of them all. Nothing is written if they break
    what the last release promised (the folder frozen): exit code 1, with what to do.
    """
    from services.cli.docs.compatibility import find_breaks, remedy
    from services.cli.docs.schemas import all_schemas

    schemas = all_schemas()
    released = {path.stem: json.loads(path.read_text("utf-8")) for path in sorted((folder / "frozen").glob("*.json"))}
    if breaks := find_breaks(released, schemas):
        raise Problem(f"this breaks subscribers: {'; '.join(breaks)}", then=remedy(breaks))
    for place in ("schemas", "frozen") if freeze else ("schemas",):
        documents = {folder / place / f"{name}.json": schema for name, schema in schemas.items()}
        _write_or_check(documents, folder / place, check=check)


def _write_or_check(documents: Mapping[Path, Document], folder: Path | None = None, *, check: bool) -> None:
    """Write *documents*, and delete other documents in *folder*; or compare them with the files."""
    texts = {path: json.dumps(each, indent=2, ensure_ascii=False) + "\n" for path, each in documents.items()}
    others = [path for path in sorted(folder.glob("*.json")) if path not in documents] if folder else []
    if check:
        differing = [path for path, text in texts.items() if not path.exists() or path.read_text("utf-8") != text]
        if wrong := [*differing, *others]:
            then = "make docs, and commit the documents with the change"
            raise Problem(f"not what the code says: {', '.join(map(str, wrong))}", then=then)
    else:
        for path, text in texts.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
        for path in others:
            path.unlink()
    print(f"{', '.join(path.name for path in documents)}: {'as the code says' if check else 'written'}")
