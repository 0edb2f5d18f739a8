"""
Persists models, deletions, trainings and predictions across restarts, in one SQLite file. Edge.

Every change is one statement, written before a response or webhook reports it, so killing the process loses nothing
and leaves no partial change. It need not survive a crash of the machine, so writes are not synced to disk.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import closing
from pathlib import Path
from typing import Final, Self

from pydantic import TypeAdapter, ValidationError

from services.simulator.models import Deletion, Model
from services.simulator.prediction import Prediction
from services.simulator.training import Training
from services.simulator.world import Kept
from shared.contract.errors import ModelswapError

#: How many of each kind are kept, newest first.
_MOST: Final = 2_000
#: The oldest are deleted after this many additions.
_ROOM: Final = 100
_TABLES: Final = """
    CREATE TABLE IF NOT EXISTS starts (number INTEGER PRIMARY KEY, seed INTEGER NOT NULL);
    CREATE TABLE IF NOT EXISTS jobs (
        number INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, kind TEXT NOT NULL, body TEXT NOT NULL,
        is_told INTEGER NOT NULL DEFAULT 0
    );
"""
#: By the type's own name, in lower case.
_KINDS: Final[Mapping[str, TypeAdapter[Kept]]] = {
    kind.__name__.lower(): TypeAdapter(kind) for kind in (Model, Deletion, Training, Prediction)
}


class CannotKeep(ModelswapError):
    """The file cannot be used."""

    code = "can_not_keep"


class Store:
    """The file of one simulator, as a context manager."""

    def __init__(self, file: Path, *, seed: int, most: int = _MOST) -> None:
        """
        Open or create *file*; a new file gets *seed*. About *most* of each kind are kept.

        Raises:
            CannotKeep: if it is not such a file, or cannot be written.

        """
        try:
            self._database = sqlite3.connect(file, isolation_level=None)
            self._database.executescript(f"PRAGMA journal_mode = WAL; PRAGMA synchronous = OFF; {_TABLES}")
            before = self._database.execute("SELECT number, seed FROM starts ORDER BY number LIMIT 1").fetchone()
            self.seed: int = before[1] if before else seed
            self._database.execute("INSERT INTO starts (seed) VALUES (?)", (self.seed,))
            (starts,) = self._database.execute("SELECT max(number) FROM starts").fetchone()
        except sqlite3.Error as error:
            raise CannotKeep(f"{file} can not be used: {error}") from error
        #: How often it was opened before.
        self.restarts: int = starts - 1
        self._most = most
        self._added = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._database.close()

    def keep(self, item: Kept) -> None:
        """Store *item*; a deletion replaces its model, and a new model of that name the deletion."""
        kind = type(item).__name__.lower()
        # Only the fields that were set: null is an output that can be ordered.
        body = json.dumps(_KINDS[kind].dump_python(item, mode="json", exclude_unset=True))
        self._database.execute(
            "INSERT INTO jobs (id, kind, body) VALUES (?, ?, ?) "
            "ON CONFLICT (id) DO UPDATE SET kind = excluded.kind, body = excluded.body",
            (item.name if isinstance(item, Model) else item.id, kind, body),
        )
        self._added += 1
        if self._added >= _ROOM:
            self._forget_oldest()

    def mark_reported(self, job: Training | Prediction) -> None:
        """Record that all webhooks of *job* were posted."""
        self._database.execute("UPDATE jobs SET is_told = 1 WHERE id = ?", (job.id,))

    def kept(self) -> Iterator[tuple[Kept, bool]]:
        """Yield each stored item, oldest first, and whether all its webhooks were posted."""
        with closing(self._database.execute("SELECT kind, body, is_told FROM jobs ORDER BY number")) as rows:
            for kind, body, is_reported in rows:
                try:
                    yield _KINDS[kind].validate_python(json.loads(body)), bool(is_reported)
                except (KeyError, ValidationError):
                    continue  # written by a version with other kinds or faults

    def _forget_oldest(self) -> None:
        self._added = 0
        for kind in _KINDS:
            self._database.execute(
                "DELETE FROM jobs WHERE kind = ? AND number <= "
                "(SELECT number FROM jobs WHERE kind = ? ORDER BY number DESC LIMIT 1 OFFSET ?)",
                (kind, kind, self._most),
            )
