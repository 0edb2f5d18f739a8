"""What another service is asked to change is in the audit before it is asked, and a refusal afterwards. Pure."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import TypeAlias

from services.ops.audit.views import Audit

#: An entry of the audit without its outcome: actor, action, target and reason.
Entry: TypeAlias = tuple[str, str, str, str]
#: Adds the entry with this outcome to the audit.
NoteOutcome: TypeAlias = Callable[[str], Awaitable[None]]


@asynccontextmanager
async def noted_first(
    audit: Audit, entry: Entry, asked: str, *, refusal: type[Exception], key: str | None = None
) -> AsyncIterator[NoteOutcome]:
    """
    Add *entry* with what is *asked* before the context, which asks, and with a *refusal* after it.

    The context is given what notes an outcome that says more than what was asked. So nothing is asked while Postgres is
    away. If it is away afterwards, the first entry stands alone.
    """
    said = f"asked: {asked}"
    await audit(*entry, said, key=key)
    try:
        yield partial(audit, *entry, key=key)
    except refusal as error:
        # What was refused once may be granted later, with the same key.
        await audit(*entry, f"refused: {error}", key=key, refused=said)
        raise
