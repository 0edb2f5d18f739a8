"""The operators' API, as commands ask it. Edge."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from services.cli.client import CONFIG, Api, Body, first_secret, segment
from services.ops.letters.views import Changed, LetterView
from services.ops.replays.views import ReplayView
from shared.contract.answers import Page
from shared.runtime.settings import OpsClientSettings


class Operators(Api):
    """The operators' API."""

    _name = "the operators' API"
    _url_setting = "MODELSWAP_OPS_URL"
    _auth_setting = "MODELSWAP_OPS_TOKENS"
    _lists: ClassVar[Mapping[str, str]] = {
        "/v1/dead-letters": "modelswap dead-letters list",
        "/v1/replays": "modelswap replays list",
        "/v1/subscriptions": "modelswap subscriptions list",
        "/v1/webhook-endpoints": "modelswap webhooks list",
        "": CONFIG,
    }
    # Freezing, canceling or dropping 100,000 dead letters takes half a minute on a busy machine (2026-11). With a
    # shorter deadline an operator would repeat the command, for dead letters that are taken by then.
    _write_seconds = 120.0

    async def get_dead_letter(self, number: int) -> LetterView:
        return await self.get(LetterView, f"/v1/dead-letters/{number}")

    async def change_dead_letters(self, verb: str, body: Body) -> Changed:
        """*verb*: drop or restore."""
        return await self.post(Changed, f"/v1/dead-letters/{verb}", body, then=f"modelswap dead-letters {verb} --help")

    async def list_replays(self, *, limit: int) -> list[ReplayView]:
        return await self.list(Page[ReplayView], "/v1/replays", limit=limit)

    async def get_replay(self, replay_id: str) -> ReplayView:
        return await self.get(ReplayView, f"/v1/replays/{segment(replay_id)}")

    async def steer_replay(self, replay_id: str, verb: str, reason: str) -> ReplayView:
        """*verb*: start, pause, resume, cancel or undo."""
        path = f"/v1/replays/{segment(replay_id)}/{verb}"
        return await self.post(ReplayView, path, {"reason": reason}, then=f"modelswap replays show {replay_id}")


def operators(environment: Mapping[str, str] | None = None) -> Operators:
    settings = OpsClientSettings.load(environment)
    return Operators(settings.ops_url, first_secret(settings.ops_tokens))
