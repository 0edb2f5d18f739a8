"""Replicate in memory: what the extractor asks of it, answered as told. It passes the same suite as the real client."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from io import BytesIO
from typing import TypeVar

from PIL import Image
from pydantic import JsonValue

from services.extractor.picture import Flaw, find_flaw
from services.extractor.verify import Level
from shared.contract.identity import ModelName, ModelRef
from shared.replicate.answers import TrainingsPage
from shared.replicate.errors import NotThere
from shared.replicate.training import Prediction, Training
from shared.replicate.version import Version

_Any = TypeVar("_Any")

PROMPT_ONLY: Mapping[str, JsonValue] = {"properties": {"prompt": {"type": "string"}}, "required": ["prompt"]}


def version_of(ref: ModelRef, input_schema: Mapping[str, JsonValue] | None = PROMPT_ONLY) -> Version:
    """The version that *ref* names; with None, one that does not say what it takes."""
    schema = {"components": {"schemas": {"Input": input_schema}}} if input_schema else None
    return Version(id=ref.version, openapi_schema=schema)


def picture(kind: str = "PNG", *, blank: bool = False, size: tuple[int, int] = (48, 32)) -> bytes:
    """A gradient, or one flat colour."""
    image = Image.new("RGB", size, "navy") if blank else Image.linear_gradient("L").resize(size).convert("RGB")
    file = BytesIO()
    image.save(file, kind)
    return file.getvalue()


async def look(data: bytes) -> Flaw | None:
    """Say what is wrong with a picture, without a process of its own."""
    return find_flaw(data)


@dataclass(frozen=True)
class Policy:
    """Settings of the verification."""

    verify_level: Level = "predict"
    verify_patience_seconds: float = 60
    verify_cancel_after_seconds: int = 300


@dataclass
class FakeReplicate:
    """Everything starts empty; what is put in is there."""

    trainings: dict[str, Training] = field(default_factory=dict)
    versions: dict[ModelRef, Version] = field(default_factory=dict)
    files: dict[str, bytes] = field(default_factory=dict)
    #: What each run says, one after the other; the last one over and over.
    runs: dict[str, list[Prediction]] = field(default_factory=dict)
    #: The inputs of all runs, in order.
    inputs: list[Mapping[str, JsonValue]] = field(default_factory=list)
    #: Raised by the next call.
    next_error: Exception | None = None
    #: What the next runs say, for those that are not said otherwise.
    will_say: Sequence[Mapping[str, JsonValue]] = (
        {"status": "starting"},
        {"status": "succeeded", "output": ["https://replicate.delivery/out-0.png"]},
    )

    def add_training(self, training_id: str, **fields: JsonValue) -> None:
        self.trainings[training_id] = Training.model_validate({"id": training_id, "status": "succeeded", **fields})

    def add_version(self, ref: ModelRef, input_schema: Mapping[str, JsonValue] | None = PROMPT_ONLY) -> None:
        self.versions[ref] = version_of(ref, input_schema)
        self.files.setdefault("https://replicate.delivery/out-0.png", picture())

    async def get_training(self, training_id: str) -> Training:
        self._fail_if_told()
        return _there(self.trainings.get(training_id), f"get training {training_id}")

    async def list_trainings(self, cursor: str | None = None) -> TrainingsPage:  # noqa: ARG002
        self._fail_if_told()
        return TrainingsPage(tuple(reversed(self.trainings.values())), None)

    async def list_versions(self, model: ModelName) -> list[Version]:
        self._fail_if_told()
        versions = [version for ref, version in self.versions.items() if ref.model == model]
        return _there(versions or None, f"list versions of {model}")

    async def get_version(self, ref: ModelRef) -> Version:
        self._fail_if_told()
        return _there(self.versions.get(ref), f"get version {ref}")

    async def create_prediction(
        self,
        ref: ModelRef,
        inputs: Mapping[str, JsonValue],
        cancel_after_seconds: int,  # noqa: ARG002
    ) -> Prediction:
        self._fail_if_told()
        _there(self.versions.get(ref), f"run {ref}")
        self.inputs.append(inputs)
        run = {"id": f"run{len(self.inputs)}", "version": ref.version, "input": inputs}
        self.runs[f"run{len(self.inputs)}"] = [Prediction.model_validate({**run, **said}) for said in self.will_say]
        return self.runs[f"run{len(self.inputs)}"][0]

    async def list_predictions(self) -> list[Prediction]:
        self._fail_if_told()
        return [said[0] for said in reversed(self.runs.values())]

    async def get_prediction(self, prediction_id: str) -> Prediction:
        self._fail_if_told()
        said = _there(self.runs.get(prediction_id), f"get run {prediction_id}")
        return said.pop(0) if len(said) > 1 else said[0]

    async def fetch_output(self, url: str) -> bytes:
        self._fail_if_told()
        return _there(self.files.get(url), "fetch an output")

    def _fail_if_told(self) -> None:
        error, self.next_error = self.next_error, None
        if error:
            raise error


def _there(value: _Any | None, what: str) -> _Any:
    if value is None:
        raise NotThere(f"{what}: 404")
    return value
