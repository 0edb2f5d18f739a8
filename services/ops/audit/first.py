"""What another service is asked to change is in the audit before it is asked, and a refusal afterwards. Pure."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Protocol, TypeVar

T = TypeVar("T")


class Note(Protocol):
    """Adds an entry with this outcome to the audit, once for each *key*."""

    async def __call__(self, outcome: str, /, *, key: str | None) -> None: ...


async def noted_first(
    note: Note,
    asked: str,
    ask: Callable[[], Awaitable[T]],
    *,
    refusal: type[Exception],
    key: str | None = None,
    outcome: Callable[[T], str] | None = None,
) -> T:
    """
    Note what is *asked*, then ask; note the *refusal*, or the *outcome* if that says more than what was asked.

    So nothing is asked while Postgres is away. If it is away afterwards, the first entry stands alone.
    """
    afterwards = f"outcome {key}" if key else None
    await note(f"asked: {asked}", key=key)
    try:
        done = await ask()
    except refusal as error:
        await note(f"refused: {error}", key=afterwards)
        raise
    if outcome is not None:
        await note(outcome(done), key=afterwards)
    return done
