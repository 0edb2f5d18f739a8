"""The cache of unpacked packages. Edge: the file system."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from deploy.local.errors import LocalServersError, Say
from deploy.local.lock import locked


def cache_folder(environment: Mapping[str, str] = os.environ) -> Path:
    """Return the first writable of: MODELSWAP_CACHE_DIR, the user's cache, a temporary folder of ours."""
    for folder in _wishes(environment):
        with contextlib.suppress(OSError):
            folder.mkdir(parents=True, exist_ok=True)
            if os.access(folder, os.W_OK | os.X_OK):
                return folder
    return _among_temporary()


def _wishes(environment: Mapping[str, str]) -> Iterator[Path]:
    if ours := environment.get("MODELSWAP_CACHE_DIR"):
        yield Path(ours).absolute()
    if users := environment.get("XDG_CACHE_HOME"):
        yield Path(users) / "modelswap"
    if home := environment.get("HOME"):
        yield Path(home) / ".cache" / "modelswap"


def _among_temporary() -> Path:
    folder = Path(tempfile.gettempdir()) / f"modelswap-cache-{os.geteuid()}"
    with contextlib.suppress(FileExistsError):
        folder.mkdir(mode=0o700)
    # Its name can be guessed, and programs are run from it: it must be a folder that only we own and write.
    found = folder.lstat()
    if (found.st_uid, found.st_mode) != (os.geteuid(), 0o040700):
        raise LocalServersError(f"{folder} is not ours alone: set MODELSWAP_CACHE_DIR to a folder of yours")
    return folder


def made_once(folder: Path, make: Callable[[Path], None], say: Say) -> Path:
    """
    Let *make* fill *folder*, unless it exists.

    Concurrent callers wait. A folder that an interrupted run left incomplete is deleted, never used.
    """
    if folder.exists():
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    with locked(
        folder.with_name(f"{folder.name}.lock"), waiting=lambda: say(f"waiting for another run to make {folder}")
    ):
        if not folder.exists():
            draft = folder.with_name(f"{folder.name}.draft")
            shutil.rmtree(draft, ignore_errors=True)
            draft.mkdir()
            try:
                make(draft)
                draft.rename(folder)
            finally:
                shutil.rmtree(draft, ignore_errors=True)
    return folder
