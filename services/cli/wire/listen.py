"""What happens right now? Shows public events as they are published, and passes them on."""

from __future__ import annotations

import os
from collections.abc import Sequence

from rich.text import Text

from services.cli import client
from services.cli.output import console, print_json_line, printable, tell
from services.cli.problem import Problem
from services.cli.wire.subscription import Heard, public, subscribed
from services.cli.words import Format
from shared.contract.events import Event, ExtractionFailed, ModelActivated, ModelReady, ModelSuperseded, ModelWithdrawn
from shared.runtime.settings import BrokerSettings


async def listen(types: Sequence[str], forward_to: str | None, output: Format) -> None:
    """Until somebody interrupts."""
    bindings = public(types)
    if forward_to is not None and not forward_to.startswith(("http://", "https://")):
        raise Problem(f"{forward_to!r} is no address to post to", then="--forward-to http://HOST:PORT/PATH")
    url = BrokerSettings.load(os.environ).amqp_url.get_secret_value()
    async with subscribed(url, bindings) as events:
        tell("listening; Ctrl-C ends it")
        async for heard in events:
            if output is Format.JSON:
                print_json_line(heard.document())
            else:
                console().print(_line(heard), soft_wrap=True)
            if forward_to is not None:
                tell(f"  {await _forward(heard, forward_to)}")


async def _forward(heard: Heard, url: str) -> str:
    """What became of it. Whoever does not take it does not stop us."""
    try:
        status, reason = await client.post(url, heard.body, heard.http_headers())
    except Problem as problem:
        return str(problem)
    return f"{url} answered {status} {reason}".rstrip()


def _line(heard: Heard) -> Text:
    time = heard.attributes.get("time", "")[11:19]
    kind = Text(f"{heard.routing_key:<20}", style="bold")
    said = describe(heard.event) if heard.event else "(not understood by this version)"
    return Text.assemble((time, "dim"), "  ", kind, "  ", printable(f"{heard.attributes.get('subject', '')}  {said}"))


def describe(event: Event) -> str:
    """What an event says, in a few words."""
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
