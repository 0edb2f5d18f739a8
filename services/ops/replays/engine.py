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
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Final, Protocol
from uuid import UUID

import structlog

from services.ops.letters.letter import Mark
from services.ops.replays.messages import Letter, headers_of, reported
from services.ops.replays.plan import Prediction, Status
from services.ops.replays.preview import Services as Previews
from services.ops.replays.preview import predict
from services.ops.replays.records import Revert, Round, Sendable, SendAll, SendResult, Unsent, Work
from shared.contract.envelope import trace_id_in
from shared.contract.errors import DependencyDown, ModelswapError, code_of
from shared.contract.topology import RECEIVER, Topology
from shared.runtime.broker import Outgoing, to_message
from shared.runtime.broker.link import is_stray_cancel
from shared.runtime.waiting import wait_for_any

log = structlog.get_logger()

#: Another process's outcomes do not wake us.
_POLL_SECONDS: Final = 1.0
_IDLE_SECONDS: Final = 5.0
_LONGEST_PAUSE_SECONDS: Final = 10.0
_PREVIEWS: Final = 16
_PREVIEWS_AT_A_TIME: Final = 4
_REVERTS: Final = 8
_FIRST_MODEL: Final = "it is the first model of this user: there is nothing to go back to"


class Store(Protocol):
    """Where replays are kept."""

    def changes(self) -> asyncio.Event: ...

    async def at_work(self) -> Sequence[Work]: ...

    async def set_trouble(self, replay_id: UUID, trouble: str) -> None: ...

    async def send(self, replay_id: UUID, send_all: SendAll) -> Round: ...

    async def to_preview(self, replay_id: UUID, *, limit: int) -> list[Sendable]: ...

    async def remember_predictions(self, replay_id: UUID, predictions: Mapping[int, Prediction]) -> None: ...

    async def end_preview(self, replay_id: UUID) -> None: ...

    async def to_revert(self, replay_id: UUID, *, limit: int) -> list[Revert]: ...

    async def remember_revert(self, revert: Revert, *, kept_because: str | None) -> None: ...

    async def end_undo(self, replay_id: UUID) -> None: ...


class Services(Previews, Protocol):
    """The other services."""

    async def roll_back(self, revert: Revert) -> str | None: ...


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

    async def run(self, stopping: asyncio.Event) -> None:
        """Work until *stopping* is set."""
        # Apart, because a service that is slow to answer must not hold up what is being sent.
        await asyncio.gather(self._repeat(self._send_some, stopping), self._repeat(self._ask_some, stopping))

    async def _repeat(self, work: Callable[[Work], Awaitable[Round | None]], stopping: asyncio.Event) -> None:
        changes, failures = self._store.changes(), 0
        while not stopping.is_set():
            changes.clear()
            trouble, seconds = await self._attempt(work)
            if trouble is not None:
                failures += 1
                seconds = self._report(trouble, failures)
            elif failures:
                log.info("replays.resumed", failures=failures)
                failures = 0
            # In trouble, no outcome wakes us: it would only hurry the next failure.
            await wait_for_any(stopping, *([] if failures else [changes]), seconds=seconds)

    async def _attempt(self, work: Callable[[Work], Awaitable[Round | None]]) -> tuple[BaseException | None, float]:
        """One round of each replay: what went wrong, and how long to wait until the next."""
        try:
            busy = await self._store.at_work()
            rounds = await asyncio.gather(*map(work, busy), return_exceptions=True)
            await self._tell(busy, rounds)
        except DependencyDown as error:
            return error, 0
        except asyncio.CancelledError as error:
            if not is_stray_cancel():
                raise
            return error, 0
        except Exception as error:  # noqa: BLE001 (a bug here must not end the work on all replays)
            return error, 0
        done = [each for each in rounds if isinstance(each, Round)]
        failures = [each for each in rounds if isinstance(each, BaseException)]
        failures += [failure for each in done for failure in each.failures]
        waits = [each.seconds for each in done if each.seconds is not None]
        return next(iter(failures), None), min([*waits, _POLL_SECONDS if busy else _IDLE_SECONDS])

    async def _tell(self, busy: Sequence[Work], rounds: Sequence[Round | BaseException | None]) -> None:
        """Write down what holds up each replay, or that nothing does any more."""
        for work, result in zip(busy, rounds, strict=True):
            trouble = _trouble(result)
            if trouble not in (None, work.trouble):
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
            content_type=letter.content_type,
            message_type=str(letter.headers.get("ce-type", "")) or None,
            correlation_id=letter.training_id,
        )

    # Dry runs

    async def _preview(self, work: Work) -> Round:
        began = asyncio.get_running_loop().time()
        batch = await self._store.to_preview(work.replay_id, limit=max(1, min(_PREVIEWS, int(work.rate_per_second))))
        if not batch:
            await self._store.end_preview(work.replay_id)
            return Round(seconds=0.0)
        slots = asyncio.Semaphore(_PREVIEWS_AT_A_TIME)

        async def predict_one(sendable: Sendable) -> Prediction:
            async with slots:
                return await predict(sendable, self._services)

        predictions = await asyncio.gather(*map(predict_one, batch))
        await self._store.remember_predictions(
            work.replay_id, {each.mark.letter: prediction for each, prediction in zip(batch, predictions, strict=True)}
        )
        took = asyncio.get_running_loop().time() - began
        return Round(seconds=max(0.0, len(batch) / work.rate_per_second - took))

    # Undoing

    async def _undo(self, replay_id: UUID) -> Round:
        reverts = await self._store.to_revert(replay_id, limit=_REVERTS)
        if not reverts:
            await self._store.end_undo(replay_id)
        # One user of whom state can not be told must not hold up the others.
        results = await asyncio.gather(*map(self._revert, reverts), return_exceptions=True)
        return Round(failures=[each for each in results if each is not None], seconds=0.0)

    async def _revert(self, revert: Revert) -> None:
        kept_because = _FIRST_MODEL if revert.to is None else await self._services.roll_back(revert)
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

    def _report(self, error: BaseException, failures: int) -> float:
        """Say what is wrong; how long to wait."""
        log.warning(
            "replays.delayed",
            error=code_of(error),
            detail=str(error),
            failures=failures,
            exc_info=None if isinstance(error, ModelswapError) else error,
        )
        longest = min(self._pause_seconds * 2.0 ** min(failures - 1, 16), _LONGEST_PAUSE_SECONDS)
        return longest * random.random()  # noqa: S311 (jitter, not a secret)


def _trouble(result: Round | BaseException | None) -> str | None:
    """What a round says holds its replay up; empty: nothing does; None: it can not tell."""
    match result:
        case None | Round(is_elsewhere=True):
            return None
        case Round():
            failure = next(iter(result.failures), None)
        case _:
            failure = result
    if failure is None:
        return ""
    return str(failure) if isinstance(failure, ModelswapError) else f"a bug, {type(failure).__name__}: see ops' log"
