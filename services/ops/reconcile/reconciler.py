"""
The reconciler: finds the end of trainings whose webhooks never came, for as long as the process runs. Edge.

A round reads the trainings that have not ended for state; if some are overdue, it reads Replicate's list, and asks for
single trainings that the list does not show. An end is published as the receiver would have done it, so if both do,
the fact has one effect. While state applies no events, nothing is overdue: the webhooks may be among what waits for it.
One process works at a time, and what it did is kept in Postgres; another one takes over a round that it cannot end.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from datetime import datetime, timedelta
from typing import Final, TypeAlias
from uuid import UUID

import structlog

from services.ops.reconcile.actions import Actions, Publish, Replicate, State
from services.ops.reconcile.listing import Listing, oldest
from services.ops.reconcile.plan import Report, Step, plan
from services.ops.reconcile.store import Store, Turn
from services.ops.reconcile.trainings import (
    CallBudget,
    Limits,
    Memory,
    Unfinished,
    Watched,
    is_due,
    next_check,
)
from services.ops.reconcile.views import RecoveryCounts, RecoveryOutcome, webhooks_seem_lost
from shared.contract.errors import DependencyDown, ModelswapError, code_of
from shared.contract.health import Seen
from shared.contract.text import clean
from shared.contract.topology import STATE_QUEUE
from shared.runtime import telemetry
from shared.runtime.aside import SetAside
from shared.runtime.clock import now
from shared.runtime.periodic import run_periodically
from shared.runtime.session_lock import STAND_BY_SECONDS

log = structlog.get_logger()

#: Replicate's list is read with this share of the calls at most: the others are for single trainings.
_LISTS_SHARE: Final = 0.5
#: A round that takes longer is ended.
_LONGEST_ROUND_SECONDS: Final = 240.0
#: After rounds that failed. While it lasts, operators are shown a trouble that may be over.
_LONGEST_PAUSE_SECONDS: Final = 10.0
_WARN_EVERY_SECONDS: Final = 600.0
_TROUBLE_LIMIT: Final = 1000

#: Returns how each process was found, by name.
Look: TypeAlias = Callable[[], Awaitable[Mapping[str, Seen]]]


class OutOfCalls(Exception):
    """The budget is spent: the rest is for a later round."""


class Reconciler:
    """Finds ends of trainings that no webhook reported."""

    def __init__(
        self,
        state: State,
        replicate: Replicate,
        store: Store,
        publish: Publish,
        look: Look,
        *,
        limits: Limits,
        budget: CallBudget,
        ref_secrets: Sequence[str],
    ) -> None:
        self._state = state
        self._replicate = replicate
        self._store = store
        self._look = look
        self._limits = limits
        self._budget = budget
        self._ref_secrets = ref_secrets
        #: The trainings that fail by themselves, by their refs.
        self.aside: SetAside[UUID] = SetAside("reconciler")
        self._trouble: str | None = None
        self._warned_at: float | None = None
        self._actions = Actions(state, replicate, store, publish, limits=limits, spend=self._spend)

    async def run(self, stopping: asyncio.Event) -> None:
        """Work in rounds until *stopping* is set, through every outage."""
        every = self._limits.every.total_seconds()
        longest = min(every, _LONGEST_PAUSE_SECONDS)
        await run_periodically("reconciler", self._alone, stopping, longest_seconds=longest, report=self._report)

    async def check(self) -> str | None:
        """Return why the last round failed, or None."""
        return self._trouble

    async def _alone(self) -> float:
        """Do one round if one is due and no other process does it; return the seconds until the next try."""
        try:
            async with asyncio.timeout(_LONGEST_ROUND_SECONDS), self._store.alone() as turn:
                if turn is not None:
                    last = await self._store.last_round()
                    # Also those that another process has counted: else its gauge here would stay as it was.
                    telemetry.overdue.set(last.overdue)
                    if self._is_due(last.last_success_at):
                        await self.round(now(), turn)
        except TimeoutError as error:
            raise DependencyDown("a round took too long; the next one goes on", code="round_too_long") from error
        return min(STAND_BY_SECONDS, self._limits.every.total_seconds())

    def _is_due(self, last: datetime | None) -> bool:
        """Return whether the *last* round of any process began long enough ago."""
        return last is None or not timedelta() <= now() - last < self._limits.every

    async def _report(self, trouble: str | None) -> None:
        self._trouble = trouble
        if trouble is not None:
            with suppress(ModelswapError):  # where Postgres is away, /readyz says it
                await self._store.note_trouble(now(), trouble, calls_left=int(self._budget.left))

    async def round(self, moment: datetime, turn: Turn) -> None:
        """
        Check every training that is overdue at *moment* once.

        Raises:
            ModelswapError: if a dependency is down, or the *turn* was lost. What was done until then is remembered.

        """
        overdue, without_id, unfinished = await self._overdue(moment)
        memories = await self._store.recall([training.ref for training in overdue])
        watched = [Watched(training, memories.get(training.ref, Memory())) for training in overdue]
        due = [each for each in watched if is_due(each, moment, self._limits)]
        if due:
            await self._check_state()
            is_due_too = {each.training.ref for each in due}
            others = [training for training in without_id if training.ref not in is_due_too]
            with suppress(OutOfCalls):
                listing, trouble = await self._list(due)
                steps = plan(due, listing, now=moment, limits=self._limits, others=others)
                # The pages before an error count: if each round needed all pages, a few errors would stop everything.
                await self._take([step for step in steps if trouble is None or isinstance(step, Report)], moment)
                if trouble is not None:
                    raise trouble
        self.aside.keep_only(unfinished)
        await self._store.forget_others(unfinished)
        await turn.note_round(moment, overdue=len(overdue), calls_left=int(self._budget.left))
        await self._warn(moment)

    async def _overdue(self, moment: datetime) -> tuple[list[Unfinished], list[Unfinished], set[UUID]]:
        """Return the overdue trainings, those without Replicate's id, and the refs of all that have not ended."""
        overdue, without_id, unfinished = [], [], set()
        async for training in self._state.unfinished():
            unfinished.add(training.ref)
            if training.training_id is None:
                without_id.append(training)
            if self._limits.due_at(training) <= moment:
                overdue.append(training)
        return overdue, without_id, unfinished

    async def _check_state(self) -> None:
        """Raise if state applies no events now."""
        health = (await self._look())["state"].health
        if health is not None and (why := health.paused.get(STATE_QUEUE)):
            raise DependencyDown(f"state applies no events, webhooks among them: {why}", code="state_waits")

    async def _list(self, due: Sequence[Watched]) -> tuple[Listing, ModelswapError | None]:
        """Return Replicate's list, as far back as is needed and can be afforded, and what ended the reading early."""
        listing = Listing(self._ref_secrets)
        since = oldest(due)
        cursor: str | None = None
        try:
            while since is not None and not listing.goes_back_to(since):
                if cursor is not None and self._budget.left < self._budget.per_minute * _LISTS_SHARE:
                    break
                self._spend()
                page = await self._replicate.list_trainings(cursor)
                listing.add(page.trainings)
                cursor = page.next_cursor
                listing.is_whole = cursor is None
        except ModelswapError as error:
            return listing, error
        return listing, None

    def _spend(self) -> None:
        if not self._budget.spend(asyncio.get_running_loop().time()):
            raise OutOfCalls

    async def _take(self, steps: Sequence[Step], moment: datetime) -> None:
        async def take(step: Step) -> None:
            # Steps that cost no call go on.
            with suppress(OutOfCalls):
                await self._actions.take(step, moment)

        done = await self.aside.each(steps, take, key=_ref)
        for step, error in done.set_aside:
            await self._remember(step.training, error, moment)
        if done.down:
            raise done.down

    async def _remember(self, training: Unfinished, error: Exception, moment: datetime) -> None:
        """Show operators why a training is set aside."""
        trouble = clean(f"{code_of(error)}: {error}", _TROUBLE_LIMIT)
        look_at = next_check(training, moment, self._limits)
        try:
            await self._store.record_check(training, moment, look_at=look_at, trouble=trouble)
        except DependencyDown:
            raise
        except Exception:
            # One training that cannot be stored must not end the round either; it is set aside in memory.
            log.exception("reconciler.not_remembered", ref=str(training.ref))

    async def _warn(self, moment: datetime) -> None:
        recovered = (await self._store.counts(moment)).get(RecoveryOutcome.RECOVERED, RecoveryCounts())
        clock = asyncio.get_running_loop().time()
        is_said = self._warned_at is not None and clock < self._warned_at + _WARN_EVERY_SECONDS
        if webhooks_seem_lost(recovered) and not is_said:
            self._warned_at = clock
            log.warning(
                "webhooks.do_not_arrive",
                recovered_last_hour=recovered.last_hour,
                hint="is MODELSWAP_PUBLIC_URL reached from outside? deploy/runbook.md: Webhooks do not arrive",
            )


def _ref(step: Step) -> UUID:
    return step.training.ref
