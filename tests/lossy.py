"""What a process says of itself while something may be lost."""

from __future__ import annotations

from typing import Any

from tests.stack import Stack, plain_client


async def readiness(stack: Stack, name: str) -> tuple[int, dict[str, Any]]:
    async with plain_client() as client:
        answer = await client.get(f"{stack.url(name)}/readyz")
    return answer.status_code, answer.json()["checks"]


async def dropped(stack: Stack) -> float:
    """How many reports of progress the receiver says it has dropped."""
    async with plain_client() as client:
        lines = (await client.get(f"{stack.url('receiver')}/metrics")).text.splitlines()
    return sum(float(line.split()[-1]) for line in lines if line.startswith("modelswap_progress_dropped_total{"))
