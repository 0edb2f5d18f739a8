"""Runs the simulator: ``python -m services.simulator``. Edge."""

from __future__ import annotations

import asyncio
import secrets
import sys
from contextlib import ExitStack

import structlog

from services.simulator.app import running
from services.simulator.simulator import Simulator
from services.simulator.store import Store
from shared.runtime import lifecycle
from shared.runtime.settings import SimulatorSettings

log = structlog.get_logger()


async def _run(settings: SimulatorSettings, stopping: asyncio.Event) -> None:
    secret = settings.simulator_webhook_secret
    seed = settings.simulator_seed
    # A new seed each time: a product whose database was kept must not get the same training ids again.
    seed = secrets.randbelow(2**31) if seed is None else seed
    with ExitStack() as stack:
        store = stack.enter_context(Store(file, seed=seed)) if (file := settings.simulator_state) else None
        simulator = Simulator(
            store=store,
            seed=store.seed if store else seed,
            speed=settings.simulator_speed,
            tokens=(settings.simulator_token.get_secret_value(),),
            secret=secret.get_secret_value() if secret else "",
        )
        async with running(simulator, settings.host, settings.simulator_port, limits=settings.limits) as url:
            log.info("simulator.listening", url=url, seed=simulator.knobs.seed, speed=simulator.knobs.speed)
            simulator.resume()
            await stopping.wait()


def main() -> int:
    return lifecycle.main("simulator", SimulatorSettings, _run)


if __name__ == "__main__":
    sys.exit(main())
