"""What is asked of the other services? Edge: what would become of a message, and to take a user's model back."""

from __future__ import annotations

import asyncio
import hashlib
from http import HTTPStatus
from typing import Any, Final, Self
from urllib.parse import quote

import httpx
from pydantic import ValidationError

from services.ops.replays.records import Revert
from shared.contract.answers import kind_in, said_in
from shared.contract.errors import DependencyDown, PermanentError
from shared.contract.preview import Answer, Message

#: The extractor may ask Replicate several times.
_SECONDS: Final = 60.0
_BODY_LIMIT: Final = 8 * 1024 * 1024
#: State takes no longer one. The audit has all of it.
_REASON_LIMIT: Final = 1000
#: Why a user's model stays as it is, for good. Any other problem is one of ours, or of what is between us.
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
#: It is the message that is at fault, such as its size.
_REFUSED: Final = (HTTPStatus.BAD_REQUEST, HTTPStatus.REQUEST_ENTITY_TOO_LARGE, HTTPStatus.UNPROCESSABLE_ENTITY)


class Services:
    """The extractor and state, as an async context manager."""

    def __init__(self, *, extractor_url: str, state_url: str, token: str) -> None:
        self._extractor = f"{extractor_url}/preview"
        self._state = f"{state_url}/v1"
        self._http = httpx.AsyncClient(
            headers={"Authorization": f"Bearer {token}"}, timeout=_SECONDS, trust_env=False, follow_redirects=False
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._http.aclose()

    async def preview_extractor(self, message: Message) -> Answer:
        """What the extractor would make of *message*."""
        return await self._preview(self._extractor, message)

    async def preview_state(self, message: Message) -> Answer:
        """What state would make of *message*."""
        return await self._preview(f"{self._state}/preview", message)

    async def roll_back(self, revert: Revert) -> str | None:
        """
        Take a user's model back; None: it is done, or was before. Else why the model stays as it is.

        Raises:
            DependencyDown: if nobody knows. It may be asked again.

        """
        reason = f"undo of replay {revert.replay_id}: {revert.reason}"
        user = hashlib.sha256(revert.user_id.encode()).hexdigest()[:32]
        response = await self._post(
            f"{self._state}/users/{quote(revert.user_id, safe='')}/model/rollback",
            {"to": revert.to, "reason": _shortened(reason), "actor": revert.actor},
            headers={
                "If-Match": f'"{revert.generation}"',
                # Asked again after a crash, it is the same rollback.
                "Idempotency-Key": f"undo-{revert.replay_id}-{user}-{revert.generation}",
            },
        )
        if response.is_success:
            return None
        if kind_in(response.content) in _KEPT:
            return said_in(response.content)
        raise _unexpected(response)

    async def _preview(self, url: str, message: Message) -> Answer:
        response = await self._post(url, message.model_dump(mode="json"))
        if response.status_code in _REFUSED:
            raise PermanentError(f"it can not be looked at: {said_in(response.content)}", code="preview_refused")
        if not response.is_success:
            raise _unexpected(response)
        try:
            return Answer.model_validate_json(response.content)
        except ValidationError as error:
            raise DependencyDown(f"{url} gave an answer that is none", code="service_down") from error

    async def _post(self, url: str, body: Any, *, headers: dict[str, str] | None = None) -> httpx.Response:
        try:
            async with asyncio.timeout(_SECONDS):
                response = await self._http.post(url, json=body, headers=headers)
        except (httpx.HTTPError, TimeoutError) as error:
            raise DependencyDown(f"{url} does not answer: {type(error).__name__}", code="service_down") from error
        if len(response.content) > _BODY_LIMIT:
            raise DependencyDown(f"{url} said far too much", code="service_down")
        return response


def _shortened(reason: str) -> str:
    return reason if len(reason) <= _REASON_LIMIT else f"{reason[: _REASON_LIMIT - 1]}…"


def _unexpected(response: httpx.Response) -> DependencyDown:
    return DependencyDown(
        f"{response.url} said {response.status_code}: {said_in(response.content)}", code="service_down"
    )
