"""
modelswap's API over HTTP/1.1, on asyncio's streams alone: TLS is verified, time and size are bounded. Edge.

One request a connection: a page of the snapshot is asked for seldom, and the answer is then all that comes until the
connection is closed. No redirect is followed and no proxy used, so the token goes to the given address only.
"""

from __future__ import annotations

import asyncio
import http.client
import io
import ssl
from datetime import datetime
from http import HTTPStatus
from socket import socket
from typing import Annotated, Final, cast
from urllib.parse import urlencode, urlsplit

from pydantic import AwareDatetime, BaseModel, Field, ValidationError

from modelswap_events.change import Change
from modelswap_events.errors import Away, Refused
from modelswap_events.ports import Page
from shared.contract.answers import said_in
from shared.contract.identity import ModelRef

_SECONDS: Final = 30.0
_LARGEST_BYTES: Final = 8 * 1024 * 1024
_PAGE_SIZE: Final = 500
#: Refusals that are over after a while.
_NOT_NOW: Final = frozenset({HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.TOO_EARLY, HTTPStatus.TOO_MANY_REQUESTS})


class _Model(BaseModel):
    reference: ModelRef
    trigger_word: str = ""


class _Item(BaseModel):
    user_id: str
    generation: Annotated[int, Field(gt=0)]
    #: Absent if the model was withdrawn.
    model: _Model | None = None

    def change(self) -> Change:
        if self.model is None:
            return Change(self.user_id, self.generation, None)
        return Change(self.user_id, self.generation, self.model.reference, self.model.trigger_word)


class _Items(BaseModel):
    items: tuple[_Item, ...]
    next_cursor: str | None
    next_updated_since: AwareDatetime


class HttpApi:
    """The API at *url*, asked with *token*."""

    def __init__(self, url: str, token: str, *, seconds: float = _SECONDS) -> None:
        """*seconds*: how long a whole response may take."""
        address = urlsplit(url)
        if address.scheme not in ("http", "https") or not address.hostname:
            raise ValueError(f"{url!r} is not the address of modelswap's API, such as https://modelswap.example.com")
        if not token.isascii() or not token.isprintable():
            raise ValueError("the token has characters that no token of modelswap has")
        self._seconds = seconds
        self._host, self._path = address.hostname, address.path.rstrip("/")
        self._port = address.port or (443 if address.scheme == "https" else 80)
        self._tls = ssl.create_default_context() if address.scheme == "https" else None
        self._where = f"{address.scheme}://{address.netloc.rpartition('@')[2]}"
        self._headers = (
            f"Host: {address.netloc.rpartition('@')[2]}\r\n"
            f"Authorization: Bearer {token}\r\n"
            "Accept: application/json\r\nAccept-Encoding: identity\r\nConnection: close\r\n\r\n"
        )

    async def get_page(self, updated_since: datetime | None, cursor: str | None) -> Page:
        """As `ports.Api` says."""
        since = updated_since and updated_since.isoformat().replace("+00:00", "Z")
        given = {"limit": str(_PAGE_SIZE), "updated_since": since, "cursor": cursor}
        query = urlencode({name: text for name, text in given.items() if text is not None})
        try:
            async with asyncio.timeout(self._seconds):
                raw = await self._ask(f"{self._path}/v1/models?{query}")
            status, body = _read(raw)
        except (OSError, TimeoutError, http.client.HTTPException, EOFError) as error:
            raise Away(f"{self._where} does not answer: {str(error) or type(error).__name__}") from error
        if status != HTTPStatus.OK:
            said = f"{self._where} answered {status}: {said_in(body)}"
            is_refusal = HTTPStatus.BAD_REQUEST <= status < HTTPStatus.INTERNAL_SERVER_ERROR and status not in _NOT_NOW
            raise Refused(said) if is_refusal else Away(said)
        try:
            found = _Items.model_validate_json(body)
        except ValidationError as error:
            raise Away(f"{self._where} answers like another version of modelswap, or is another server") from error
        return Page(tuple(item.change() for item in found.items), found.next_cursor, found.next_updated_since)

    async def _ask(self, target: str) -> bytes:
        """Return all that comes until the connection is closed."""
        reader, writer = await asyncio.open_connection(
            self._host, self._port, ssl=self._tls, server_hostname=self._host if self._tls else None
        )
        try:
            writer.write(f"GET {target} HTTP/1.1\r\n{self._headers}".encode())
            await writer.drain()
            answer = bytearray()
            while part := await reader.read(65536):
                answer += part
                if len(answer) > _LARGEST_BYTES:
                    raise OSError(f"its answer has more than {_LARGEST_BYTES} bytes")
            return bytes(answer)
        finally:
            writer.transport.abort()


class _Received:
    """Stands for the socket from which the standard library's parser reads."""

    def __init__(self, raw: bytes) -> None:
        self._raw = raw

    def makefile(self, _: str) -> io.BytesIO:
        return io.BytesIO(self._raw)


def _read(raw: bytes) -> tuple[int, bytes]:
    """Return status and body of a response; raise if a part of it is missing."""
    response = http.client.HTTPResponse(cast(socket, _Received(raw)), method="GET")
    response.begin()
    return response.status, response.read()
