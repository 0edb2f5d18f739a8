"""The product's API, as commands ask it. Edge."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from typing import ClassVar

from services.cli.client import Api, Body, NotThere, Query, first_secret, segment
from services.state.timeline import TimelineView
from services.state.views import ModelView, OutputView, SwapView, TrainingView
from shared.contract.answers import Page
from shared.runtime.settings import ClientSettings


class Product(Api):
    """The product's API."""

    _name = "the product's API"
    _url_setting = "MODELSWAP_API_URL"
    _auth_setting = "MODELSWAP_API_TOKENS"
    _lists: ClassVar[Mapping[str, str]] = {
        # A user without a model may have had one, which can be used again.
        "/v1/users/": "modelswap models history {user}, or modelswap trainings list --user {user}",
        "": "modelswap trainings list",
    }

    async def start_training(self, body: Body, *, key: str | None = None) -> TrainingView:
        """Start a training, or return the one that was started with the same *key*."""
        return await self.post(TrainingView, "/v1/trainings", body, key=key)

    async def get_training(self, training_id: str) -> TrainingView:
        return await self.get(TrainingView, f"/v1/trainings/{segment(training_id)}")

    async def get_timeline(self, training_id: str) -> TimelineView:
        return await self.get(TimelineView, f"/v1/trainings/{segment(training_id)}/timeline")

    async def list_trainings(self, query: Query, *, limit: int) -> list[TrainingView]:
        return await self.list(Page[TrainingView], "/v1/trainings", query, limit=limit)

    async def list_outputs(self, since: str, *, stage: str | None, limit: int) -> list[OutputView]:
        """Outputs of the trainings that were requested since then; a page is small, because an output may be large."""
        query = {"since": since, "stage": stage}
        return await self.list(Page[OutputView], "/v1/outputs", query, limit=limit, page_size=20)

    async def get_model(self, user_id: str) -> ModelView:
        return await self.get(ModelView, f"/v1/users/{segment(user_id)}/model")

    async def find_model(self, user_id: str) -> ModelView | None:
        """Return the user's current model, or None if the user has none."""
        with suppress(NotThere):
            return await self.get_model(user_id)
        return None

    async def list_history(self, user_id: str, *, limit: int) -> list[SwapView]:
        return await self.list(Page[SwapView], f"/v1/users/{segment(user_id)}/model/history", limit=limit)


def product() -> Product:
    """Return the product's API, with the address and the token of the environment."""
    settings = ClientSettings.load()
    return Product(settings.api_url, first_secret(settings.api_tokens))
