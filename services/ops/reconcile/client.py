"""What does state know of trainings? Edge: asks its API, as any product may."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from http import HTTPStatus
from typing import Any, Final, Self
from urllib.parse import quote
from uuid import UUID

import httpx
from pydantic import BaseModel, ConfigDict, ValidationError

from services.ops.reconcile.plan import Stage, StateRefused, Unfinished
from shared.contract.answers import said_in
from shared.contract.errors import DependencyDown

_TIMEOUT: Final = httpx.Timeout(10.0)
_PAGE: Final = 200


class StateAway(DependencyDown):
    """The API of `services.state` does not answer, or not us."""

    code = "state_away"


class _Page(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")

    items: Sequence[Unfinished]
    next_cursor: str | None


class StateClient:
    """The API of `services.state`, as an async context manager."""

    def __init__(self, url: str, token: str) -> None:
        self._url = url
        self._http = httpx.AsyncClient(
            base_url=url, headers={"Authorization": f"Bearer {token}"}, timeout=_TIMEOUT, trust_env=False
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._http.aclose()

    async def unfinished(self) -> AsyncIterator[Unfinished]:
        """
        Every training that has not come to an end, newest first in each stage.

        Raises:
            StateAway: if it does not answer.

        """
        for stage in Stage:
            cursor: str | None = None
            while True:
                asked = {"stage": str(stage), "limit": str(_PAGE), **({"cursor": cursor} if cursor else {})}
                page = await self._page(asked)
                for training in page.items:
                    yield training
                cursor = page.next_cursor
                if cursor is None:
                    break

    async def knows(self, training_id: str) -> bool:
        """Is a training of this id registered?"""
        response = await self._ask("GET", f"/v1/trainings/{_part(training_id)}")
        if response.status_code == HTTPStatus.NOT_FOUND:
            return False
        _accept(response)
        return True

    async def look_again(self, training: str) -> None:
        """Have the model of a training (Replicate's id, or our ref) looked for once more that Replicate finished."""
        _accept(await self._ask("POST", f"/v1/trainings/{_part(training)}/retry-extraction"))

    async def never_started(self, ref: UUID, reason: str) -> None:
        """Say that Replicate was never asked for a training. One that somebody heard of since stays as it is."""
        _accept(await self._ask("POST", f"/v1/trainings/{ref}/never-started", {"reason": reason}))

    async def _page(self, query: dict[str, str]) -> _Page:
        response = await self._ask("GET", "/v1/trainings", query=query)
        _accept(response)
        try:
            return _Page.model_validate_json(response.content)
        except ValidationError as error:
            raise StateAway(f"{self._url} answers like another version of services.state") from error

    async def _ask(
        self, method: str, path: str, body: dict[str, Any] | None = None, *, query: dict[str, str] | None = None
    ) -> httpx.Response:
        try:
            response = await self._http.request(method, path, params=query, json=body)
        except httpx.TransportError as error:
            raise StateAway(f"services.state at {self._url} does not answer ({type(error).__name__})") from error
        if response.status_code in (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN):
            raise StateAway("services.state does not accept our token: check MODELSWAP_API_TOKENS")
        if response.status_code >= HTTPStatus.INTERNAL_SERVER_ERROR:
            raise StateAway(f"services.state answered {response.status_code}")
        return response


def _accept(response: httpx.Response) -> None:
    if not response.is_success:
        raise StateRefused(f"services.state answered {response.status_code}: {said_in(response.content)}")


def _part(text: str) -> str:
    return quote(text, safe="")
