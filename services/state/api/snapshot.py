"""Requests for snapshots of all users' models. Edge."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Annotated

from fastapi import Query

from services.state.snapshot import CURSOR, OVERLAP, Position
from services.state.store import Store
from services.state.views import SnapshotPage
from shared.contract.answers import Moment
from shared.contract.checked import Checked
from shared.contract.moments import EPOCH


def _cursor(text: str) -> str:
    if not re.fullmatch(CURSOR, text):
        raise ValueError("must be the `next_cursor` of an earlier page")
    return text


Limit = Annotated[int, Query(ge=1, le=1000)]
Since = Annotated[Moment | None, Query(description="Only users whose model changed since then.")]
Cursor = Annotated[
    Annotated[str, Checked(_cursor, pattern=CURSOR)] | None,
    Query(description="The `next_cursor` of an earlier page, with the same `updated_since`; without one, the first."),
]


@dataclass(frozen=True, slots=True)
class Snapshots:
    """Handlers of requests for snapshots."""

    store: Store

    async def list_models(self, updated_since: Since = None, limit: Limit = 200, cursor: Cursor = None) -> SnapshotPage:
        """
        Return every user's current model, or the withdrawal that took it away, in pages.

        **To catch up completely**, in this order: (1) attach to your queue or to the stream `modelswap.events.log`, and
        leave its events unread; (2) read all pages of this; (3) read the events. Of each user, among the items here and
        the events `model.activated` and `model.withdrawn`, use the one with the highest generation. You are then up to
        date, and stay so: nothing is missing, whatever is swapped meanwhile.

        Why: each user who ever had a model has exactly one place in the order of the pages, by user id, and a swap does
        not change that place. So each user is read once, with the last change that was committed at that moment.
        A change that was not committed then is committed after you attached, and its event is published after its
        commit, so the event comes to you. Applying the same change twice, or an older one later, has no effect, because
        generations of a user only rise, and a user whose model was withdrawn has an item here too: an old event that
        comes late never brings a withdrawn model back. If you read the log from a time, take one well before the first
        page, such as a minute: clocks differ, and events that you know already do no harm.

        **With `updated_since`** only users whose model changed since then, by the time of the change, to refresh what
        you have without reading all. The time of a change is that of its writing, a moment before its commit, so do not
        use the newest `updated_at` that you have seen: a change that was committed later may have an earlier one. Use
        `next_updated_since` of the snapshot that you read before. It lies five minutes before that snapshot began, and
        no change takes that long from its writing to its commit, because Postgres ends such transactions much earlier.
        So what that snapshot could not see yet is in the next one. What you see twice has the same generation.
        """
        if cursor is None:
            began_at = await self.store.begin_snapshot()
            after = Position(began_at, updated_since or EPOCH, "")
        else:
            after = Position.of(cursor)
        if updated_since is None:
            found = await self.store.list_models(after=after.user_id, limit=limit + 1)
        else:
            found = await self.store.list_changed_models(after=after, limit=limit + 1)
        items = found[:limit]
        next_cursor = None
        if len(found) > limit:
            next_cursor = Position(after.began_at, items[-1].updated_at, items[-1].user_id).cursor()
        return SnapshotPage(items=items, next_cursor=next_cursor, next_updated_since=after.began_at - OVERLAP)
