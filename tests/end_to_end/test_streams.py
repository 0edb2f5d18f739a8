"""A product watches a training over server-sent events while the process that serves them is killed."""

from __future__ import annotations

import asyncio
from pathlib import Path

from tests.end_to_end.conftest import open_stack
from tests.end_to_end.test_walk import start
from tests.servers import Urls
from tests.sse import Sent, follow_to_the_end


async def test_followed_progress_only_rises_across_restarts(servers: Urls, tmp_path: Path):
    seen: list[Sent] = []
    settings = {"MODELSWAP_DRAIN_SECONDS": "120"}

    async def until_shown(percent: int) -> None:
        while not seen or seen[-1].training["progress"] < percent:
            await asyncio.sleep(0.05)

    async with (
        open_stack(tmp_path, servers, settings=settings, speed=30.0) as (stack, _),
        asyncio.timeout(300),
    ):
        begun = await start(stack, "ada")
        following = asyncio.create_task(follow_to_the_end(stack.api, begun["ref"], seen))
        await until_shown(5)
        stack.processes["state"].kill()
        stack.processes["state"].start()
        await until_shown(40)
        began = asyncio.get_running_loop().time()
        stopped = stack.processes["state"].stop()
        took = asyncio.get_running_loop().time() - began
        stack.processes["state"].start()
        await following

    shown = [sent.training["progress"] for sent in seen]
    assert shown == sorted(shown)
    assert len(set(shown)) > 3
    assert max(shown[:-1]) < 100
    assert (seen[-1].training["stage"], shown[-1]) == ("active", 100)
    assert len({sent.id for sent in seen}) == len(seen)
    # The stream was open.
    assert stopped == 0
    assert took < 60
