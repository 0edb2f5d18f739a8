"""
Client of Replicate's API. Edge: the only file that calls Replicate.

It never retries a call: the broker's delays retry the delivery, and the consumer's circuit breaker sends one probe.
Tried with stamina (2026-11): an outage with 64 deliveries then gets 192 calls instead of 64, and each delivery is held
until its Retry-After.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import cache
from http import HTTPStatus
from ipaddress import ip_address
from typing import Final, Self, TypeVar
from urllib.parse import quote

import httpx
from pydantic import JsonValue, ValidationError

from shared.contract.errors import DependencyDown
from shared.contract.identity import ModelName, ModelRef
from shared.replicate.answers import Account, Page, Secret, TrainingsPage, valid
from shared.replicate.budget import Budget
from shared.replicate.errors import BadAnswer, ForeignAddress, NoAnswer, NotThere, Unknown, error_for
from shared.replicate.training import NotATraining, Prediction, Training, decode_prediction, decode_training
from shared.replicate.version import Version

REPLICATE_URL: Final = "https://api.replicate.com"
#: Hosts of Replicate's output files. Strict, so that no other name is ever resolved.
_FILES_HOST: Final = re.compile(r"(?:[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?\.)*replicate\.delivery")

_NAME_IN_BRACES: Final = re.compile(r"\{\w+\}")
_READS_PER_MINUTE: Final = 3000
_PREDICTIONS_PER_MINUTE: Final = 600
_MAX_BODY_BYTES: Final = 8 * 1024 * 1024
#: Pages of a model's versions that are read: a thousand versions.
_MAX_PAGES: Final = 10
#: Pages of the account's predictions that are read: the last three hundred.
_MAX_RUN_PAGES: Final = 3
#: Limit of each step of a request; httpx has none for the whole request, so `Replicate` adds one.
_STEP_TIMEOUTS: Final = httpx.Timeout(10, connect=3, pool=3)
_CONNECTIONS: Final = httpx.Limits(max_connections=20, max_keepalive_connections=10)
#: The request was not sent, so it had no effect.
_NOT_SENT: Final = (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout)
#: Read once per process: to read the trusted certificates takes 60 ms of CPU, and plain HTTP needs a context, too.
_tls_context = cache(httpx.create_ssl_context)


#: Told each request's route (a template, without ids), its status and its seconds. The status is that of HTTP, or
#: `NO_CONNECTION` or `NO_ANSWER`.
Observe = Callable[[str, str, float], None]
NO_CONNECTION: Final = "no_connection"
NO_ANSWER: Final = "no_answer"

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")


def _unobserved(_: str, __: str, ___: float) -> None:
    pass


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
        observe: Observe = _unobserved,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        if not (token.isascii() and token.isprintable()) or " " in token:
            # The HTTP library would quote the token in its own error.
            raise ValueError("the Replicate API token holds characters that no token has; is there a line break in it?")
        self._authorization = {"Authorization": f"Bearer {token}"} if token else {}
        self._url = httpx.URL(url.rstrip("/"))
        self._timeout_seconds = timeout_seconds
        self._observe = observe
        self._clock = clock
        self._sleep = sleep
        self._reads = Budget(_READS_PER_MINUTE)
        self._predictions = Budget(_PREDICTIONS_PER_MINUTE)
        # A configured proxy cannot reach a simulator on this machine.
        trust_env = not _is_this_machine(self._url.host)
        self._http = httpx.AsyncClient(
            timeout=_STEP_TIMEOUTS,
            limits=_CONNECTIONS,
            headers={"Accept-Encoding": "identity", "User-Agent": "modelswap"},
            follow_redirects=False,
            trust_env=trust_env,
            verify=_tls_context(trust_env=trust_env),
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._http.aclose()

    async def get_training(self, training_id: str) -> Training:
        return await self._ask(f"get training {training_id}", decode_training, "GET /v1/trainings/{id}", training_id)

    async def list_trainings(self, cursor: str | None = None) -> TrainingsPage:
        """Return a page of the account's trainings, without their logs. Invalid items are skipped."""
        decode = Page[JsonValue].model_validate_json
        page = await self._ask("list trainings", decode, "GET /v1/trainings", cursor=cursor)
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
        route = "POST /v1/models/{owner}/{name}/versions/{version}/trainings"
        body: dict[str, JsonValue] = {
            "destination": str(destination),
            "input": dict(inputs),
            "webhook": webhook,
            "webhook_events_filter": [*events],
        }
        try:
            return await self._ask(what, decode_training, route, *trainer, body=body)
        except (BadAnswer, NoAnswer) as error:
            raise Unknown(f"{error}; it may have started") from error

    async def cancel_training(self, training_id: str) -> Training:
        what = f"cancel training {training_id}"
        return await self._ask(what, decode_training, "POST /v1/trainings/{id}/cancel", training_id)

    async def get_version(self, ref: ModelRef) -> Version:
        route = "GET /v1/models/{owner}/{name}/versions/{version}"
        return await self._ask(f"get version {ref}", Version.model_validate_json, route, *ref)

    async def list_versions(self, model: ModelName) -> list[Version]:
        """Return the versions of *model*, newest first, at most a thousand."""
        route = "GET /v1/models/{owner}/{name}/versions"
        decode = Page[Version].model_validate_json
        return await self._items(f"list versions of {model}", decode, route, *model, most_pages=_MAX_PAGES)

    async def create_prediction(
        self,
        ref: ModelRef,
        inputs: Mapping[str, JsonValue],
        cancel_after_seconds: int,
    ) -> Prediction:
        """Start one run of *ref*; Replicate cancels it after *cancel_after_seconds* (5 or more)."""
        return await self._ask(
            f"run {ref}",
            decode_prediction,
            "POST /v1/predictions",
            body={"version": str(ref), "input": dict(inputs)},
            headers={"Cancel-After": f"{cancel_after_seconds}s"},
            budget=self._predictions,
        )

    async def get_prediction(self, prediction_id: str) -> Prediction:
        return await self._ask(f"get run {prediction_id}", decode_prediction, "GET /v1/predictions/{id}", prediction_id)

    async def list_predictions(self) -> list[Prediction]:
        """Return the account's latest runs, newest first, from API and website. Invalid items are skipped."""
        decode = Page[JsonValue].model_validate_json
        items = await self._items("list runs", decode, "GET /v1/predictions", most_pages=_MAX_RUN_PAGES)
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
            raise ForeignAddress("an output that is no address") from error
        if not self._serves_files(address):
            raise ForeignAddress(f"an output on {address.host[:100]!r}, which is not Replicate's")
        what = f"fetch an output from {address.host}"
        status, headers, body = await self._send(what, "GET output", self._http.build_request("GET", address))
        if status == HTTPStatus.OK:
            return body
        if status == HTTPStatus.TOO_MANY_REQUESTS or status >= HTTPStatus.INTERNAL_SERVER_ERROR:
            raise error_for(what, status, headers, body)
        # Sent without a token, so 401 and 403 are no credentials problem: the file is gone.
        raise NotThere(f"{what}: {status}")

    async def webhook_secret(self) -> str:
        """Return the secret that Replicate signs this account's webhooks with."""
        route = "GET /v1/webhooks/default/secret"
        return (await self._ask("get the webhook secret", Secret.model_validate_json, route)).key

    async def account(self) -> str:
        """Return the name of the token's account."""
        return (await self._ask("get the account", Account.model_validate_json, "GET /v1/account")).username

    def _serves_files(self, address: httpx.URL) -> bool:
        if address.userinfo:
            return False
        if self._url != REPLICATE_URL and _origin(address) == _origin(self._url):
            return True  # a simulator serves output files from its API's host
        return (address.scheme, address.port) == ("https", None) and _FILES_HOST.fullmatch(address.host) is not None

    async def _items(
        self, what: str, decode: Callable[[bytes], Page[_Item]], route: str, *ids: str, most_pages: int
    ) -> list[_Item]:
        """Return the items on the first *most_pages* pages of a list."""
        items: list[_Item] = []
        cursor = None
        for _ in range(most_pages):
            page = await self._ask(what, decode, route, *ids, cursor=cursor)
            items += page.results
            cursor = page.next_cursor
            if cursor is None:
                break
        return items

    async def _ask(
        self,
        what: str,
        decode: Callable[[bytes], _Result],
        route: str,
        *ids: str,
        cursor: str | None = None,
        body: Mapping[str, JsonValue] | None = None,
        headers: Mapping[str, str] | None = None,
        budget: Budget | None = None,
    ) -> _Result:
        """Send a request to *route*, which has a place in braces for each of *ids*."""
        method, _, path = _filled(route, ids).partition(" ")
        request = self._http.build_request(
            method,
            f"{self._url}{path}",
            params={"cursor": cursor} if cursor else None,
            json=body,
            headers={**self._authorization, **(headers or {})},
        )
        wait_seconds = (budget or self._reads).take(self._clock())
        if wait_seconds:
            await self._sleep(wait_seconds)
        status, answered, content = await self._send(what, route, request)
        if not HTTPStatus.OK <= status < HTTPStatus.MULTIPLE_CHOICES:
            raise error_for(what, status, answered, content)
        try:
            return decode(content)
        except (NotATraining, ValidationError) as error:
            raise BadAnswer(f"{what}: {error}") from error

    async def _send(self, what: str, route: str, request: httpx.Request) -> tuple[int, httpx.Headers, bytes]:
        began, status = self._clock(), NO_ANSWER
        try:
            async with asyncio.timeout(self._timeout_seconds):
                response = await self._http.send(request, stream=True)
                try:
                    body = await _read(what, response)
                    status = str(response.status_code)
                    return response.status_code, response.headers, body
                finally:
                    await response.aclose()
        except _NOT_SENT as error:
            status = NO_CONNECTION
            raise DependencyDown(f"{what}: no connection ({type(error).__name__})", code="replicate_down") from error
        except (httpx.TransportError, TimeoutError) as error:
            raise NoAnswer(f"{what}: no answer ({type(error).__name__})") from error
        finally:
            self._observe(route, status, self._clock() - began)


def _filled(route: str, ids: Sequence[str]) -> str:
    """Return *route* with *ids* in place of its names in braces."""
    if not all(each.strip(".") for each in ids):
        # httpx would resolve "." and "..", and the token would go to another URL.
        raise ValueError(f"{ids!r} make no path of Replicate's")
    rest = iter(ids)
    return _NAME_IN_BRACES.sub(lambda _: quote(next(rest), safe=""), route)


def _origin(address: httpx.URL) -> tuple[str, str, int | None]:
    return address.scheme, address.host, address.port


async def _read(what: str, response: httpx.Response) -> bytes:
    # Raw, so that nothing is decompressed: a few kilobytes of gzip can expand to gigabytes.
    if response.headers.get("content-encoding", "identity") != "identity":
        raise BadAnswer(f"{what}: an encoding that was not asked for")
    body = bytearray()
    async for chunk in response.aiter_raw():
        body += chunk
        if len(body) > _MAX_BODY_BYTES:
            raise BadAnswer(f"{what}: more than {_MAX_BODY_BYTES} bytes")
    return bytes(body)


def _is_this_machine(host: str) -> bool:
    try:
        return host == "localhost" or ip_address(host).is_loopback
    except ValueError:
        return False
