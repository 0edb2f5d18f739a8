"""
Connects to the one of several Postgres servers that takes writes. Edge.

The library can try several servers, too, but within one timeout for all: behind a server that is frozen, or cut off by
the network, it never reaches the next one (asyncpg 0.32).
"""

from __future__ import annotations

from collections import deque
from typing import Any, Final
from urllib.parse import parse_qs, urlsplit

import asyncpg
from asyncpg.connect_utils import SessionAttribute

from shared.runtime.addresses import servers_of

_CONNECT_SECONDS: Final = 5.0
#: Less than a pool's caller waits: the caller after it begins with the next server.
_CONNECT_ONE_OF_SEVERAL_SECONDS: Final = 2.0
#: Why another server may serve us.
_NOT_THIS_ONE: Final = (OSError, asyncpg.PostgresError, asyncpg.exceptions.TargetServerAttributeNotMatched)


class Servers:
    """The servers in a database's *url*; the one that was connected to last is tried first."""

    def __init__(self, url: str) -> None:
        self._url = url
        servers = servers_of(url)
        self._servers = deque(servers if len(servers) > 1 else ())
        asked = parse_qs(urlsplit(url).query).get("target_session_attrs", ["read-write"])
        self._kind = SessionAttribute(asked[0])

    async def connect(self, *_: object, **options: Any) -> asyncpg.Connection[asyncpg.Record]:
        """
        Connect, with the *options* of `asyncpg.connect`.

        Raises:
            OSError, PostgresError, InterfaceError, InternalClientError: if no server can be used; of several, the error
                of one that is no standby.

        """
        if not self._servers:
            return await asyncpg.connect(self._url, timeout=_CONNECT_SECONDS, **options)
        failure: Exception | None = None
        for server in tuple(self._servers):
            host, port = server
            try:
                return await asyncpg.connect(
                    self._url,
                    host=host,
                    port=port,
                    timeout=_CONNECT_ONE_OF_SEVERAL_SECONDS,
                    target_session_attrs=self._kind,
                    **options,
                )
            except _NOT_THIS_ONE as error:
                if self._servers[0] == server:
                    self._servers.rotate(-1)
                is_standby = isinstance(error, asyncpg.exceptions.TargetServerAttributeNotMatched)
                failure = failure if failure and is_standby else error
        raise failure or OSError("there is no server")
