"""
RabbitMQ's management HTTP API: queues, bindings, policies and users of one vhost. Edge.

Answers are limited in size, and its password is in no error: the URL of a request is without it, and users are created
with a hash of their password.
"""

from __future__ import annotations

import base64
import hashlib
import os
import re
from collections import deque
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from http import HTTPStatus
from typing import Final, TypeVar
from urllib.parse import unquote, urlsplit

from pydantic import BaseModel, JsonValue, SecretStr, ValidationError

from shared.contract.answers import said_in
from shared.contract.brokers import split_addresses
from shared.contract.errors import PermanentError
from shared.contract.rights import NOTHING, Rights
from shared.contract.topology import Binding
from shared.runtime.addresses import vhost_of
from shared.runtime.client import HttpClient, Response, Unanswered, quoted, read, unexpected

V = TypeVar("V")

#: An exchange with ten thousand bindings takes 2 MB.
_ANSWER_BYTES: Final = 8 * 1024 * 1024
_DEADLINE_SECONDS: Final = 10.0
_SALT_BYTES: Final = 4
_REASON_CHARACTERS: Final = 300


class ManagementRefused(PermanentError):
    """RabbitMQ's management API refuses the user of MODELSWAP_MANAGEMENT_URL."""

    code = "management_refused"


class Inequivalent(PermanentError):
    """Something of this name exists on the broker with other arguments."""

    code = "inequivalent"


class _Refusal(BaseModel):
    reason: str


class _User(BaseModel):
    name: str


class Node(BaseModel):
    """One node of RabbitMQ. While any of them has an alarm, none takes a message."""

    name: str
    running: bool
    #: A node that does not run has none.
    disk_free_alarm: bool = False
    mem_alarm: bool = False
    #: The nodes from which it was cut off, and which have other definitions since. It ends when one side starts again.
    partitions: list[str] = []


class _Binding(BaseModel):
    source: str
    routing_key: str


class _Permission(BaseModel):
    configure: str
    write: str
    read: str


class _TopicPermission(BaseModel):
    exchange: str
    write: str


class Management(HttpClient):
    """The management API of one vhost, as an async context manager. Every method raises `ServiceDown` if it is away."""

    def __init__(self, url: str, *, vhost: str) -> None:
        """*url* has a user and a password; of a cluster it may be several, separated by commas."""
        super().__init__("")
        #: Of each node; the one that answered last is asked first.
        self._nodes = deque(map(_address_and_login, split_addresses(url)))
        self._vhost = vhost

    async def find(
        self, kind: type[V], what: str, *names: str, query: Mapping[str, str | None] | None = None
    ) -> V | None:
        """Return one thing, or a list, of the vhost; None if it does not exist."""
        return await self._find(kind, self._path(what, *names), query)

    async def put(self, what: str, *names: str, body: Mapping[str, JsonValue]) -> None:
        """
        Create something in the vhost, or change it.

        Raises:
            Inequivalent: if it exists with arguments that cannot be changed.

        """
        await self._ask("PUT", self._path(what, *names), body=body)

    async def post(self, what: str, *names: str, body: Mapping[str, JsonValue]) -> None:
        """Add something to the vhost."""
        await self._ask("POST", self._path(what, *names), body=body)

    async def delete(self, what: str, *names: str) -> None:
        """Delete something of the vhost, if it exists."""
        await self._ask("DELETE", self._path(what, *names))

    async def nodes(self) -> list[Node]:
        return await self._find(list[Node], "/api/nodes") or []

    async def bindings_of(self, queue: str) -> set[Binding] | None:
        """Return the bindings of a queue; None if there is no such queue."""
        found = await self.find(list[_Binding], "queues", queue, "bindings")
        return None if found is None else {Binding(each.source, queue, each.routing_key) for each in found}

    async def has_user(self, user: str) -> bool:
        return await self._find(_User, f"/api/users/{quoted(user)}") is not None

    async def put_user(self, user: str, password: str) -> None:
        """Create a user without any right, or set its password."""
        body: Mapping[str, JsonValue] = {
            "password_hash": _hash_of(password, os.urandom(_SALT_BYTES)),
            "hashing_algorithm": "rabbit_password_hashing_sha256",
            "tags": "",
        }
        await self._ask("PUT", f"/api/users/{quoted(user)}", body=body)

    async def delete_user(self, user: str) -> None:
        """Delete a user, if it exists. RabbitMQ closes its connections."""
        await self._ask("DELETE", f"/api/users/{quoted(user)}")

    async def set_rights(self, user: str, rights: Rights) -> None:
        """Set what the user may do in the vhost."""
        # The limits first: without one, an exchange takes any routing key.
        for exchange, keys in rights.topics.items():
            limit: Mapping[str, JsonValue] = {"exchange": exchange, "write": keys, "read": NOTHING}
            await self.put("topic-permissions", user, body=limit)
        body = {"configure": rights.configure, "write": rights.write, "read": rights.read}
        await self.put("permissions", user, body=body)

    async def rights_of(self, user: str) -> Rights | None:
        """Return what the user may do in the vhost; None if there is no such user, or it may not enter the vhost."""
        found = await self.find(_Permission, "permissions", user)
        if found is None:
            return None
        topics = await self.find(list[_TopicPermission], "topic-permissions", user) or []
        # Limits of exchanges that it may not write to any more stay, and count for nothing.
        limits = [each for each in topics if re.search(found.write, each.exchange)]
        keys = {each.exchange: each.write for each in limits}
        return Rights(found.configure, found.write, found.read, keys)

    async def _find(self, kind: type[V], path: str, query: Mapping[str, str | None] | None = None) -> V | None:
        response = await self._ask("GET", path, query=query)
        return None if response.status_code == HTTPStatus.NOT_FOUND else read(kind, response)

    def _path(self, what: str, *names: str) -> str:
        return "/".join(("/api", what, quoted(self._vhost), *map(quoted, names)))

    async def _ask(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, str | None] | None = None,
        body: Mapping[str, JsonValue] | None = None,
    ) -> Response:
        response = await self._answer(method, path, query, body)
        match response.status_code:
            case HTTPStatus.UNAUTHORIZED | HTTPStatus.FORBIDDEN:
                raise ManagementRefused(
                    f"RabbitMQ's management API at {self._nodes[0][0]} refuses the user of MODELSWAP_MANAGEMENT_URL: "
                    "it needs the tag administrator and rights in the vhost"
                )
            case HTTPStatus.BAD_REQUEST:
                raise Inequivalent(f"RabbitMQ refuses: {_reason_in(response)}")
            case HTTPStatus.NOT_FOUND if method in ("GET", "DELETE"):
                return response
        if not response.is_success:
            raise unexpected(response)
        return response

    async def _answer(
        self, method: str, path: str, query: Mapping[str, str | None] | None, body: Mapping[str, JsonValue] | None
    ) -> Response:
        """Ask one node after the other: every request may be repeated."""

        async def ask(node: tuple[str, str]) -> Response:
            address, login = node
            return await self.request(
                method,
                address + path,
                query=query,
                body=body,
                headers={"Authorization": login},
                deadline_seconds=_DEADLINE_SECONDS,
                limit_bytes=_ANSWER_BYTES,
            )

        *others, last = self._nodes
        for node in others:
            try:
                return await ask(node)
            except Unanswered:
                if self._nodes[0] == node:
                    self._nodes.rotate(-1)
        return await ask(last)


def _address_and_login(url: str) -> tuple[str, str]:
    parts = urlsplit(url)
    login = f"{unquote(parts.username or '')}:{unquote(parts.password or '')}"
    address = parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl().rstrip("/")
    return address, f"Basic {base64.b64encode(login.encode()).decode()}"


@asynccontextmanager
async def opened_management(url: SecretStr | None, amqp_url: str) -> AsyncIterator[Management | None]:
    """Yield the management API at *url* for the vhost of *amqp_url*; None without a *url*."""
    if url is None:
        yield None
        return
    async with Management(url.get_secret_value(), vhost=vhost_of(amqp_url)) as management:
        yield management


def _reason_in(response: Response) -> str:
    try:
        return _Refusal.model_validate_json(response.content).reason[:_REASON_CHARACTERS]
    except ValidationError:
        return said_in(response.content)


def _hash_of(password: str, salt: bytes) -> str:
    """Return RabbitMQ's hash of *password*, because requests may be logged."""
    return base64.b64encode(salt + hashlib.sha256(salt + password.encode()).digest()).decode()
