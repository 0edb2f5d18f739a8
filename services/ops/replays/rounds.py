"""One round of each kind of work on a replay: send dead letters, predict outcomes (dry run), undo. Edge."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Coroutine, Hashable, Mapping, Sequence
from dataclasses import replace
from typing import Final, Protocol, TypeAlias, TypeVar
from uuid import UUID

import structlog

from services.ops.letters.letter import ReplayMark
from services.ops.replays.messages import StoredLetter, headers_of, translated
from services.ops.replays.plan import Done, Send, Status, Stop, decide
from services.ops.replays.preview import Services as Previews
from services.ops.replays.preview import predict
from services.ops.replays.records import Revert, Round, Work
from services.ops.replays.store import Store
from shared.contract.errors import DependencyDown, ModelswapError
from shared.contract.headers import in_trace, trace_id_in, trace_in
from shared.contract.limits import COPY_BYTES, short
from shared.contract.topology import RECEIVER, Topology
from shared.runtime import tracing
from shared.runtime.aside import SetAside
from shared.runtime.broker import Outgoing, to_message
from shared.runtime.span import Context, Kind
from shared.runtime.waiting import without_stray_cancel

log = structlog.get_logger()

K = TypeVar("K", bound=Hashable)
T = TypeVar("T")

#: One round of a replay; None where it has no work of this kind.
DoRound: TypeAlias = Callable[[Work], Coroutine[None, None, Round | None]]

#: Another process sends: it will not be long.
_BUSY_SECONDS: Final = 0.5
#: Of one round: enough for any rate, and few enough to be canceled soon.
_ROUND_LETTERS: Final = 50
#: The dead letters of this time go together.
_ROUND_SECONDS: Final = 0.2
_PREVIEWS: Final = 16
_PREVIEWS_AT_A_TIME: Final = 4
_REVERTS: Final = 8


class Services(Previews, Protocol):
    """The other services."""

    async def revert_model(self, revert: Revert, *, dry_run: bool = False) -> str | None: ...


class Publisher(Protocol):
    """Publishes a message and waits for the broker's confirm."""

    async def publish(self, message: Outgoing) -> None: ...


class Sender:
    """Sends the next dead letters of a running replay, or ends it."""

    def __init__(self, store: Store, publisher: Publisher, plan: Topology) -> None:
        self._store = store
        self._publisher = publisher
        self._plan = plan

    async def round(self, work: Work) -> Round | None:
        """Do what `decide` says."""
        if work.status is not Status.RUNNING or (progress := await self._store.progress(work.replay_id)) is None:
            return None
        if progress.is_claimed:
            return Round(seconds=_BUSY_SECONDS, is_elsewhere=True)
        counts = progress.counts
        match decide(progress.rules, counts):
            case Send() if progress.wait_seconds > 0:
                return Round(seconds=progress.wait_seconds)
            case Send(count):
                limit = min(count, max(1, int(progress.rate_per_second * _ROUND_SECONDS)), _ROUND_LETTERS)
                batch = await self._store.claim(work.replay_id, limit=limit, next_at=progress.next_at)
                return await self._send_all(work.replay_id, batch)
            case Stop(reason):
                outcome = f"{counts.waiting} dead letters wait"
                await self._store.end(work.replay_id, Status.STOPPED, reason=reason, outcome=outcome)
            case Done():
                outcome = f"{counts.ended - counts.failed} done, {counts.failed} failed"
                await self._store.end(work.replay_id, Status.DONE, reason="", outcome=outcome)
        return Round()

    async def _send_all(self, replay_id: UUID, batch: Sequence[StoredLetter]) -> Round:
        if not batch:
            return Round(seconds=_BUSY_SECONDS, is_elsewhere=True)
        sends = (without_stray_cancel(self._send(each, ReplayMark(replay_id, each.number))) for each in batch)
        done = await asyncio.gather(*sends, return_exceptions=True)
        results = dict(zip([each.number for each in batch], done, strict=True))
        sent = [letter for letter, error in results.items() if error is None]
        down = {letter: error for letter, error in results.items() if isinstance(error, DependencyDown)}
        unsent = {letter: _why_unsent(error) for letter, error in results.items() if error and letter not in down}
        await self._store.record(replay_id, sent=sent, unsent=unsent, given_back=list(down))
        return Round(list(down.values()), is_underway=bool(sent), seconds=0.0)

    async def _send(self, letter: StoredLetter, mark: ReplayMark) -> None:
        failed = trace_in(letter.headers)
        about: dict[str, str | int] = {"modelswap.replay": str(mark.replay_id), "modelswap.dead_letter": mark.letter}
        # The trace that failed may be days old, so what follows is a trace of its own.
        with tracing.span("replay", Kind.INTERNAL, about, links=[failed], is_root=True) as span:
            trace = span.context or failed
            await self._publisher.publish(self._outgoing(letter, mark, trace))
            log.info(
                "dead_letter.replayed",
                replay=str(mark.replay_id),
                letter=mark.letter,
                queue=letter.queue,
                routing_key=letter.event_type,
                training_id=letter.training_id,
                message_id=letter.headers.get("ce-id"),
                trace_id=trace_id_in(trace.get("traceparent")),
            )

    def _outgoing(self, letter: StoredLetter, mark: ReplayMark, trace: Context) -> Outgoing:
        if letter.queue == RECEIVER:
            return to_message(replace(translated(letter, mark), trace=trace), self._plan)
        return Outgoing(
            exchange="",
            routing_key=letter.queue,
            body=letter.body,
            headers=in_trace(headers_of(letter, mark), trace),
            content_type=short(letter.content_type),
            message_type=short(letter.headers.get("ce-type")),
            correlation_id=short(letter.training_id),
            body_limit_bytes=COPY_BYTES,
        )


def _why_unsent(error: BaseException) -> str:
    """Say why a dead letter can never be sent."""
    if isinstance(error, ModelswapError):
        return f"{error.code}: {error}"
    log.error("replay.unsendable", exc_info=error)
    return f"it cannot be sent: {type(error).__name__}: {error}"


class Previewer:
    """Predicts the next dead letters of a dry run. *aside* holds the dead letters that could not be predicted."""

    def __init__(self, store: Store, services: Services, aside: SetAside[ReplayMark]) -> None:
        self._store = store
        self._services = services
        self._aside = aside
        #: Where each dry run is: all dead letters have their turn before one that failed is tried again.
        self._after: dict[UUID, int] = {}
        #: When the rate allows its next dead letter, by the clock of the event loop.
        self._next_at: dict[UUID, float] = {}

    def keep_only(self, busy: Sequence[Work]) -> None:
        """Forget what no dry run among *busy* needs."""
        going = {work.replay_id for work in busy if work.status is Status.PREVIEWING}
        self._after, self._next_at = _only(self._after, going), _only(self._next_at, going)
        self._aside.forget(lambda mark: mark.replay_id not in going)

    async def round(self, work: Work) -> Round | None:
        """Predict the next dead letters, no faster than the replay's rate unless all predictions fail."""
        if work.status is not Status.PREVIEWING:
            return None
        replay_id, limit = work.replay_id, max(1, min(_PREVIEWS, int(work.rate_per_second)))
        waiting = [mark for mark in self._aside.waiting() if mark.replay_id == replay_id]
        clock = asyncio.get_running_loop().time
        began = clock()
        early = self._next_at.get(replay_id, began) - began
        if early > 0:
            # Others woke the engine.
            return replace(await _each(self._aside, waiting, {}), is_underway=True, seconds=early)
        without = [mark.letter for mark in waiting]
        batch = await self._store.to_preview(
            replay_id, limit=limit, after=self._after.get(replay_id, 0), without=without
        ) or await self._store.to_preview(replay_id, limit=limit, without=without)
        if not batch and not waiting:
            await self._store.end_preview(replay_id)
            return Round(seconds=0.0)
        if batch:
            self._after[replay_id] = batch[-1].number
        marked = [(letter, ReplayMark(replay_id, letter.number)) for letter in batch]
        slots = asyncio.Semaphore(_PREVIEWS_AT_A_TIME)

        async def predict_one(letter: StoredLetter, mark: ReplayMark) -> None:
            async with slots:
                prediction = await predict(letter, mark, self._services)
            await self._store.remember_predictions(replay_id, {letter.number: prediction})

        done = await _each(self._aside, waiting, {mark: predict_one(letter, mark) for letter, mark in marked})
        if not done.is_underway:
            # The pause of the replay is enough: to wait for the rate, too, would hide what holds it up.
            return done
        self._next_at[replay_id] = began + len(batch) / work.rate_per_second
        return replace(done, seconds=max(0.0, self._next_at[replay_id] - clock()))


class Undoer:
    """Takes back the next users' models. *aside* holds the users whose models state could not take back."""

    def __init__(self, store: Store, services: Services, aside: SetAside[tuple[UUID, str]]) -> None:
        self._store = store
        self._services = services
        self._aside = aside
        #: Where each undo is, as above.
        self._after: dict[UUID, str] = {}

    def keep_only(self, busy: Sequence[Work]) -> None:
        """As above."""
        going = {work.replay_id for work in busy if work.is_undoing}
        self._after = _only(self._after, going)
        self._aside.forget(lambda key: key[0] not in going)

    async def round(self, work: Work) -> Round | None:
        """Take back the next users' models."""
        if not work.is_undoing:
            return None
        replay_id = work.replay_id
        waiting = [key for key in self._aside.waiting() if key[0] == replay_id]
        without = [user_id for _, user_id in waiting]
        reverts = await self._store.to_revert(
            replay_id, limit=_REVERTS, after=self._after.get(replay_id, ""), without=without
        ) or await self._store.to_revert(replay_id, limit=_REVERTS, without=without)
        if not reverts and not waiting:
            await self._store.end_undo(replay_id)
            return Round(seconds=0.0)
        if reverts:
            self._after[replay_id] = reverts[-1].user_id
        works = {(replay_id, revert.user_id): self._revert(revert) for revert in reverts}
        return replace(await _each(self._aside, waiting, works), seconds=0.0)

    async def _revert(self, revert: Revert) -> None:
        kept_because = await self._services.revert_model(revert)
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


def _only(places: Mapping[UUID, T], replay_ids: Collection[UUID]) -> dict[UUID, T]:
    return {replay_id: place for replay_id, place in places.items() if replay_id in replay_ids}


async def _each(aside: SetAside[K], waiting: Sequence[K], works: Mapping[K, Coroutine[None, None, None]]) -> Round:
    """Do all *works* concurrently and set aside those that fail. The result repeats the errors of *waiting* items."""
    results = await asyncio.gather(*map(without_stray_cancel, works.values()), return_exceptions=True)
    aside.settle(dict(zip(works, results, strict=True)))
    errors = [*results, *map(aside.error_of, waiting)]
    return Round([error for error in errors if error is not None], is_underway=None in results)
