"""
Items of a loop that failed: set aside, so that no item ends the work on the others. Edge: keeps the time.

    the item's own error           set aside: counted, logged, shown, and tried again after a pause that doubles
    DependencyDown                 of all items, unless another passed meanwhile and the error may concern one alone:
                                   then as above. Otherwise the item comes last the next time, and nothing is counted

Kept in memory: after a restart each item is tried once more, and set aside again if it still fails.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Collection, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Generic, TypeVar

import structlog

from shared.contract.errors import UNEXPECTED, DependencyDown, code_of
from shared.contract.text import clean
from shared.runtime import telemetry
from shared.runtime.waiting import backoff_seconds

log = structlog.get_logger()

K = TypeVar("K", bound=Hashable)
T = TypeVar("T")

_FIRST_SECONDS: Final = 5.0
_LONGEST_SECONDS: Final = 3600.0
#: An item that is due, but not met again for this long, is gone.
_GONE_SECONDS: Final = 3600.0
#: So many items in a row that found a dependency down: it is down for the rest as well.
_ENOUGH_DOWN: Final = 2


@dataclass(frozen=True, slots=True)
class _Failed:
    error: BaseException
    failures: int
    again_at: float
    #: Is it the item that is at fault?
    is_own: bool


@dataclass(frozen=True, slots=True)
class Done(Generic[T]):
    """What came of work on many items."""

    #: Those that were set aside, and why.
    set_aside: Sequence[tuple[T, Exception]] = ()
    #: The dependency that kept some from being worked on.
    down: DependencyDown | None = None


class SetAside(Generic[K]):
    """The items of one loop that failed. An item is known by its key, and called by ``str`` of that."""

    def __init__(
        self,
        loop: str,
        *,
        first_seconds: float = _FIRST_SECONDS,
        longest_seconds: float = _LONGEST_SECONDS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """*loop* is its name in metrics, logs and ``/readyz``. The pause begins at *first_seconds* and doubles."""
        self.loop = loop
        self._first_seconds = first_seconds
        self._longest_seconds = longest_seconds
        self._clock = clock
        self._failed: dict[K, _Failed] = {}
        telemetry.set_aside.labels(loop).set_function(lambda: len(self))

    def __len__(self) -> int:
        """How many items are set aside."""
        oldest = self._clock() - _GONE_SECONDS
        self._failed = {key: failed for key, failed in self._failed.items() if failed.again_at > oldest}
        return sum(failed.is_own for failed in self._failed.values())

    def check(self) -> str | None:
        """How many items are set aside and why the last of them was, without their ids; None: none is."""
        own = [failed for failed in self._failed.values() if failed.is_own]
        return f"{len(own)} set aside, the last for {code_of(own[-1].error)}" if own and len(self) else None

    def is_waiting(self, key: K) -> bool:
        """Is it too soon to try this item again?"""
        failed = self._failed.get(key)
        return failed is not None and failed.again_at > self._clock()

    def waiting(self) -> list[K]:
        """All items that are not to be tried now."""
        now = self._clock()
        return [key for key, failed in self._failed.items() if failed.again_at > now]

    def error_of(self, key: K) -> BaseException | None:
        """Why an item failed last; None: it did not, or has passed since."""
        failed = self._failed.get(key)
        return None if failed is None else failed.error

    def next_seconds(self) -> float | None:
        """How long until an item may be tried again; None: none waits."""
        waits = [self._failed[key].again_at for key in self.waiting()]
        return min(waits) - self._clock() if waits else None

    def add(self, key: K, error: BaseException, *, is_own: bool = True) -> None:
        """Set an item aside; where it is not its *own* error, it waits as well, but is not counted."""
        failures = self._failures(key) + 1
        seconds = backoff_seconds(failures, first=self._first_seconds, longest=self._longest_seconds)
        self._put(key, _Failed(error, failures, self._clock() + seconds, is_own))
        (log.error if is_own else log.warning)(
            "item.set_aside",
            loop=self.loop,
            item=str(key),
            error=code_of(error),
            detail=clean(str(error)),
            failures=failures,
            again_in_seconds=round(seconds, 1),
            exc_info=error if code_of(error) == UNEXPECTED else None,
        )

    def discard(self, key: K) -> None:
        """An item passed, or is gone."""
        failed = self._failed.pop(key, None)
        if failed is not None and failed.failures:
            log.info("item.resumed", loop=self.loop, item=str(key), failures=failed.failures)

    def keep_only(self, keys: Collection[K]) -> None:
        """All items but these are gone."""
        self._failed = {key: failed for key, failed in self._failed.items() if key in keys}

    async def each(self, items: Iterable[T], work: Callable[[T], Awaitable[None]], *, key: Callable[[T], K]) -> Done[T]:
        """Do *work* on each of *items* that does not wait, one after the other, those that were put off last."""
        put_off: list[tuple[T, DependencyDown]] = []
        aside: list[tuple[T, Exception]] = []
        passed, in_a_row = False, 0
        for item in sorted(items, key=lambda each: key(each) in self._failed):
            if self.is_waiting(key(item)):
                continue
            if in_a_row == _ENOUGH_DOWN:
                break
            try:
                await work(item)
            except DependencyDown as error:
                put_off.append((item, error))
                in_a_row += 1
            except Exception as error:  # noqa: BLE001 (it is logged by `add`; the others go on)
                aside.append((item, error))
                self.add(key(item), error)
            else:
                passed, in_a_row = True, 0
                self.discard(key(item))
        down: DependencyDown | None = None
        for item, met in put_off:
            if passed and met.may_concern_one:
                aside.append((item, met))
                self.add(key(item), met)
            else:
                down = down or met
                self._put(key(item), _Failed(met, self._failures(key(item)), self._clock(), is_own=False))
        return Done(aside, down)

    async def together(
        self, items: Iterable[T], work: Callable[[Sequence[T]], Awaitable[None]], *, key: Callable[[T], K]
    ) -> Done[T]:
        """Do *work* on all of *items* that do not wait at once; where that fails, on each alone."""
        ready = [item for item in items if not self.is_waiting(key(item))]
        if not ready:
            return Done()
        try:
            await work(ready)
        except DependencyDown as error:
            return Done(down=error)
        except Exception:  # noqa: BLE001 (which of them it was is found, and said, now)
            return await self.each(ready, lambda item: work([item]), key=key)
        for item in ready:
            self.discard(key(item))
        return Done()

    def settle(self, results: Mapping[K, BaseException | None]) -> None:
        """Note what came of items that were worked on at the same time: None where one passed."""
        passed = None in results.values()
        for key, error in results.items():
            if error is None:
                self.discard(key)
            elif passed or not isinstance(error, DependencyDown):
                self.add(key, error)

    def _failures(self, key: K) -> int:
        failed = self._failed.get(key)
        return 0 if failed is None else failed.failures

    def _put(self, key: K, failed: _Failed) -> None:
        # At the end: `check` shows the last.
        self._failed.pop(key, None)
        self._failed[key] = failed
