"""
Failed items of a loop: set aside with a backoff, so that one item never blocks the others. Edge: reads the clock.

    the item's own error           set aside: counted, logged, shown, and retried after a pause that doubles
    DependencyDown                 not the item's fault, unless another item passed meanwhile and the error may concern
                                   one item only: then as above. Otherwise the item comes last next time, not counted

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
#: An item that is due, but was not retried for this long, no longer exists.
_GONE_SECONDS: Final = 3600.0
#: After this many items in a row found a dependency down, the rest is not tried.
_ENOUGH_DOWN: Final = 2


@dataclass(frozen=True, slots=True)
class _Failed:
    error: BaseException
    failures: int
    again_at: float
    #: Whether the item itself is the cause.
    is_own: bool


@dataclass(frozen=True, slots=True)
class Done(Generic[T]):
    """The result of work on many items."""

    #: The items that were set aside, with their errors.
    set_aside: Sequence[tuple[T, Exception]] = ()
    #: The dependency that was down for some items, or None.
    down: DependencyDown | None = None


class SetAside(Generic[K]):
    """The failed items of one loop. An item is identified by its key, and logged as the key's ``str``."""

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
        """Return how many items are set aside."""
        oldest = self._clock() - _GONE_SECONDS
        self._failed = {key: failed for key, failed in self._failed.items() if failed.again_at > oldest}
        return sum(failed.is_own for failed in self._failed.values())

    def check(self) -> str | None:
        """Return how many items are set aside and the last one's error code, without ids; None if there are none."""
        if not len(self):  # that forgets items that no longer exist
            return None
        own = [failed for failed in self._failed.values() if failed.is_own]
        return f"{len(own)} set aside, the last for {code_of(own[-1].error)}"

    def is_waiting(self, key: K) -> bool:
        """Return whether it is too early to retry this item."""
        failed = self._failed.get(key)
        return failed is not None and failed.again_at > self._clock()

    def waiting(self) -> list[K]:
        """Return all items that must not be retried yet."""
        now = self._clock()
        return [key for key, failed in self._failed.items() if failed.again_at > now]

    def error_of(self, key: K) -> BaseException | None:
        """Return an item's last error; None if it has not failed, or has passed since."""
        failed = self._failed.get(key)
        return None if failed is None else failed.error

    def next_seconds(self) -> float | None:
        """Return how long until the next item may be retried; None if none is waiting."""
        waits = [self._failed[key].again_at for key in self.waiting()]
        return min(waits) - self._clock() if waits else None

    def add(self, key: K, error: BaseException, *, is_own: bool = True) -> None:
        """Set an item aside; if *is_own* is false it waits too, but is not counted as failed."""
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
        """Forget an item that passed or no longer exists."""
        failed = self._failed.pop(key, None)
        if failed is not None and failed.failures:
            log.info("item.resumed", loop=self.loop, item=str(key), failures=failed.failures)

    def forget(self, is_gone: Callable[[K], bool]) -> None:
        """Forget all items that *is_gone* says do not exist any more."""
        self._failed = {key: failed for key, failed in self._failed.items() if not is_gone(key)}

    def keep_only(self, keys: Collection[K]) -> None:
        """Forget all items except *keys*."""
        self.forget(lambda key: key not in keys)

    async def each(self, items: Iterable[T], work: Callable[[T], Awaitable[None]], *, key: Callable[[T], K]) -> Done[T]:
        """Do *work* on each of *items* that is not waiting, one by one; those that failed before come last."""
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
        """Do *work* on all of *items* that are not waiting at once; if that fails, on each alone."""
        ready = [item for item in items if not self.is_waiting(key(item))]
        if not ready:
            return Done()
        try:
            await work(ready)
        except Exception as error:  # noqa: BLE001 (`each` finds and logs the failing item)
            if isinstance(error, DependencyDown) and not error.may_concern_one:
                return Done(down=error)
            return await self.each(ready, lambda item: work([item]), key=key)
        for item in ready:
            self.discard(key(item))
        return Done()

    def settle(self, results: Mapping[K, BaseException | None]) -> None:
        """Record the results of items that were worked on concurrently; None means that the item passed."""
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
        # Moved to the end, because `check` reports the last.
        self._failed.pop(key, None)
        self._failed[key] = failed
