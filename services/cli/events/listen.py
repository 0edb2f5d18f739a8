"""`modelswap listen`: show public events as they are published, and forward them. Edge."""

from __future__ import annotations

import base64
import os
import secrets
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Final

from services.cli.choices import Format
from services.cli.events.forward import Forwarder
from services.cli.events.heard import Heard, check_public, is_of, line
from services.cli.events.subscription import subscribed
from services.cli.options import check_address
from services.cli.output import console, print_json_line, tell
from shared.contract.answers import said_in
from shared.contract.events import EVENTS_EXCHANGE
from shared.runtime.client import HttpClient, Unanswered
from shared.runtime.settings import ListenSettings

_SECRET_BYTES: Final = 24


async def listen(types: Sequence[str], forward_to: str | None, output: Format) -> None:
    check_public(types)
    if forward_to is not None:
        check_address(forward_to, then="--forward-to http://HOST:PORT/PATH")
    settings = ListenSettings.load(os.environ)
    url = settings.amqp_url.get_secret_value()
    secret, told = _secret(settings)
    async with subscribed(url, [EVENTS_EXCHANGE]) as events, _forwarding(forward_to, secret) as forward:
        tell("listening; Ctrl-C ends it")
        if forward_to is not None:
            tell(f"forwarding to {forward_to}, signed with {told}")
        async for heard in events:
            if not is_of(types, heard.delivery.routing_key):
                continue
            if output is Format.JSON:
                print_json_line(heard.document())
            else:
                console().print(line(heard), soft_wrap=True)
            forward(heard)


def _secret(settings: ListenSettings) -> tuple[str, str]:
    """Return the secret that signs forwarded events, and its description: one from the settings is not shown."""
    if settings.listen_secret is not None:
        return settings.listen_secret.get_secret_value(), "MODELSWAP_LISTEN_SECRET"
    secret = "whsec_" + base64.b64encode(secrets.token_bytes(_SECRET_BYTES)).decode()
    return secret, f"{secret} (until Ctrl-C; MODELSWAP_LISTEN_SECRET sets a lasting one)"


@asynccontextmanager
async def _forwarding(url: str | None, secret: str) -> AsyncIterator[Callable[[Heard], None]]:
    """Yield the function that forwards an event to *url*; without a *url* it does nothing."""
    if url is None:
        yield lambda _: None
        return
    async with HttpClient(url) as http:

        async def post(body: bytes, headers: Mapping[str, str]) -> tuple[int | None, str]:
            try:
                response = await http.request("POST", content=body, headers=headers)
            except Unanswered as error:
                return None, error.why
            return response.status_code, "" if response.is_success else said_in(response.content)

        async with Forwarder(post, secret, lambda line: tell(f"  {line}")) as forwarder:
            yield forwarder.add
