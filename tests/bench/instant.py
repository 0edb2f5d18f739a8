"""
A Replicate that answers at once, inside the process: what is measured is the pipeline, not an HTTP client.

    python -m tests.bench.instant      the product's own extractor, asking this Replicate
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Mapping

from pydantic import JsonValue

from services.extractor.__main__ import consume
from shared.contract.identity import ModelName, ModelRef
from shared.replicate.answers import TrainingsPage
from shared.replicate.training import Prediction, Training
from shared.replicate.version import Version
from shared.runtime.lifecycle import main
from shared.runtime.settings import ExtractorSettings


class InstantReplicate:
    """Every version exists; nothing else is asked of it."""

    async def answers(self, model: str, version: str) -> None:
        """The plain pipeline's question."""
        if not (model and version):
            raise LookupError(model)

    async def get_version(self, ref: ModelRef) -> Version:
        return Version(id=ref.version)

    async def list_versions(self, model: ModelName) -> list[Version]:
        raise NotImplementedError(str(model))

    async def list_trainings(self, cursor: str | None = None) -> TrainingsPage:
        raise NotImplementedError(cursor)

    async def get_training(self, training_id: str) -> Training:
        raise NotImplementedError(training_id)

    async def create_prediction(
        self,
        ref: ModelRef,
        inputs: Mapping[str, JsonValue],
        cancel_after_seconds: int,
    ) -> Prediction:
        raise NotImplementedError(f"{ref} {inputs} {cancel_after_seconds}")

    async def list_predictions(self) -> list[Prediction]:
        raise NotImplementedError

    async def get_prediction(self, prediction_id: str) -> Prediction:
        raise NotImplementedError(prediction_id)

    async def fetch_output(self, url: str) -> bytes:
        raise NotImplementedError(url)


async def run(settings: ExtractorSettings, stopping: asyncio.Event) -> None:
    await consume(settings, stopping, InstantReplicate())


if __name__ == "__main__":
    sys.exit(main("extractor", ExtractorSettings, run))
