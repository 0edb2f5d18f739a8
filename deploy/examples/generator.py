"""
An example of a subscriber: draws pictures with each user's current model, as modelswap tells of it.

Environment: AMQP_URL, which `modelswap subscriptions add example --events model.activated.v1,model.withdrawn.v1`
prints; API_URL and API_TOKEN of modelswap's API.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Mapping
from contextlib import suppress
from typing import Final

from modelswap_events import Change, ModelRef, Models, Refused

NAME: Final = "example"
_NEEDED: Final = ("AMQP_URL", "API_URL", "API_TOKEN")


class Generator:
    """Knows which model to draw with. In memory: after a restart, the snapshot brings all models again."""

    def __init__(self) -> None:
        self._models: dict[str, ModelRef] = {}

    async def use(self, change: Change) -> None:
        """Use the model from now on; for a withdrawn one, none."""
        if change.model is None:
            self._models.pop(change.user_id, None)
        else:
            self._models[change.user_id] = change.model
        print(f"{change.user_id} generation {change.generation}: {change.model or 'no model'}", flush=True)  # noqa: T201

    def model_of(self, user_id: str) -> ModelRef | None:
        """Return the model to draw with."""
        return self._models.get(user_id)


async def run(environment: Mapping[str, str]) -> None:
    """Follow the models until SIGTERM or Ctrl-C."""
    task = asyncio.current_task()
    if task is not None:
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    amqp_url, api_url, token = (environment[name] for name in _NEEDED)
    await Models(amqp_url, api_url, token, subscription=NAME).run(Generator().use)


def main() -> None:
    """Run; exit with a sentence if something is missing or refused."""
    missing = [name for name in _NEEDED if not os.environ.get(name)]
    if missing:
        sys.exit(f"generator: {', '.join(missing)} is not set. The first lines of {__file__} say what to set it to")
    with suppress(KeyboardInterrupt, asyncio.CancelledError):
        try:
            asyncio.run(run(os.environ))
        except Refused as error:
            sys.exit(f"generator: {error}")


if __name__ == "__main__":
    main()
