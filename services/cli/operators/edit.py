"""Replay one dead letter with an edited body: from a file, from standard input, or from $EDITOR."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
import tempfile
from base64 import b64decode
from pathlib import Path
from uuid import uuid4

from services.cli.choices import Format
from services.cli.client import Body
from services.cli.operators.client import Operators, operators
from services.cli.operators.replay_text import print_replay
from services.cli.output import escaped, on_ctrl_c
from services.cli.problem import Problem
from services.ops.letters.letter import editable
from services.ops.replays.views import ReplayView
from shared.contract.text import read_json


async def edit(number: int, *, text: bytes | None, reason: str, output: Format) -> None:
    """Replay one dead letter with *text* as its body, or with what the operator makes of it in an editor."""
    async with operators() as api:
        if text is None:
            made = await edit_by_hand(api, number, reason=reason)
        else:
            made = await _replay_with(api, number, text, reason)
    print_replay(made, output)


async def edit_by_hand(api: Operators, number: int, *, reason: str) -> ReplayView:
    """Open the body in an editor and replay with the result; if that is refused, keep the file and say so."""
    again = f"modelswap dead-letters edit {number} --reason {shlex.quote(reason)} --body"
    letter = await api.get_dead_letter(number)
    before = editable(letter.queue, letter.content_type, b64decode(letter.body_base64))
    if before is None:
        raise Problem(
            f"dead letter {number} cannot be edited: it holds no JSON object, is nested too deeply or takes more than "
            "4 MiB",
            then=f"modelswap dead-letters show {number}",
        )
    file = _in_editor(escaped(before), number, reason, then=f"set EDITOR, or: {again} FILE, or - to read it")
    try:
        made = await _replay_with(api, number, file.read_bytes(), reason)
    except Problem as problem:
        raise Problem(f"{problem}; what you wrote is kept", then=f"correct it, and: {again} {file}") from problem
    file.unlink()
    return made


async def _replay_with(api: Operators, number: int, text: bytes, reason: str) -> ReplayView:
    then = "modelswap dead-letters edit --help"
    try:
        body: Body = {"body": read_json(text), "reason": reason}
    except ValueError as error:
        raise Problem(f"this cannot be sent: {error}", then=then) from error
    path = f"/v1/dead-letters/{number}/edit-and-replay"
    return await api.post(ReplayView, path, body, key=str(uuid4()), then=then)


def _in_editor(before: str, number: int, reason: str, *, then: str) -> Path:
    """Return the file with *before* as edited; *then* is what to try if the editor cannot be run."""
    if not sys.stdin.isatty():
        raise Problem(
            "there is no terminal for an editor", then="give the body with --body FILE, or --body - to read it"
        )
    editor = os.environ.get("VISUAL") or os.environ.get("EDITOR") or "vi"
    opened, name = tempfile.mkstemp(prefix="modelswap-", suffix=".json")
    os.close(opened)
    file = Path(name)
    file.write_text(before, encoding="utf-8")
    try:
        # Ctrl-C is for the editor.
        with on_ctrl_c(lambda *_: None):
            failed = subprocess.run([*shlex.split(editor), name], check=False).returncode  # noqa: S603 (their choice)
        is_unchanged = file.read_text(encoding="utf-8", errors="replace").strip() == before
    except (OSError, ValueError) as error:
        file.unlink(missing_ok=True)
        raise Problem(f"the editor {editor!r} cannot be run: {error}", then=then) from error
    if not failed and not is_unchanged:
        return file
    file.unlink()
    if failed:
        raise Problem(f"{editor} failed, so nothing was replayed", then=then)
    as_it_is = f"modelswap dead-letters replay {number} --reason {shlex.quote(reason)}, as it is"
    raise Problem("nothing was edited, so nothing was replayed", then=as_it_is)
