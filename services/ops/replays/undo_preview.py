"""What undoing a replay would do now: state is asked about each user, and nothing changes."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from typing import Final, Protocol

from services.ops.replays.records import Revert
from services.ops.replays.views import UndonePreview

_ASKED_AT_A_TIME: Final = 8


class State(Protocol):
    """State's API."""

    async def revert_model(self, revert: Revert, *, dry_run: bool) -> str | None: ...


async def preview_undo(state: State, reverts: Sequence[tuple[int, Revert]], *, actor: str) -> list[UndonePreview]:
    """Return what each of *reverts*, by its position, would do if *actor* asked for it."""
    slots = asyncio.Semaphore(_ASKED_AT_A_TIME)

    async def preview(position: int, revert: Revert) -> UndonePreview:
        async with slots:
            kept_because = await state.revert_model(replace(revert, actor=actor), dry_run=True)
        return UndonePreview(
            position=position,
            user_id=revert.user_id,
            model=revert.model,
            to=revert.to,
            kept_because=kept_because or "",
        )

    return await asyncio.gather(*(preview(*each) for each in reverts))
