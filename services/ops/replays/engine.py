"""
The replay engine: works on every replay that has something to do, through every loss of Postgres and RabbitMQ. Edge.

What is done is in Postgres, so another process, or the same one after a restart, goes on where a killed one was. In
memory is only what may be forgotten: what failed, whose turn is next, and when a dry run may go on. Several processes
may run: one at a time sends dead letters of a replay; dry runs and undoing may be done twice.

The next round follows when an outcome was stored here, when the rate allows the next dead letter, or after a second in
which another process may have stored one.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from typing import Any, Final
from uuid import UUID

from services.ops.letters.letter import ReplayMark
from services.ops.replays.records import Round, Work
from services.ops.replays.rounds import (
    DoRound,
    Previewer,
    Publisher,
    Sender,
    Services,
    Undoer,
)
from services.ops.replays.store import Store
from shared.contract.errors import DependencyDown, ModelswapError
from shared.contract.topology import Topology
from shared.runtime.aside import SetAside
from shared.runtime.periodic import run_periodically
from shared.runtime.waiting import without_stray_cancel

#: Outcomes that another process stores do not wake this one.
_POLL_SECONDS: Final = 1.0
_IDLE_SECONDS: Final = 5.0
_LONGEST_PAUSE_SECONDS: Final = 10.0
_LONGEST_ITEM_PAUSE_SECONDS: Final = 60.0


class Engine:
    """Works on every replay that has something to do."""

    def __init__(
        self, store: Store, publisher: Publisher, services: Services, plan: Topology, *, pause_seconds: float = 1.0
    ) -> None:
        """In trouble, wait for about *pause_seconds*, and longer each time."""
        self._store = store
        self._pause_seconds = pause_seconds

        def pauses(loop: str, longest_seconds: float = _LONGEST_PAUSE_SECONDS) -> SetAside[Any]:
            return SetAside(loop, first_seconds=pause_seconds, longest_seconds=longest_seconds)

        self._sending: SetAside[UUID] = pauses("replays that send")
        self._others: SetAside[UUID] = pauses("replays that preview or undo")
        letters: SetAside[ReplayMark] = pauses("dead letters of dry runs", _LONGEST_ITEM_PAUSE_SECONDS)
        users: SetAside[tuple[UUID, str]] = pauses("users of undone replays", _LONGEST_ITEM_PAUSE_SECONDS)
        #: What fails by itself, of each kind.
        self.aside: Sequence[SetAside[Any]] = (self._sending, self._others, letters, users)
        self._sender = Sender(store, publisher, plan)
        self._previewer = Previewer(store, services, letters)
        self._undoer = Undoer(store, services, users)

    async def run(self, stopping: asyncio.Event) -> None:
        """Work until *stopping* is set."""
        # Apart, because a service that is slow to answer must not hold up what is being sent.
        await asyncio.gather(
            self._repeat(self._sender.round, self._sending, stopping),
            self._repeat(self._preview_or_undo, self._others, stopping, self._previewer, self._undoer),
            run_periodically("replay counts", self._keep_counts, stopping, first_seconds=self._pause_seconds),
        )

    async def _keep_counts(self) -> float:
        # At most one a second: outcomes of a canceled replay still come, and make its counts void again.
        return _POLL_SECONDS if await self._store.keep_counts() else _IDLE_SECONDS

    async def _preview_or_undo(self, work: Work) -> Round | None:
        return await self._undoer.round(work) or await self._previewer.round(work)

    async def _repeat(
        self, do: DoRound, aside: SetAside[UUID], stopping: asyncio.Event, *places: Previewer | Undoer
    ) -> None:
        await run_periodically(
            aside.loop,
            partial(self._round, do, aside, places),
            stopping,
            wake=self._store.changes(),
            first_seconds=self._pause_seconds,
        )

    async def _round(self, do: DoRound, aside: SetAside[UUID], places: Sequence[Previewer | Undoer]) -> float:
        """Do one round of each replay that is not set aside; return how long to wait until the next."""
        busy = await self._store.at_work()
        aside.keep_only({replay.replay_id for replay in busy})
        for each in places:
            each.keep_only(busy)
        rounds = await asyncio.gather(
            *(self._one(do, replay, aside) for replay in busy if not aside.is_waiting(replay.replay_id))
        )
        waits = [each.seconds for each in rounds if each is not None and each.seconds is not None]
        again = aside.next_seconds()
        return min([*waits, *([] if again is None else [again]), _POLL_SECONDS if busy else _IDLE_SECONDS])

    async def _one(self, do: DoRound, replay: Work, aside: SetAside[UUID]) -> Round | None:
        """Do one round of one replay. An error holds up, and is shown on, this replay only."""
        done, error = None, None
        try:
            done = await without_stray_cancel(do(replay))
            error = next(iter(done.failures), None) if done else None
            if done is not None and not done.is_elsewhere:
                await self._set_trouble(replay, "" if error is None else _in_words(error))
        except Exception as failure:  # noqa: BLE001 (it is logged by `add`; the other replays go on)
            error = failure
            with suppress(ModelswapError):  # where Postgres is away, /readyz says it
                await self._set_trouble(replay, _in_words(failure))
        if error is None:
            aside.discard(replay.replay_id)
        elif done is None or not done.is_underway:
            aside.add(replay.replay_id, error, is_own=not isinstance(error, DependencyDown))
        return done

    async def _set_trouble(self, work: Work, trouble: str) -> None:
        if trouble != work.trouble:
            await self._store.set_trouble(work.replay_id, trouble)


def _in_words(error: BaseException) -> str:
    return str(error) if isinstance(error, ModelswapError) else f"a bug, {type(error).__name__}: see ops' log"
