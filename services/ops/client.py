"""Client of the other services: state's public API, and the extractor's. Edge."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator, Mapping, Sequence
from functools import partial
from http import HTTPStatus
from typing import Final
from uuid import UUID

import httpx
from pydantic import JsonValue, TypeAdapter, ValidationError

from services.ops.letters.letter import LetterTraining
from services.ops.reconcile.trainings import Stage, StateRefused, Unfinished
from services.ops.replays.records import Revert
from shared.contract.answers import Page, kind_in, said_in
from shared.contract.errors import PermanentError
from shared.contract.identity import TrainingId
from shared.contract.preview import Answer, Message
from shared.runtime.aside import SetAside
from shared.runtime.client import (
    SECONDS,
    HttpClient,
    another_version,
    items,
    quoted,
    read,
    token_refused,
    unexpected,
)
from shared.runtime.tokens import ON_BEHALF_OF, to_header

#: The extractor may ask Replicate several times, and a swap waits for its user's lock.
_LONG_SECONDS: Final = 60.0
_LIMIT_BYTES: Final = 8 * 1024 * 1024
_PAGE: Final = 200
_TRAINING_ID: Final[TypeAdapter[str]] = TypeAdapter(TrainingId)
#: The longest that state takes. The audit has the whole reason.
_REASON_LIMIT: Final = 1000
#: Problems that say that a user's model is kept, for good. Any other is a failure of the services or the network.
_KEPT: Final = frozenset(
    (
        "already-current",
        "no-model",
        "not-their-model",
        "nothing-to-roll-back-to",
        "precondition-failed",
        "user-deleted",
    )
)
#: The message itself is refused, such as for its size.
_REFUSED: Final = (HTTPStatus.BAD_REQUEST, HTTPStatus.REQUEST_ENTITY_TOO_LARGE, HTTPStatus.UNPROCESSABLE_ENTITY)


class TrainingUnreadable(PermanentError):
    """State returned a training that this version cannot read."""

    code = "training_unreadable"


class Services:
    """State (at ``/v1``) and the extractor. Every method raises `ServiceDown` if one is away."""

    def __init__(self, state: HttpClient, extractor: HttpClient, *, may_speak_for_others: bool) -> None:
        """*may_speak_for_others*: their token may name the person for whom it asks."""
        self._state = state
        self._extractor = extractor
        self._may_speak_for_others = may_speak_for_others
        #: The trainings of state that cannot be read, by their refs.
        self.aside: SetAside[str] = SetAside("state's trainings")

    # Trainings

    async def unfinished(self) -> AsyncIterator[Unfinished]:
        """Every training that has not come to an end, newest first in each stage."""
        seen = readable = 0
        for stage in Stage:
            # Parsed one by one, so that one that cannot be parsed does not hide the others.
            async for item in items(partial(self._page, stage), page_size=_PAGE):
                seen += 1
                if (training := self._training_in(item)) is not None:
                    readable += 1
                    yield training
        if seen and not readable:
            raise another_version(f"{self._state.url}/trainings")

    async def _page(self, stage: Stage, query: Mapping[str, str]) -> Page[JsonValue]:
        response = await self._ask(self._state, "GET", "/trainings", query={**query, "stage": stage})
        _accept(response)
        return read(Page[JsonValue], response)

    def _training_in(self, item: JsonValue) -> Unfinished | None:
        ref = str(item.get("ref")) if isinstance(item, dict) else "without a ref"
        try:
            training = Unfinished.model_validate(item)
        except ValidationError as error:
            if not self.aside.is_waiting(ref):
                self.aside.add(ref, TrainingUnreadable(str(error)))
            return None
        self.aside.discard(ref)
        return training

    async def knows(self, training_id: str) -> bool:
        """Return whether a training of this id is registered."""
        response = await self._ask(self._state, "GET", _training(training_id))
        if response.status_code == HTTPStatus.NOT_FOUND:
            return False
        _accept(response)
        return True

    async def stage_of(self, ref: UUID) -> str:
        """Return the stage of a training now."""
        return read(LetterTraining, await self._ask(self._state, "GET", _training(str(ref)))).stage

    async def find_trainings(self, training_ids: Sequence[str]) -> Mapping[str, LetterTraining]:
        """Return those trainings of these ids of Replicate's (at most 200) that are registered, by id."""
        # A broken message may hold anything in its place.
        asked = list(filter(_is_training_id, training_ids))
        if not asked:
            return {}
        response = await self._ask(self._state, "POST", "/training-lookup", body={"training_ids": [*asked]})
        if response.status_code == HTTPStatus.NOT_FOUND:
            # A state of the version before, which has no such route: they are found once it is upgraded.
            return {}
        found = read(Page[LetterTraining], response).items
        return {each.training_id: each for each in found if each.training_id is not None}

    async def retry_extraction(self, training: str) -> None:
        """Ask state to retry the extraction of a training (Replicate's id, or our ref) that has succeeded."""
        _accept(await self._ask(self._state, "POST", f"{_training(training)}/retry-extraction"))

    async def never_started(self, ref: UUID, reason: str) -> None:
        """Report that a training was never started. State ignores it if an event of the training came since."""
        path = f"{_training(str(ref))}/never-started"
        _accept(await self._ask(self._state, "POST", path, body={"reason": reason}))

    # Replays

    async def preview_extractor(self, message: Message) -> Answer:
        """Return what the extractor would do with *message*."""
        return await self._preview(self._extractor, "/preview", message)

    async def preview_state(self, message: Message) -> Answer:
        """Return what state would do with *message*."""
        return await self._preview(self._state, "/preview", message)

    async def revert_model(self, revert: Revert, *, dry_run: bool = False) -> str | None:
        """
        Roll a user's model back, or withdraw it if there was none before; a *dry_run* changes nothing.

        Return None if that is done, also earlier; else why the model is kept, for good.
        """
        # If our token may not set the header, the operator's name is part of the reason.
        by = "" if self._may_speak_for_others else f" by {revert.actor}"
        reason = f"undo of replay {revert.replay_id}{by}: {revert.reason}"
        on_behalf_of = {ON_BEHALF_OF: to_header(revert.actor)} if self._may_speak_for_others else {}
        verb = "withdraw" if revert.to is None else "rollback"
        target = {} if revert.to is None else {"to": revert.to}
        user = hashlib.sha256(revert.user_id.encode()).hexdigest()[:32]
        response = await self._ask(
            self._state,
            "POST",
            f"/users/{quoted(revert.user_id)}/model/{verb}",
            body={**target, "reason": _shortened(reason), **({"dry_run": True} if dry_run else {})},
            headers={
                **on_behalf_of,
                "If-Match": f'"{revert.generation}"',
                # The same after a crash, so that a repeated request has no second effect.
                "Idempotency-Key": f"undo-{revert.replay_id}-{user}-{revert.generation}",
            },
            seconds=_LONG_SECONDS,
        )
        if response.is_success:
            return None
        if kind_in(response.content) in _KEPT:
            return said_in(response.content)
        raise unexpected(response)

    # Below

    async def _preview(self, client: HttpClient, path: str, message: Message) -> Answer:
        response = await self._ask(client, "POST", path, body=message.model_dump(mode="json"), seconds=_LONG_SECONDS)
        if response.status_code in _REFUSED:
            raise PermanentError(f"the preview is refused: {said_in(response.content)}", code="preview_refused")
        return read(Answer, response)

    async def _ask(
        self,
        client: HttpClient,
        method: str,
        path: str,
        *,
        body: Mapping[str, JsonValue] | None = None,
        query: Mapping[str, str] | None = None,
        headers: Mapping[str, str] | None = None,
        seconds: float = SECONDS,
    ) -> httpx.Response:
        response = await client.request(
            method,
            path,
            query=query,
            body=body,
            headers=headers,
            seconds=seconds,
            deadline_seconds=seconds,
            limit_bytes=_LIMIT_BYTES,
        )
        if refused := token_refused(response):
            raise refused
        if response.status_code >= HTTPStatus.INTERNAL_SERVER_ERROR:
            raise unexpected(response)
        return response


def _is_training_id(text: str) -> bool:
    try:
        _TRAINING_ID.validate_python(text)
    except ValidationError:
        return False
    return True


def _training(name: str) -> str:
    return f"/trainings/{quoted(name)}"


def _accept(response: httpx.Response) -> None:
    if not response.is_success:
        raise StateRefused(said_in(response.content))


def _shortened(reason: str) -> str:
    return reason if len(reason) <= _REASON_LIMIT else f"{reason[: _REASON_LIMIT - 1]}…"
