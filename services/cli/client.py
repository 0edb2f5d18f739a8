"""What is asked over HTTP? Edge: the product's API, the health of our processes, the receiver, and whoever listens."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from datetime import datetime
from http import HTTPStatus
from shlex import quote as shell_quote
from typing import Any, ClassVar, Final, Self, TypeVar
from urllib.parse import quote

import httpx
from pydantic import BaseModel, ValidationError

from services.cli.output import tell
from services.cli.problem import NoAnswer, NotNow, Problem
from services.ops.letters.views import AuditView, Changed, GroupView, LetterCounts, LetterLine, LetterView
from services.ops.reconcile.views import LookedAgain, Reconciliation
from services.ops.replays.views import ReplayedLetterView, ReplayView
from services.state.views import ModelView, OutputView, SwapView, TrainingView, WithdrawalView
from shared.contract.answers import Page, said_in

M = TypeVar("M", bound=BaseModel)
V = TypeVar("V")

_TIMEOUT: Final = httpx.Timeout(10.0)
_READY_POLL_SECONDS: Final = 0.1
#: How long whoever watches waits for a process that is restarted, and how often they ask.
_PATIENCE_SECONDS: Final = 60.0
_AGAIN_SECONDS: Final = 0.5
_PAGE: Final = 100
#: Outputs may be large.
_OUTPUTS_PAGE: Final = 20
_CONFIG: Final = "modelswap config show"


class NotThere(Problem):
    """The API knows no such thing."""

    code = "not_there"


class _Api:
    """One of our APIs, as an async context manager."""

    #: What it is to people, and which settings say where it is and who may ask.
    _name: ClassVar[str]
    _url_setting: ClassVar[str]
    _token_setting: ClassVar[str]
    #: What to do where there is no such thing.
    _list: ClassVar[str]
    #: For what changes something; a question is answered sooner.
    _timeout: ClassVar[httpx.Timeout] = _TIMEOUT

    def __init__(self, url: str, token: str) -> None:
        self._url = url
        self._http = httpx.AsyncClient(base_url=url, headers={"Authorization": f"Bearer {token}"}, trust_env=False)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._http.aclose()

    async def _pages(
        self, kind: type[Page[V]], path: str, query: Mapping[str, str | None], limit: int, *, page_size: int = _PAGE
    ) -> list[V]:
        return [each async for each in self._each(kind, path, query, limit, page_size=page_size)]

    async def _each(
        self, kind: type[Page[V]], path: str, query: Mapping[str, str | None], limit: int, *, page_size: int = _PAGE
    ) -> AsyncIterator[V]:
        """One after the other, a page in memory at a time."""
        left, cursor = limit, None
        while left > 0:
            asked = {**query, "limit": str(min(page_size, left)), "cursor": cursor}
            page = await self._ask(kind, "GET", path, query=asked)
            for item in page.items:
                yield item
            left -= len(page.items)
            cursor = page.next_cursor
            if cursor is None:
                break

    async def _post(
        self,
        kind: type[M],
        path: str,
        *,
        then: str,
        body: Mapping[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> M:
        return await self._ask(kind, "POST", path, body=body, headers=headers, then=then)

    async def _ask(
        self,
        kind: type[M],
        method: str,
        path: str,
        *,
        query: Mapping[str, str | None] | None = None,
        body: Mapping[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
        then: str = "the same command with --help",
    ) -> M:
        """*then* is what to do where the request makes no sense as things are."""
        given = {name: text for name, text in (query or {}).items() if text is not None}
        try:
            response = await self._http.request(
                method,
                path,
                params=given,
                json=body,
                headers=headers,
                timeout=_TIMEOUT if method == "GET" else self._timeout,
            )
        except httpx.ReadTimeout as error:
            said = f"{self._name} at {self._url} took the request, and did not answer in time: it hangs"
            raise NotNow(said, then="modelswap doctor") from error
        except httpx.TransportError as error:
            raise NoAnswer(
                f"{self._name} at {self._url} does not answer ({type(error).__name__})",
                then=f"modelswap up --embedded, or set {self._url_setting}",
            ) from error
        if not response.is_success:
            raise self._refusal(response, then)
        try:
            return kind.model_validate_json(response.content)
        except ValidationError as error:
            raise Problem(f"{self._url} is not {self._name}, or of another version", then=_CONFIG) from error

    def _refusal(self, response: httpx.Response, then: str) -> Problem:
        detail = said_in(response.content)
        match response.status_code:
            case HTTPStatus.UNAUTHORIZED:
                return Problem(f"{self._name} does not accept the first token of {self._token_setting}", then=_CONFIG)
            case HTTPStatus.FORBIDDEN:
                return Problem(detail, then=f"an operator's token in {self._token_setting}")
            case HTTPStatus.NOT_FOUND:
                return NotThere(detail, then=self._list)
            case (
                HTTPStatus.BAD_REQUEST
                | HTTPStatus.CONFLICT
                | HTTPStatus.PRECONDITION_FAILED
                | HTTPStatus.UNPROCESSABLE_ENTITY
            ):
                return Problem(detail, then=then)
            case HTTPStatus.SERVICE_UNAVAILABLE:
                return NotNow(f"{self._name} can not answer now: {detail}", then="modelswap doctor")
        return Problem(f"{self._name} refused: {response.status_code} {detail}", then="modelswap doctor")


class Product(_Api):
    """The product's API, as an async context manager."""

    _name = "the product's API"
    _url_setting = "MODELSWAP_API_URL"
    _token_setting = "MODELSWAP_API_TOKENS"  # noqa: S105 (its name)
    _list = "modelswap trainings list"

    async def start_training(self, body: Mapping[str, Any], *, key: str | None = None) -> TrainingView:
        """Asked again with the same *key*, it is the same training."""
        headers = {"Idempotency-Key": key} if key else None
        return await self._ask(TrainingView, "POST", "/v1/trainings", body=body, headers=headers)

    async def get_training(self, training_id: str) -> TrainingView:
        return await self._ask(TrainingView, "GET", f"/v1/trainings/{_part(training_id)}")

    async def cancel_training(self, training_id: str) -> TrainingView:
        return await self._post(TrainingView, f"/v1/trainings/{_part(training_id)}/cancel", then=_show(training_id))

    async def retry_extraction(self, training_id: str) -> TrainingView:
        path = f"/v1/trainings/{_part(training_id)}/retry-extraction"
        return await self._post(TrainingView, path, then=_show(training_id))

    async def retry_user_extraction(self, user_id: str) -> TrainingView:
        """The same for the user's newest training that succeeded, but has no model of its own."""
        then = f"modelswap trainings list --user {shell_quote(user_id)}"
        return await self._post(TrainingView, f"/v1/users/{_part(user_id)}/retry-extraction", then=then)

    async def list_trainings(self, *, user_id: str | None, stage: str | None, limit: int) -> list[TrainingView]:
        """The newest trainings, of all users or of one, in all stages or in one."""
        query = {"user_id": user_id, "stage": stage}
        return await self._pages(Page[TrainingView], "/v1/trainings", query, limit)

    async def list_outputs(self, *, since: datetime, limit: int) -> list[OutputView]:
        """What came out of the trainings that were requested since then, newest first."""
        return await self._pages(
            Page[OutputView], "/v1/outputs", {"since": since.isoformat()}, limit, page_size=_OUTPUTS_PAGE
        )

    async def get_model(self, user_id: str) -> ModelView:
        return await self._ask(ModelView, "GET", f"/v1/users/{_part(user_id)}/model")

    async def roll_back(
        self, user_id: str, *, to: str | None, reason: str, generation: int | None, dry_run: bool
    ) -> ModelView:
        """Go back to a model, or see what that would be, if the user's model still has this *generation* (if any)."""
        return await self._post(
            ModelView,
            f"/v1/users/{_part(user_id)}/model/rollback",
            body={"to": to, "reason": reason, "dry_run": dry_run},
            headers={} if generation is None else {"If-Match": f'"{generation}"'},
            then=f"modelswap models history {shell_quote(user_id)}",
        )

    async def find_model(self, user_id: str) -> ModelView | None:
        """The model that a user uses now; None: the user has none."""
        try:
            return await self.get_model(user_id)
        except NotThere:
            return None

    async def withdraw(self, user_id: str, *, reason: str, generation: int, dry_run: bool) -> WithdrawalView:
        """Take a user's model away, or see what that would be, if it still has this *generation*."""
        return await self._post(
            WithdrawalView,
            f"/v1/users/{_part(user_id)}/model/withdraw",
            body={"reason": reason, "dry_run": dry_run},
            headers={"If-Match": f'"{generation}"'},
            then=f"modelswap models history {shell_quote(user_id)}",
        )

    async def list_history(self, user_id: str, *, limit: int) -> list[SwapView]:
        return await self._pages(Page[SwapView], f"/v1/users/{_part(user_id)}/model/history", {}, limit)


class Operators(_Api):
    """The operators' API, as an async context manager."""

    _name = "the operators' API"
    _url_setting = "MODELSWAP_OPS_URL"
    _token_setting = "MODELSWAP_OPS_TOKENS"  # noqa: S105 (its name)
    _list = "modelswap replays list, or modelswap dead-letters list"
    # To freeze, to cancel or to drop a hundred thousand letters takes half a minute on a busy machine (2026-11).
    # Whoever is told too soon that nobody answers asks again, for letters that are taken by then.
    _timeout = httpx.Timeout(10.0, read=120.0)

    async def get_dead_letter(self, number: int) -> LetterView:
        return await self._ask(LetterView, "GET", f"/v1/dead-letters/{number}")

    async def list_dead_letters(self, chosen: Mapping[str, str | None], *, limit: int) -> list[LetterLine]:
        """The newest letters that are *chosen*."""
        return await self._pages(Page[LetterLine], "/v1/dead-letters", chosen, limit)

    def each_dead_letter(self, chosen: Mapping[str, str | None], *, limit: int | None) -> AsyncIterator[LetterLine]:
        """The newest letters that are *chosen*, or all of them, however many there are."""
        return self._each(Page[LetterLine], "/v1/dead-letters", chosen, sys.maxsize if limit is None else limit)

    async def list_dead_letter_groups(self, *, status: str | None, limit: int) -> list[GroupView]:
        """The newest kinds of failure."""
        return await self._pages(Page[GroupView], "/v1/dead-letter-groups", {"status": status}, limit)

    async def count_dead_letters(self) -> LetterCounts:
        return await self._ask(LetterCounts, "GET", "/v1/dead-letter-counts")

    async def change_dead_letters(
        self, verb: str, chosen: Mapping[str, Any], reason: str, *, dry_run: bool = False, up_to: int | None = None
    ) -> Changed:
        """*verb*: drop or restore; *chosen*: their numbers, or a filter."""
        body = {**chosen, "reason": reason, "dry_run": dry_run, "up_to": up_to}
        then = f"modelswap dead-letters {verb} --help"
        return await self._post(Changed, f"/v1/dead-letters/{verb}", body=body, then=then)

    async def list_audit(self, chosen: Mapping[str, str | None], *, limit: int) -> list[AuditView]:
        return await self._pages(Page[AuditView], "/v1/audit", chosen, limit)

    async def start_replay(self, body: Mapping[str, Any], *, key: str) -> ReplayView:
        return await self._replay("", body, key=key)

    async def edit_and_replay(self, number: int, body: Mapping[str, Any], *, key: str) -> ReplayView:
        path = f"/v1/dead-letters/{number}/edit-and-replay"
        then = "modelswap dead-letters edit --help"
        return await self._post(ReplayView, path, body=body, headers={"Idempotency-Key": key}, then=then)

    async def list_replays(self, *, limit: int) -> list[ReplayView]:
        return await self._pages(Page[ReplayView], "/v1/replays", {}, limit)

    async def get_replay(self, replay_id: str) -> ReplayView:
        return await self._ask(ReplayView, "GET", f"/v1/replays/{_part(replay_id)}")

    async def list_replay_letters(self, replay_id: str, *, outcome: str | None, limit: int) -> list[ReplayedLetterView]:
        path = f"/v1/replays/{_part(replay_id)}/letters"
        return await self._pages(Page[ReplayedLetterView], path, {"outcome": outcome}, limit)

    async def steer_replay(self, replay_id: str, verb: str, reason: str) -> ReplayView:
        """*verb*: start, pause, resume, cancel or undo."""
        return await self._replay(f"/{_part(replay_id)}/{verb}", {"reason": reason}, replay_id=replay_id)

    async def reconciliation(self, *, limit: int) -> Reconciliation:
        return await self._ask(Reconciliation, "GET", "/v1/reconciliation", query={"limit": str(limit)})

    async def look_again(self, training_id: str, reason: str) -> None:
        """Have the model of a training looked for once more, which the audit remembers."""
        path = f"/v1/trainings/{_part(training_id)}/look-again"
        await self._post(LookedAgain, path, body={"reason": reason}, then=_show(training_id))

    async def _replay(
        self, path: str, body: Mapping[str, Any], *, key: str | None = None, replay_id: str | None = None
    ) -> ReplayView:
        headers = {} if key is None else {"Idempotency-Key": key}
        then = "modelswap dead-letters replay --help" if replay_id is None else f"modelswap replays show {replay_id}"
        return await self._post(ReplayView, f"/v1/replays{path}", body=body, headers=headers, then=then)


async def patiently(ask: Callable[[], Awaitable[V]]) -> V:
    """
    What *ask* brings, for somebody who watches: what is restarted meanwhile, they wait for, and are told so once.

    Raises:
        NoAnswer, NotNow: if that has been all for a minute.

    """
    loop = asyncio.get_running_loop()
    until = None
    while True:
        try:
            return await ask()
        except (NoAnswer, NotNow) as problem:
            if until is None:
                until = loop.time() + _PATIENCE_SECONDS
                tell(f"{problem}; waiting for it")
            elif loop.time() > until:
                raise
        await asyncio.sleep(_AGAIN_SECONDS)


async def wait_until_ready(url: str) -> None:
    """Return as soon as the process at *url* says that it is ready. It is the caller's to lose patience."""
    async with httpx.AsyncClient(timeout=_TIMEOUT, trust_env=False) as http:
        while True:
            try:
                if (await http.get(f"{url}/readyz")).is_success:
                    return
            except httpx.TransportError:
                pass  # it does not listen yet
            await asyncio.sleep(_READY_POLL_SECONDS)


async def post(url: str, body: bytes, headers: Mapping[str, str]) -> tuple[int, str]:
    """
    Post *body* to *url*; the answer's status and, if it is a refusal, the reason.

    Raises:
        Problem: if nobody answers.

    """
    try:
        async with httpx.AsyncClient(timeout=_TIMEOUT, trust_env=False) as http:
            response = await http.post(url, content=body, headers=dict(headers))
    except (httpx.TransportError, httpx.InvalidURL) as error:
        then = "is it running? modelswap doctor"
        raise Problem(f"nobody answers at {url} ({type(error).__name__})", then=then) from error
    return response.status_code, "" if response.is_success else said_in(response.content)


def _show(training_id: str) -> str:
    return f"modelswap trainings show {shell_quote(training_id)}"


def _part(text: str) -> str:
    if not text:
        raise Problem("an empty id names nothing", then="the same command with --help")
    return quote(text, safe="")
