"""A public event as it was received: which types it is of, and what it says."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import cached_property
from typing import Final
from urllib.parse import quote

from pydantic import JsonValue
from rich.text import Text

from services.cli.problem import Problem
from shared.contract.envelope import TRIGGER_HEADER, decode
from shared.contract.errors import Malformed
from shared.contract.events import (
    PUBLIC_EVENTS,
    Event,
    ExtractionFailed,
    ModelActivated,
    ModelReady,
    ModelSuperseded,
    ModelWithdrawn,
)
from shared.contract.text import without_controls
from shared.runtime.broker import Delivery

_PUBLIC: Final = frozenset(event.key for event in PUBLIC_EVENTS)
_MADE_UP: Final = TRIGGER_HEADER.removeprefix("ce-")
#: Characters that the HTTP binding of CloudEvents does not quote: printable ASCII without space, " and %.
_HEADER_SAFE: Final = "".join(map(chr, range(0x21, 0x7F))).replace('"', "").replace("%", "")


@dataclass(frozen=True)
class Heard:
    """One message as it was received."""

    delivery: Delivery

    @cached_property
    def attributes(self) -> Mapping[str, str]:
        """The CloudEvents attributes, by their names without ``ce-``."""
        return {name[3:]: str(value) for name, value in self.delivery.headers.items() if name.startswith("ce-")}

    @cached_property
    def event(self) -> Event | None:
        """The decoded event; None if this version cannot decode it."""
        try:
            return decode(self.delivery.headers, self.delivery.content_type, self.delivery.body).event
        except Malformed:
            return None

    def http_headers(self) -> dict[str, str]:
        """Return the attributes as headers of CloudEvents' binary mode over HTTP."""
        headers = {f"ce-{name}": quote(value, safe=_HEADER_SAFE) for name, value in self.attributes.items()}
        return {**headers, "content-type": "application/json"}

    def document(self) -> dict[str, JsonValue]:
        """Return the whole as one JSON object: CloudEvents' structured mode."""
        return {**self.attributes, "datacontenttype": "application/json", "data": _json(self.delivery.body)}


def is_of(types: Sequence[str], routing_key: str) -> bool:
    """Return whether an event is of one of *types*, or they are none; ``model.activated`` means every version of it."""
    names = (routing_key, routing_key.rpartition(".")[0])
    return not types or any(fnmatchcase(name, kind.replace("#", "*")) for name in names for kind in types)


def check_public(types: Sequence[str]) -> None:
    """Refuse a name that is no public event's."""
    for kind in types:
        if not any(is_of([kind], key) for key in _PUBLIC):
            names = ", ".join(sorted(key.rpartition(".")[0] for key in _PUBLIC))
            raise Problem(f"no public event is called {kind!r}", then=f"--type with one of {names}")


def line(heard: Heard) -> Text:
    time = heard.attributes.get("time", "")[11:19]
    kind = Text(f"{heard.delivery.routing_key:<20}", style="bold")
    said = describe_heard(heard)
    if _MADE_UP in heard.attributes:
        said += " (made up by modelswap trigger)"
    return Text.assemble(
        (time, "dim"), "  ", kind, "  ", without_controls(f"{heard.attributes.get('subject', '')}  {said}")
    )


def describe_heard(heard: Heard) -> str:
    return describe(heard.event) if heard.event else "(unknown to this version)"


def describe(event: Event) -> str:
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


def _json(body: bytes) -> JsonValue:
    try:
        data: JsonValue = json.loads(body)
    except (ValueError, RecursionError):
        return body.decode("utf-8", "replace")
    return data
