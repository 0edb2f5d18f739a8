"""Public tools take the contract's documents: validators, and generators of types. Skipped where they cannot be had."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

import pytest

from services.cli.docs.schemas import PUBLIC
from tests.tools import node_modules, python_path

CONTRACT: Final = Path(__file__).parents[2] / "deploy" / "contract"
SCRIPTS: Final = Path(__file__).parent / "contract"
CAPTURED: Final = Path(__file__).parents[1] / "fixtures" / "messages"
PARSER: Final = "@asyncapi/parser@3.6.3"
LINTER: Final = "@redocly/cli@2.77.0"
TYPESCRIPT: Final = ("json-schema-to-typescript@16.0.0", "typescript@7.0.2")
PYTHON: Final = "datamodel-code-generator==0.89.0"


def captured() -> dict[str, dict[str, Any]]:
    """A message of each public event as a real run sent it: its headers and its body."""
    return {key: json.loads((CAPTURED / f"{key}.json").read_text()) for key in PUBLIC}


@pytest.fixture(scope="module")
def modules() -> Path:
    instead = "of the validators, only those of tests/unit/test_docs.py ran"
    return node_modules(PARSER, LINTER, *TYPESCRIPT, instead=instead)


@pytest.fixture
def said(capsys) -> Callable[[str], None]:
    """Says something in the output of a test that passes."""

    def say(text: str) -> None:
        with capsys.disabled():
            sys.stdout.write(f"\n{text}\n")

    return say


def run(*command: str | Path, environment: Mapping[str, str] = MappingProxyType({}), cwd: Path | None = None) -> str:
    """What a command says; it must succeed."""
    done = subprocess.run(
        command, cwd=cwd, env={**os.environ, **environment}, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_asyncapi_parser_accepts_the_document(modules, tmp_path, said):
    node = ("node", SCRIPTS / "validate.cjs")
    document = json.loads((CONTRACT / "asyncapi.json").read_text())
    document["operations"]["publishModelReady"]["action"] = "shout"
    (tmp_path / "broken.json").write_text(json.dumps(document))

    complaints = run(*node, CONTRACT / "asyncapi.json", environment={"NODE_PATH": str(modules)})
    refused = subprocess.run(
        (*node, tmp_path / "broken.json"),
        env={**os.environ, "NODE_PATH": str(modules)},
        capture_output=True,
        check=False,
    )

    # That there is a newer version of AsyncAPI is all that it has to say.
    assert [each for each in complaints.splitlines() if not each.startswith("asyncapi-latest-version")] == []
    assert refused.returncode == 1
    said(f"AsyncAPI is validated by {PARSER}")


def test_the_openapi_linter_accepts_the_documents(modules, said):
    quiet = {"REDOCLY_TELEMETRY": "off", "REDOCLY_SUPPRESS_UPDATE_NOTICE": "true"}
    documents = sorted(CONTRACT.glob("openapi-*.json"))

    run("node", modules / "@redocly/cli/bin/cli.js", "lint", "--extends=spec", *documents, environment=quiet)

    assert documents
    said(f"OpenAPI is validated by {LINTER}")


def test_typescript_generated_from_the_schemas_takes_captured_messages(modules, tmp_path):
    messages = captured()
    typed = [{"key": key, **message} for key, message in messages.items()]
    shutil.copy(SCRIPTS / "subscriber.ts", tmp_path)
    (tmp_path / "messages.ts").write_text(
        f'import type {{ Message }} from "./subscriber.js";\nexport const messages: Message[] = {json.dumps(typed)};\n'
    )
    (tmp_path / "package.json").write_text('{"type": "module"}')

    run(
        "node",
        SCRIPTS / "generate.cjs",
        CONTRACT / "schemas",
        tmp_path / "types",
        environment={"NODE_PATH": str(modules)},
    )
    strict = ("--strict", "--noEmitOnError", "--module", "nodenext", "--target", "es2022", "--types", "")
    run("node", modules / "typescript/bin/tsc", *strict, "--outDir", "made", "subscriber.ts", cwd=tmp_path)
    known = json.loads(run("node", "made/subscriber.js", cwd=tmp_path))

    withdrawn, failed = messages["model.withdrawn.v1"]["body"], messages["extraction.failed.v1"]["body"]
    assert known["models"] == {withdrawn["user_id"]: None}
    assert f"{failed['error']}: {failed['training_id']}" in known["told"]
    assert len(known["told"]) == 6


def test_python_generated_from_the_schemas_takes_captured_messages(tmp_path):
    tools = str(python_path(PYTHON))
    (tmp_path / "messages.json").write_text(json.dumps(captured()))
    made = (
        "--output",
        tmp_path / "types_made",
        "--output-model-type",
        "pydantic_v2.BaseModel",
        "--formatters",
        "builtin",
    )

    run(
        *(sys.executable, "-m", "datamodel_code_generator", "--input", CONTRACT / "schemas"),
        *("--input-file-type", "jsonschema", "--target-python-version", "3.11", *made),
        environment={"PYTHONPATH": tools},
    )
    taken = run(
        sys.executable, SCRIPTS / "take.py", "messages.json", cwd=tmp_path, environment={"PYTHONPATH": str(tmp_path)}
    )

    assert taken.splitlines() == [f"{key}: taken, and refused without a field" for key in PUBLIC]
