"""`modelswap listen`: show public events as they are published, and forward them. Edge."""

from __future__ import annotations

import base64
import os
import secrets
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Final

from rich.text import Text

from services.cli.choices import Format
from services.cli.events.forward import Forwarder
from services.cli.events.subscription import Heard, check_public, is_of, subscribed
from services.cli.output import console, print_json_line, printable, tell
from services.cli.problem import Problem
from shared.contract.answers import said_in
from shared.contract.envelope import TRIGGER_HEADER
from shared.contract.events import (
    EVENTS_EXCHANGE,
    Event,
    ExtractionFailed,
    ModelActivated,
    ModelReady,
    ModelSuperseded,
    ModelWithdrawn,
)
from shared.runtime.client import HttpClient, Unanswered
from shared.runtime.settings import ListenSettings

_SECRET_BYTES: Final = 24
_MADE_UP: Final = TRIGGER_HEADER.removeprefix("ce-")


async def listen(types: Sequence[str], forward_to: str | None, output: Format) -> None:
    """Show events until interrupted."""
    check_public(types, option="--types with ")
    if forward_to is not None and not forward_to.startswith(("http://", "https://")):
        raise Problem(f"{forward_to!r} is not an address to post to", then="--forward-to http://HOST:PORT/PATH")
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


def line(heard: Heard) -> Text:
    """Return the line that shows an event."""
    time = heard.attributes.get("time", "")[11:19]
    kind = Text(f"{heard.delivery.routing_key:<20}", style="bold")
    said = describe_heard(heard)
    if _MADE_UP in heard.attributes:
        said += " (made up by modelswap trigger)"
    return Text.assemble((time, "dim"), "  ", kind, "  ", printable(f"{heard.attributes.get('subject', '')}  {said}"))


def describe_heard(heard: Heard) -> str:
    """Describe the event of a message."""
    return describe(heard.event) if heard.event else "(unknown to this version)"


def describe(event: Event) -> str:
    """Describe an event in a few words."""
    match event:
        case ModelReady():
            checks = ", ".join(event.evidence.checks)
            return f"{event.model} ({checks}; {event.evidence.seconds:.1f} s)"
        case ModelActivated():
            return f"{event.model} is current, generation {event.generation} ({event.cause})"
        case ModelSuperseded():
            return f"{event.model} works, but generation {event.current_generation} is live"
        case ModelWithdrawn():
            return f"{event.previous} was withdrawn, generation {event.generation}"
        case ExtractionFailed():
            return f"{event.error}: {event.detail}"
    return event.training_id
