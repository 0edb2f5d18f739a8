"""HTTP client that posts all webhooks, without following redirects. Edge."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache

import httpx

#: Read once per process: to read the trusted certificates takes 60 ms of CPU, and plain HTTP needs a context, too.
_tls_context = cache(httpx.create_ssl_context)


class WebhookClient:
    """Posts webhooks, at most *connections* at once. Close it."""

    def __init__(self, *, timeout_seconds: float, connections: int) -> None:
        self._http = httpx.AsyncClient(
            timeout=timeout_seconds,
            limits=httpx.Limits(max_connections=connections, max_keepalive_connections=connections),
            follow_redirects=False,
            trust_env=False,
            verify=_tls_context(trust_env=False),
        )

    async def post(self, url: str, body: bytes, headers: Mapping[str, str]) -> int | None:
        """Post *body*; return the response's status, or None if there was no response."""
        try:
            answer = await self._http.post(url, content=body, headers=headers)
        except (httpx.HTTPError, httpx.InvalidURL):
            return None
        return answer.status_code

    async def close(self) -> None:
        await self._http.aclose()
