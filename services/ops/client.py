"""Client of the other services: state's public API, and the extractor's. Edge."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Mapping, Sequence
from http import HTTPStatus
from typing import Any, Final, Self, TypeVar
from urllib.parse import quote
from uuid import UUID

import httpx
from pydantic import BaseModel, ConfigDict, JsonValue, ValidationError

from services.ops.reconcile.trainings import Stage, StateRefused, Unfinished
from services.ops.replays.records import Revert
from shared.contract.answers import kind_in, said_in
from shared.contract.errors import DependencyDown, PermanentError
from shared.contract.identity import parse_ref
from shared.contract.preview import Answer, Message
from shared.runtime.aside import SetAside
from shared.runtime.tokens import ON_BEHALF_OF, Token, to_header

M = TypeVar("M", bound=BaseModel)

_SECONDS: Final = 10.0
#: The extractor may ask Replicate several times, and a swap waits for its user's lock.
_LONG_SECONDS: Final = 60.0
_CHECK_SECONDS: Final = 2.0
_BODY_LIMIT: Final = 8 * 1024 * 1024
_PAGE: Final = 200
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


class ServiceDown(DependencyDown):
    """Another service does not answer, refuses our token, or answers in an unexpected way."""

    code = "service_down"


class ServiceFailed(ServiceDown):
    """It answers in an unexpected way, maybe to this request only."""

    may_concern_one = True


class TrainingUnreadable(PermanentError):  # noqa: N818 (names a condition)
    """State returned a training that this version can not read."""

    code = "training_unreadable"


class _Page(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")

    #: Parsed one by one, so that one that can not be parsed does not hide the others.
    items: Sequence[JsonValue]
    next_cursor: str | None


class _Training(BaseModel):
    user_id: str


class _Health(BaseModel):
    checks: Mapping[str, str]


class Services:
    """State and the extractor, as an async context manager. Every method raises `ServiceDown` if one is away."""

    def __init__(self, *, state_url: str, extractor_url: str, token: Token, unreadable: SetAside[str]) -> None:
        """*unreadable* holds the trainings of state that can not be read, by their refs."""
        self._state = f"{state_url}/v1"
        self._state_root = state_url
        self._extractor = extractor_url
        self._unreadable = unreadable
        self._may_speak_for_others = token.caller.may_speak_for_others
        self._http = httpx.AsyncClient(headers={"Authorization": f"Bearer {token.secret}"}, trust_env=False)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._http.aclose()

    # Trainings

    async def unfinished(self) -> AsyncIterator[Unfinished]:
        """Every training that has not come to an end, newest first in each stage."""
        seen, readable = None, False
        for stage in Stage:
            cursor: str | None = None
            while True:
                asked = {"stage": str(stage), "limit": str(_PAGE), **({"cursor": cursor} if cursor else {})}
                response = await self._ask("GET", f"{self._state}/trainings", query=asked)
                _accept(response)
                page = _read(_Page, response)
                for item in page.items:
                    seen = response
                    if (training := self._training_in(item)) is not None:
                        readable = True
                        yield training
                cursor = page.next_cursor
                if cursor is None:
                    break
        if seen is not None and not readable:
            raise _another_version(seen)

    def _training_in(self, item: JsonValue) -> Unfinished | None:
        ref = str(item.get("ref")) if isinstance(item, dict) else "without a ref"
        try:
            training = Unfinished.model_validate(item)
        except ValidationError as error:
            if not self._unreadable.is_waiting(ref):
                self._unreadable.add(ref, TrainingUnreadable(str(error)))
            return None
        self._unreadable.discard(ref)
        return training

    async def knows(self, training_id: str) -> bool:
        """Return whether a training of this id is registered."""
        response = await self._ask("GET", self._training(training_id))
        if response.status_code == HTTPStatus.NOT_FOUND:
            return False
        _accept(response)
        return True

    async def user_of(self, training_id: str) -> str | None:
        """Return the user of a training, by Replicate's id; None if it is not registered."""
        if parse_ref(training_id) is not None:
            # A broken message may hold a ref in its place: state would answer with the training of that ref.
            return None
        response = await self._ask("GET", self._training(training_id))
        if response.status_code in (HTTPStatus.NOT_FOUND, HTTPStatus.UNPROCESSABLE_ENTITY):
            return None
        return _read(_Training, response).user_id

    async def retry_extraction(self, training: str) -> None:
        """Ask state to retry the extraction of a training (Replicate's id, or our ref) that has succeeded."""
        _accept(await self._ask("POST", f"{self._training(training)}/retry-extraction"))

    async def never_started(self, ref: UUID, reason: str) -> None:
        """Tell state that a training was never started. State ignores it if it has heard of the training since."""
        _accept(await self._ask("POST", f"{self._training(str(ref))}/never-started", {"reason": reason}))

    # Replays

    async def preview_extractor(self, message: Message) -> Answer:
        """Return what the extractor would do with *message*."""
        return await self._preview(self._extractor, message)

    async def preview_state(self, message: Message) -> Answer:
        """Return what state would do with *message*."""
        return await self._preview(self._state, message)

    async def revert_model(self, revert: Revert) -> str | None:
        """
        Roll a user's model back, or withdraw it if there was none before.

        Return None if that is done, also earlier; else why the model is kept, for good.
        """
        # If our token may not set the header, the operator's name is part of the reason.
        by = "" if self._may_speak_for_others else f" by {revert.actor}"
        reason = f"undo of replay {revert.replay_id}{by}: {revert.reason}"
        on_behalf_of = {ON_BEHALF_OF: to_header(revert.actor)} if self._may_speak_for_others else {}
        verb, target = ("withdraw", {}) if revert.to is None else ("rollback", {"to": revert.to})
        user = hashlib.sha256(revert.user_id.encode()).hexdigest()[:32]
        response = await self._ask(
            "POST",
            f"{self._state}/users/{quote(revert.user_id, safe='')}/model/{verb}",
            {**target, "reason": _shortened(reason)},
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
        raise _unexpected(response)

    async def check_extractor(self) -> str | None:
        """Return what keeps the extractor from its work now, or None."""
        return await self._check(self._extractor)

    async def check_state(self) -> str | None:
        """Return what keeps state from its work now, or None."""
        return await self._check(self._state_root)

    # Below

    async def _check(self, url: str) -> str | None:
        try:
            async with asyncio.timeout(_CHECK_SECONDS):
                response = await self._http.get(f"{url}/readyz")
            checks = _Health.model_validate_json(response.content).checks
        except (httpx.HTTPError, TimeoutError) as error:
            return f"{url} does not answer ({type(error).__name__})"
        except ValidationError:
            return f"{url} answers like another version of modelswap"
        return "; ".join(f"{name}: {said}" for name, said in checks.items() if said != "ok") or None

    async def _preview(self, url: str, message: Message) -> Answer:
        response = await self._ask("POST", f"{url}/preview", message.model_dump(mode="json"), seconds=_LONG_SECONDS)
        if response.status_code in _REFUSED:
            raise PermanentError(f"it can not be looked at: {said_in(response.content)}", code="preview_refused")
        return _read(Answer, response)

    def _training(self, name: str) -> str:
        return f"{self._state}/trainings/{quote(name, safe='')}"

    async def _ask(
        self,
        method: str,
        url: str,
        body: Any = None,
        *,
        query: Mapping[str, str] | None = None,
        headers: Mapping[str, str] | None = None,
        seconds: float = _SECONDS,
    ) -> httpx.Response:
        try:
            async with asyncio.timeout(seconds):
                response = await self._http.request(
                    method, url, params=query, json=body, headers=headers, timeout=seconds
                )
        except (httpx.HTTPError, TimeoutError) as error:
            raise ServiceDown(f"{url} does not answer ({type(error).__name__})") from error
        if len(response.content) > _BODY_LIMIT:
            raise ServiceFailed(f"{url} sent more than {_BODY_LIMIT} bytes")
        if response.status_code in (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN):
            raise ServiceDown(f"{url} does not accept our token: check MODELSWAP_API_TOKENS of ops and of that service")
        if response.status_code >= HTTPStatus.INTERNAL_SERVER_ERROR:
            raise _unexpected(response)
        return response


def _accept(response: httpx.Response) -> None:
    if not response.is_success:
        raise StateRefused(f"services.state answered {response.status_code}: {said_in(response.content)}")


def _read(kind: type[M], response: httpx.Response) -> M:
    if not response.is_success:
        raise _unexpected(response)
    try:
        return kind.model_validate_json(response.content)
    except ValidationError as error:
        raise _another_version(response) from error


def _another_version(response: httpx.Response) -> ServiceFailed:
    return ServiceFailed(f"{response.url} answers like another version of modelswap")


def _unexpected(response: httpx.Response) -> ServiceFailed:
    return ServiceFailed(f"{response.url} answered {response.status_code}: {said_in(response.content)}")


def _shortened(reason: str) -> str:
    return reason if len(reason) <= _REASON_LIMIT else f"{reason[: _REASON_LIMIT - 1]}…"
