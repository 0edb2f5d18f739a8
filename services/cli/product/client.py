"""The product's API, as commands ask it. Edge."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from shlex import quote as shell_quote
from typing import ClassVar

from services.cli.client import Api, Body, NotThere, Query, first_secret, segment
from services.state.views import ModelView, SwapView, TrainingView
from shared.contract.answers import Page
from shared.runtime.settings import ClientSettings


class Product(Api):
    """The product's API."""

    _name = "the product's API"
    _url_setting = "MODELSWAP_API_URL"
    _auth_setting = "MODELSWAP_API_TOKENS"
    _lists: ClassVar[Mapping[str, str]] = {"": "modelswap trainings list"}

    async def start_training(self, body: Body, *, key: str | None = None) -> TrainingView:
        """Start a training, or return the one that was started with the same *key*."""
        return await self.post(TrainingView, "/v1/trainings", body, key=key)

    async def get_training(self, training_id: str) -> TrainingView:
        return await self.get(TrainingView, f"/v1/trainings/{segment(training_id)}")

    async def list_trainings(self, query: Query, *, limit: int) -> list[TrainingView]:
        return await self.list(Page[TrainingView], "/v1/trainings", query, limit=limit)

    async def get_model(self, user_id: str) -> ModelView:
        return await self.get(ModelView, f"/v1/users/{segment(user_id)}/model", absent=models_of(user_id))

    async def find_model(self, user_id: str) -> ModelView | None:
        with suppress(NotThere):
            return await self.get_model(user_id)
        return None

    async def list_history(self, user_id: str, *, limit: int) -> list[SwapView]:
        return await self.list(Page[SwapView], f"/v1/users/{segment(user_id)}/model/history", limit=limit)


def models_of(user_id: str) -> str:
    """The commands to try for a user without a model, who may have had one, which can be used again."""
    user = shell_quote(user_id)
    return f"modelswap models history {user}, or modelswap trainings list --user {user}"


def product() -> Product:
    settings = ClientSettings.load()
    return Product(settings.api_url, first_secret(settings.api_tokens))
