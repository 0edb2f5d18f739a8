"""
Which replays have something to do, and is it done? Edge: works on them, through every loss of Postgres and RabbitMQ.

Nothing is kept in memory between two rounds: whoever is killed is taken over where it was, by another process or by
itself. Several may run. One at a time sends letters of a replay; dry runs and undoing bear to be done twice.

A round follows when an outcome was written down here, when the rate allows the next letter, or after a second in which
another process may have written one.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Coroutine, Hashable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any, Final, Protocol, TypeAlias, TypeVar
from uuid import UUID

import structlog

from services.ops.letters.letter import Mark
from services.ops.replays.messages import Letter, headers_of, reported
from services.ops.replays.plan import Prediction, Status
from services.ops.replays.preview import Services as Previews
from services.ops.replays.preview import predict
from services.ops.replays.records import Revert, Round, Sendable, SendAll, SendResult, Unsent, Work
from shared.contract.errors import DependencyDown, ModelswapError, code_of
from shared.contract.limits import COPY_BYTES, short
from shared.contract.topology import RECEIVER, Topology
from shared.contract.trace import trace_id_in
from shared.runtime.aside import SetAside
from shared.runtime.broker import Outgoing, to_message
from shared.runtime.broker.link import is_stray_cancel
from shared.runtime.waiting import wait_for_any

log = structlog.get_logger()

K = TypeVar("K", bound=Hashable)
T = TypeVar("T")

#: One round of a replay; None where there is nothing to do of this kind.
DoSome: TypeAlias = Callable[[Work], Coroutine[Any, Any, Round | None]]

#: Another process's outcomes do not wake us.
_POLL_SECONDS: Final = 1.0
_IDLE_SECONDS: Final = 5.0
_LONGEST_PAUSE_SECONDS: Final = 10.0
_LONGEST_ITEM_PAUSE_SECONDS: Final = 60.0
_PREVIEWS: Final = 16
_PREVIEWS_AT_A_TIME: Final = 4
_REVERTS: Final = 8


class Store(Protocol):
    """Where replays are kept."""

    def changes(self) -> asyncio.Event: ...

    async def at_work(self) -> Sequence[Work]: ...

    async def set_trouble(self, replay_id: UUID, trouble: str) -> None: ...

    async def send(self, replay_id: UUID, send_all: SendAll) -> Round: ...

    async def to_preview(
        self, replay_id: UUID, *, limit: int, after: int = 0, without: Sequence[int] = ()
    ) -> list[Sendable]: ...

    async def remember_predictions(self, replay_id: UUID, predictions: Mapping[int, Prediction]) -> None: ...

    async def end_preview(self, replay_id: UUID) -> None: ...

    async def to_revert(
        self, replay_id: UUID, *, limit: int, after: str = "", without: Sequence[str] = ()
    ) -> list[Revert]: ...

    async def remember_revert(self, revert: Revert, *, kept_because: str | None) -> None: ...

    async def end_undo(self, replay_id: UUID) -> None: ...


class Services(Previews, Protocol):
    """The other services."""

    async def take_back(self, revert: Revert) -> str | None: ...


class Publisher(Protocol):
    """Hands a message to the broker and waits for its receipt."""

    async def publish(self, message: Outgoing) -> None: ...


class Engine:
    """Works on every replay that has something to do."""

    def __init__(
        self, store: Store, publisher: Publisher, services: Services, plan: Topology, *, pause_seconds: float = 1.0
    ) -> None:
        """In trouble, wait for about *pause_seconds*, and longer each time."""
        self._store = store
        self._publisher = publisher
        self._services = services
        self._plan = plan
        self._pause_seconds = pause_seconds

        def pauses(loop: str, longest_seconds: float = _LONGEST_PAUSE_SECONDS) -> SetAside[Any]:
            return SetAside(loop, first_seconds=pause_seconds, longest_seconds=longest_seconds)

        self._sending: SetAside[UUID] = pauses("replays that send")
        self._asking: SetAside[UUID] = pauses("replays that ask")
        self._letters: SetAside[Mark] = pauses("letters of dry runs", _LONGEST_ITEM_PAUSE_SECONDS)
        self._users: SetAside[tuple[UUID, str]] = pauses("users of undone replays", _LONGEST_ITEM_PAUSE_SECONDS)
        #: Where each dry run, and each undo, is: the others have their turn before one that failed is tried again.
        self._previewed: dict[UUID, int] = {}
        self._reverted: dict[UUID, str] = {}
        #: What fails by itself, of each kind.
        self.aside: Sequence[SetAside[Any]] = (self._sending, self._asking, self._letters, self._users)

    async def run(self, stopping: asyncio.Event) -> None:
        """Work until *stopping* is set."""
        # Apart, because a service that is slow to answer must not hold up what is being sent.
        await asyncio.gather(
            self._repeat(self._send_some, self._sending, stopping),
            self._repeat(self._ask_some, self._asking, stopping),
        )

    async def _repeat(self, work: DoSome, aside: SetAside[UUID], stopping: asyncio.Event) -> None:
        changes, failures = self._store.changes(), 0
        while not stopping.is_set():
            changes.clear()
            try:
                seconds, failures = await self._attempt(work, aside), 0
            except DependencyDown as error:
                failures += 1
                seconds = self._delay(error, failures)
            except Exception as error:
                failures += 1
                log.exception("replays.broken")
                seconds = self._delay(error, failures)
            # In trouble, no outcome wakes us: it would only hurry the next failure.
            await wait_for_any(stopping, *([] if failures else [changes]), seconds=seconds)

    async def _attempt(self, work: DoSome, aside: SetAside[UUID]) -> float:
        """One round of each replay that is not set aside; how long to wait until the next."""
        busy = await _without_stray_cancel(self._store.at_work())
        aside.keep_only({each.replay_id for each in busy})
        rounds = await asyncio.gather(
            *(self._one(work, each, aside) for each in busy if not aside.is_waiting(each.replay_id))
        )
        waits = [each.seconds for each in rounds if each is not None and each.seconds is not None]
        again = aside.next_seconds()
        return min([*waits, *([] if again is None else [again]), _POLL_SECONDS if busy else _IDLE_SECONDS])

    async def _one(self, work: DoSome, replay: Work, aside: SetAside[UUID]) -> Round | None:
        """One round of one replay. What goes wrong holds up this one only, which says so."""
        done, error = None, None
        try:
            done = await _without_stray_cancel(work(replay))
            error = next(iter(done.failures), None) if done else None
            if done is not None and not done.is_elsewhere:
                await self._tell(replay, "" if error is None else _said(error))
        except Exception as failure:  # noqa: BLE001 (it is logged by `add`; the other replays go on)
            error = failure
            with suppress(ModelswapError):  # where Postgres is away, /readyz says it
                await self._tell(replay, _said(failure))
        if error is None:
            aside.discard(replay.replay_id)
        elif done is None or not done.is_underway:
            aside.add(replay.replay_id, error, is_own=not isinstance(error, DependencyDown))
        return done

    async def _tell(self, work: Work, trouble: str) -> None:
        """Write down what holds up a replay, or that nothing does any more."""
        if trouble != work.trouble:
            await self._store.set_trouble(work.replay_id, trouble)

    async def _send_some(self, work: Work) -> Round | None:
        return await self._store.send(work.replay_id, self._send_all) if work.status is Status.RUNNING else None

    async def _ask_some(self, work: Work) -> Round | None:
        if work.is_undoing:
            return await self._undo(work.replay_id)
        return await self._preview(work) if work.status is Status.PREVIEWING else None

    # Sending

    async def _send_all(self, batch: Sequence[Sendable]) -> Sequence[SendResult]:
        return await asyncio.gather(*(self._send(each.letter, each.mark) for each in batch))

    async def _send(self, letter: Letter, mark: Mark) -> SendResult:
        try:
            await self._publisher.publish(self._outgoing(letter, mark))
        except DependencyDown as error:
            return error
        except ModelswapError as error:
            return Unsent(f"{error.code}: {error}")
        except Exception as error:
            # One letter that can not be put into a message must not hold up the others.
            log.exception("replay.unsendable", letter=mark.letter)
            return Unsent(f"it can not be sent: {type(error).__name__}: {error}")
        log.info(
            "dead_letter.replayed",
            replay=str(mark.replay_id),
            letter=mark.letter,
            queue=letter.queue,
            training_id=letter.training_id,
            message_id=letter.headers.get("ce-id"),
            trace_id=trace_id_in(letter.headers.get("traceparent")),
        )
        return None

    def _outgoing(self, letter: Letter, mark: Mark) -> Outgoing:
        if letter.queue == RECEIVER:
            return to_message(reported(letter, mark), self._plan)
        return Outgoing(
            exchange="",
            routing_key=letter.queue,
            body=letter.body,
            headers=headers_of(letter, mark),
            content_type=short(letter.content_type),
            message_type=short(letter.headers.get("ce-type")),
            correlation_id=short(letter.training_id),
            body_limit_bytes=COPY_BYTES,
        )

    # Dry runs

    async def _preview(self, work: Work) -> Round:
        began = asyncio.get_running_loop().time()
        replay_id, limit = work.replay_id, max(1, min(_PREVIEWS, int(work.rate_per_second)))
        waiting = [mark for mark in self._letters.waiting() if mark.replay_id == replay_id]
        without = [mark.letter for mark in waiting]
        batch = await self._store.to_preview(
            replay_id, limit=limit, after=self._previewed.get(replay_id, 0), without=without
        ) or await self._store.to_preview(replay_id, limit=limit, without=without)
        if not batch and not waiting:
            await self._store.end_preview(replay_id)
            self._previewed.pop(replay_id, None)
            return Round(seconds=0.0)
        if batch:
            self._previewed[replay_id] = batch[-1].mark.letter
        slots = asyncio.Semaphore(_PREVIEWS_AT_A_TIME)

        async def predict_one(sendable: Sendable) -> None:
            async with slots:
                prediction = await predict(sendable, self._services)
            await self._store.remember_predictions(replay_id, {sendable.mark.letter: prediction})

        done = await self._each(self._letters, waiting, {each.mark: predict_one(each) for each in batch})
        took = asyncio.get_running_loop().time() - began
        return replace(done, seconds=max(0.0, len(batch) / work.rate_per_second - took))

    # Undoing

    async def _undo(self, replay_id: UUID) -> Round:
        waiting = [key for key in self._users.waiting() if key[0] == replay_id]
        without = [user_id for _, user_id in waiting]
        reverts = await self._store.to_revert(
            replay_id, limit=_REVERTS, after=self._reverted.get(replay_id, ""), without=without
        ) or await self._store.to_revert(replay_id, limit=_REVERTS, without=without)
        if not reverts and not waiting:
            await self._store.end_undo(replay_id)
            self._reverted.pop(replay_id, None)
            return Round(seconds=0.0)
        if reverts:
            self._reverted[replay_id] = reverts[-1].user_id
        works = {(replay_id, revert.user_id): self._revert(revert) for revert in reverts}
        return replace(await self._each(self._users, waiting, works), seconds=0.0)

    async def _each(
        self, aside: SetAside[K], waiting: Sequence[K], works: Mapping[K, Coroutine[Any, Any, None]]
    ) -> Round:
        """Do all of *works* at the same time. One that fails holds up no other, and is told of while it waits."""
        results = await asyncio.gather(*map(_without_stray_cancel, works.values()), return_exceptions=True)
        aside.settle(dict(zip(works, results, strict=True)))
        errors = [*results, *map(aside.error_of, waiting)]
        return Round([error for error in errors if error is not None], is_underway=None in results)

    async def _revert(self, revert: Revert) -> None:
        kept_because = await self._services.take_back(revert)
        await self._store.remember_revert(revert, kept_because=kept_because)
        log.info(
            "replay.undone" if kept_because is None else "replay.kept",
            replay=str(revert.replay_id),
            user_id=revert.user_id,
            generation=revert.generation,
            model=revert.to,
            actor=revert.actor,
            reason=revert.reason if kept_because is None else kept_because,
        )

    def _delay(self, error: Exception, failures: int) -> float:
        """Say what keeps us from all replays; how long to wait."""
        log.warning("replays.delayed", error=code_of(error), detail=str(error), failures=failures)
        longest = min(self._pause_seconds * 2.0 ** min(failures - 1, 16), _LONGEST_PAUSE_SECONDS)
        return longest * random.random()  # noqa: S311 (jitter, not a secret)


async def _without_stray_cancel(work: Awaitable[T]) -> T:
    try:
        return await work
    except asyncio.CancelledError as error:
        if not is_stray_cancel():
            raise
        raise DependencyDown("a connection was lost in the middle of the work") from error


def _said(error: BaseException) -> str:
    return str(error) if isinstance(error, ModelswapError) else f"a bug, {type(error).__name__}: see ops' log"
