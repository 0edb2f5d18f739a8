"""Writes files that only their owner can read. Edge: the file system."""

from __future__ import annotations

import os
from pathlib import Path


def write_private(file: Path, text: str) -> None:
    """Write *text* into *file*; a crash, also of the machine, leaves the old content or the new one, and no part."""
    draft = file.with_name(f"{file.name}.draft")
    draft.touch(mode=0o600)
    with draft.open("w", encoding="utf-8") as opened:
        opened.write(text)
        opened.flush()
        os.fsync(opened.fileno())
    draft.replace(file)
    # The new name is an entry of the folder, which is on the disk only then.
    folder = os.open(file.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
