"""Who does state say that a training belongs to? Edge: one question to its API."""

from __future__ import annotations

from http import HTTPStatus
from typing import Final, Self
from urllib.parse import quote

import httpx
from pydantic import BaseModel, ValidationError

from shared.contract.errors import DependencyDown

_TIMEOUT: Final = httpx.Timeout(5.0)


class _Training(BaseModel):
    user_id: str


class Trainings:
    """State's API, as an async context manager."""

    def __init__(self, url: str, token: str) -> None:
        self._http = httpx.AsyncClient(
            base_url=url, headers={"Authorization": f"Bearer {token}"}, timeout=_TIMEOUT, trust_env=False
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._http.aclose()

    async def user_of(self, training_id: str) -> str | None:
        """
        The user whose training it is; None if it is not registered.

        Raises:
            DependencyDown: if state does not say.

        """
        try:
            answer = await self._http.get(f"/v1/trainings/{quote(training_id, safe='')}")
        except httpx.HTTPError as error:
            raise DependencyDown(f"state does not answer ({type(error).__name__})", code="state_down") from error
        if answer.status_code in (HTTPStatus.NOT_FOUND, HTTPStatus.UNPROCESSABLE_ENTITY):
            return None
        try:
            return _Training.model_validate_json(answer.content).user_id
        except ValidationError as error:
            raise DependencyDown(f"state answered {answer.status_code}", code="state_down") from error
