"""What subscribers are told, to be run."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

README: Final = (Path(__file__).parents[1] / "shared/subscriber/README.md").read_text()
SECTION: Final = README.partition("## In any language")[2]


@dataclass
class Message:
    """As a client of RabbitMQ hands it over."""

    headers: Mapping[str, object]
    body: bytes
    routing_key: str = "modelswap.subscription.generator"


def used(messages: Sequence[Message]) -> dict[str, str | None]:
    """The model of each user, as a subscriber keeps it who copied the snippet."""
    (snippet,) = re.findall(r"```python\n(.*?)```", SECTION, re.DOTALL)
    models: dict[str, str | None] = {}
    names = {"json": json, "known": {}, "use": models.__setitem__}
    for each in messages:
        exec(snippet, {**names, "message": each})
    return models
