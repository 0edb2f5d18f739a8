"""The operators' routes for processes and queues. Edge."""

from __future__ import annotations

from typing import Protocol

from services.ops.processes.views import Processes, Queues
from shared.runtime.http import Router


class Running(Protocol):
    """What runs."""

    async def processes(self) -> Processes: ...

    async def queues(self) -> Queues: ...


def processes_router(running: Running) -> Router:
    router = Router()

    @router.get("/processes", tags=["processes"])
    async def get_processes() -> Processes:
        """
        Every process: whether it is ready, its version, and what to do if it is not.

        Each is asked now, with a deadline. If several of one process run, the one behind its address answers.
        """
        return await running.processes()

    @router.get("/queues", tags=["processes"])
    async def get_queues() -> Queues:
        """
        Every queue: what waits, for how long, how fast it moves, and why it does not.

        Without RabbitMQ's management API (`MODELSWAP_MANAGEMENT_URL`) fewer facts are known; `trouble` says so.
        """
        return await running.queues()

    return router
