"""
Client of Replicate's API: one method for each route that we use. Edge.

`http` sends the requests, and never retries one.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from http import HTTPStatus
from typing import Final, Self, TypeVar

import httpx
from pydantic import JsonValue

from shared.contract.identity import ModelName, ModelRef
from shared.replicate.answers import Account, Page, Secret, TrainingsPage, valid
from shared.replicate.errors import BadAnswer, ForeignAddress, NoAnswer, NotThere, Unknown, error_for
from shared.replicate.http import Http, Observe
from shared.replicate.routes import Route
from shared.replicate.training import Prediction, Training, decode_prediction, decode_training
from shared.replicate.version import ListedVersion, Version

REPLICATE_URL: Final = "https://api.replicate.com"
#: Hosts of Replicate's output files. Strict, so that no other name is ever resolved.
_FILES_HOST: Final = re.compile(r"(?:[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?\.)*replicate\.delivery")

#: Pages of a model's versions that are read: a thousand versions.
_MAX_PAGES: Final = 10
#: Pages of the account's predictions that are read: the last three hundred.
_MAX_RUN_PAGES: Final = 3

_Item = TypeVar("_Item")
_Job = TypeVar("_Job", Training, Prediction)


class Replicate:
    """
    Client of Replicate's API, an async context manager.

    Raises only errors of `shared.replicate.errors` and `DependencyDown`; none of them contains the token.
    """

    def __init__(
        self,
        token: str,
        url: str = REPLICATE_URL,
        *,
        timeout_seconds: float = 20,
        observe: Observe = lambda *_: None,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._http = Http(token, url, timeout_seconds=timeout_seconds, observe=observe, clock=clock, sleep=sleep)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._http.close()

    async def get_training(self, training_id: str) -> Training:
        what = f"get training {training_id}"
        found = await self._http.ask(what, decode_training, Route.GET_TRAINING, training_id)
        return _same(found, training_id, what)

    async def list_trainings(self, cursor: str | None = None) -> TrainingsPage:
        """Return a page of the account's trainings, without their logs. Invalid items are skipped."""
        decode = Page[JsonValue].model_validate_json
        page = await self._http.ask("list trainings", decode, Route.LIST_TRAININGS, cursor=cursor)
        return TrainingsPage(tuple(valid(page.results, Training)), page.next_cursor)

    async def create_training(
        self,
        trainer: ModelRef,
        destination: ModelName,
        inputs: Mapping[str, JsonValue],
        webhook: str,
        events: Sequence[str],
    ) -> Training:
        """
        Start a training.

        Raises:
            Unknown: if the response was lost. The training may run: look for it before trying again.

        """
        what = f"train {destination} with {trainer}"
        body: dict[str, JsonValue] = {
            "destination": str(destination),
            "input": dict(inputs),
            "webhook": webhook,
            "webhook_events_filter": [*events],
        }
        try:
            return await self._http.ask(what, decode_training, Route.CREATE_TRAINING, *trainer, body=body)
        except (BadAnswer, NoAnswer) as error:
            raise Unknown(f"{error}; it may have started") from error

    async def cancel_training(self, training_id: str) -> Training:
        what = f"cancel training {training_id}"
        return await self._http.ask(what, decode_training, Route.CANCEL_TRAINING, training_id)

    async def get_version(self, ref: ModelRef) -> Version:
        return await self._http.ask(f"get version {ref}", Version.model_validate_json, Route.GET_VERSION, *ref)

    async def list_versions(self, model: ModelName) -> list[ListedVersion]:
        """Return the versions of *model*, newest first, at most a thousand."""
        what, decode = f"list versions of {model}", Page[ListedVersion].model_validate_json
        return await self._items(what, decode, Route.LIST_VERSIONS, *model, most_pages=_MAX_PAGES)

    async def create_prediction(
        self,
        ref: ModelRef,
        inputs: Mapping[str, JsonValue],
        cancel_after_seconds: int,
    ) -> Prediction:
        """Start one run of *ref*; Replicate cancels it after *cancel_after_seconds* (5 or more)."""
        return await self._http.ask(
            f"run {ref}",
            decode_prediction,
            Route.CREATE_PREDICTION,
            body={"version": str(ref), "input": dict(inputs)},
            headers={"Cancel-After": f"{cancel_after_seconds}s"},
        )

    async def get_prediction(self, prediction_id: str) -> Prediction:
        what = f"get run {prediction_id}"
        found = await self._http.ask(what, decode_prediction, Route.GET_PREDICTION, prediction_id)
        return _same(found, prediction_id, what)

    async def list_predictions(self) -> list[Prediction]:
        """Return the account's latest runs, newest first, from API and website. Invalid items are skipped."""
        decode = Page[JsonValue].model_validate_json
        items = await self._items("list runs", decode, Route.LIST_PREDICTIONS, most_pages=_MAX_RUN_PAGES)
        return list(valid(items, Prediction))

    async def fetch_output(self, url: str) -> bytes:
        """
        Fetch an output file, without our token.

        Raises:
            ForeignAddress: if *url* is not on Replicate's hosts, since an output may name any URL.
            NotThere: if the file is gone.

        """
        try:
            address = httpx.URL(url)
        except httpx.InvalidURL as error:
            raise ForeignAddress("an output that is not a URL") from error
        if not self._serves_files(address):
            raise ForeignAddress(f"an output on {address.host[:100]!r}, which is not a host of Replicate")
        what = f"fetch an output from {address.host}"
        status, headers, body = await self._http.fetch(what, address)
        if status == HTTPStatus.OK:
            return body
        if status == HTTPStatus.TOO_MANY_REQUESTS or status >= HTTPStatus.INTERNAL_SERVER_ERROR:
            raise error_for(what, status, headers, body)
        # Sent without a token, so 401 and 403 are no credentials problem: the file is gone.
        raise NotThere(f"{what}: {status}")

    async def webhook_secret(self) -> str:
        """Return the secret that Replicate signs this account's webhooks with."""
        decode = Secret.model_validate_json
        return (await self._http.ask("get the webhook secret", decode, Route.GET_WEBHOOK_SECRET)).key

    async def account(self) -> str:
        """Return the name of the token's account."""
        return (await self._http.ask("get the account", Account.model_validate_json, Route.GET_ACCOUNT)).username

    def _serves_files(self, address: httpx.URL) -> bool:
        if address.userinfo:
            return False
        if self._http.url != REPLICATE_URL and _origin(address) == _origin(self._http.url):
            return True  # a simulator serves output files from its API's host
        return (address.scheme, address.port) == ("https", None) and _FILES_HOST.fullmatch(address.host) is not None

    async def _items(
        self, what: str, decode: Callable[[bytes], Page[_Item]], route: Route, *ids: str, most_pages: int
    ) -> list[_Item]:
        """Return the items on the first *most_pages* pages of a list."""
        items: list[_Item] = []
        cursor = None
        for _ in range(most_pages):
            page = await self._http.ask(what, decode, route, *ids, cursor=cursor)
            items += page.results
            cursor = page.next_cursor
            if cursor is None:
                break
        return items


def _same(found: _Job, asked_for: str, what: str) -> _Job:
    """Return *found*, unless it is another than the one *asked_for*, as a cache in between could have it."""
    if found.id != asked_for:
        raise BadAnswer(f"{what}: the answer is about another one, {found.id}")
    return found


def _origin(address: httpx.URL) -> tuple[str, str, int | None]:
    return address.scheme, address.host, address.port
