"""Requests about users' models. Edge."""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass
from http import HTTPStatus
from operator import attrgetter
from typing import Annotated, Final

from fastapi import Header, Path, Response

from services.state.registration import UserDeleted
from services.state.requests import RollBack, Withdraw
from services.state.rollback import (
    AlreadyCurrent,
    NoModel,
    NothingToRollBackTo,
    NotTheirs,
    PreconditionFailed,
    RollbackOrder,
    WithdrawalOrder,
)
from services.state.store import Store
from services.state.views import ModelView, SwapView, WithdrawalView
from shared.contract.answers import END, Page
from shared.contract.errors import DependencyDown, ModelswapError
from shared.contract.idempotency import IdempotencyKey, KeyReused
from shared.contract.identity import UserId
from shared.contract.preview import Answer, Refusal
from shared.contract.preview import Message as EventMessage
from shared.runtime.description import raises
from shared.runtime.http import Asker, Cursor, Key, Limit, from_cursor, page_of

_ETAG: Final = re.compile(r'"([0-9]{1,19})"', re.ASCII)


@dataclass(frozen=True, slots=True)
class Models:
    """Handlers of requests about models."""

    store: Store

    @raises(NoModel)
    async def get_model(
        self,
        user_id: Annotated[UserId, Path()],
        response: Response,
        if_none_match: Annotated[str | None, Header()] = None,
    ) -> ModelView | Response:
        """Return a user's current model, whole; 404 `no-model` if there is none yet, or it was withdrawn."""
        record = await self.store.find_model(user_id)
        if record is None:
            raise NoModel(f"user {user_id} has no model")
        headers = {"ETag": _etag(record), "Cache-Control": "private, no-cache"}
        if if_none_match is not None and headers["ETag"] in if_none_match:
            return Response(status_code=HTTPStatus.NOT_MODIFIED, headers=headers)
        response.headers.update(headers)
        return record

    async def list_model_history(
        self, user_id: Annotated[UserId, Path()], limit: Limit = 50, cursor: Cursor = None
    ) -> Page[SwapView]:
        """Return the changes of a user's model, newest first."""
        found = await self.store.list_history(user_id, before=from_cursor(cursor, END), limit=limit + 1)
        return page_of(found, limit, attrgetter("generation"))

    @raises(
        NoModel,
        NothingToRollBackTo,
        AlreadyCurrent,
        NotTheirs,
        PreconditionFailed,
        KeyReused,
        UserDeleted,
    )
    async def roll_back_model(
        self,
        user_id: Annotated[UserId, Path()],
        body: RollBack,
        *,
        asker: Asker,
        response: Response,
        key: Key = None,
        if_match: Annotated[str | None, Header()] = None,
    ) -> ModelView:
        """
        Make an earlier model the current one. It beats every training that was requested before, whenever it ends.

        With If-Match (an ETag of the user's model) only if the model has not changed since.
        """
        order = RollbackOrder(user_id, body.to, body.reason, asker.name, _generations(if_match))
        request = {"roll back": user_id, **body.model_dump(mode="json"), "actor": asker.name}
        idempotency = IdempotencyKey.of(key, request)
        record = await self.store.roll_back(order, idempotency, is_dry_run=body.dry_run)
        if body.dry_run:
            return record.model_copy(update={"dry_run": True})
        response.headers["ETag"] = _etag(record)
        return record

    @raises(NoModel, PreconditionFailed, KeyReused, UserDeleted)
    async def withdraw_model(
        self,
        user_id: Annotated[UserId, Path()],
        body: Withdraw,
        *,
        asker: Asker,
        key: Key = None,
        if_match: Annotated[str | None, Header()] = None,
    ) -> WithdrawalView:
        """
        Take a user's model away. It stays so for every training that was requested before, whenever it ends.

        Trainings requested afterwards count as always. With If-Match only if the model has not changed since.
        """
        order = WithdrawalOrder(user_id, body.reason, asker.name, _generations(if_match))
        request = {"withdraw": user_id, **body.model_dump(mode="json"), "actor": asker.name}
        idempotency = IdempotencyKey.of(key, request)
        view = await self.store.withdraw(order, idempotency, is_dry_run=body.dry_run)
        return view.model_copy(update={"dry_run": True}) if body.dry_run else view

    async def preview(self, body: EventMessage) -> Answer:
        """Return what an event's message would change; change nothing. For operators' tools."""
        try:
            changes = await self.store.preview(body.decode())
        except DependencyDown:
            raise
        except ModelswapError as error:
            return Answer(refusal=Refusal.of(error))
        failed = changes.results[0]
        return Answer(
            messages=tuple(EventMessage.of(each.envelope) for each in changes.outbox),
            refusal=None if failed is None else Refusal.of(failed),
        )


def _etag(record: ModelView) -> str:
    return f'"{record.generation}"'


def _generations(if_match: str | None) -> Collection[int] | None:
    """Return the generations that If-Match allows; None: any."""
    if if_match is None or if_match.strip() == "*":
        return None
    tags = (_ETAG.fullmatch(tag.strip()) for tag in if_match.split(","))
    return {int(tag[1]) for tag in tags if tag}
