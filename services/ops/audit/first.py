"""What another service is asked to change is in the audit before it is asked, and a refusal afterwards. Pure."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import Protocol, TypeAlias

#: Adds an entry with this outcome to the audit.
NoteOutcome: TypeAlias = Callable[[str], Awaitable[None]]


class Note(Protocol):
    """Adds an entry with this outcome to the audit, as `views.Audit` does."""

    async def __call__(self, outcome: str, /, *, key: str | None, refused: str | None = None) -> None: ...


@asynccontextmanager
async def noted_first(
    note: Note, asked: str, *, refusal: type[Exception], key: str | None = None
) -> AsyncIterator[NoteOutcome]:
    """
    Note what is *asked* before the context, which asks, and a *refusal* after it.

    The context is given what notes an outcome that says more than what was asked. So nothing is asked while Postgres is
    away. If it is away afterwards, the first entry stands alone.
    """
    said = f"asked: {asked}"
    await note(said, key=key)
    try:
        yield partial(note, key=key)
    except refusal as error:
        # What was refused once may be granted later, with the same key.
        await note(f"refused: {error}", key=key, refused=said)
        raise
