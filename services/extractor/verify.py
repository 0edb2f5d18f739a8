"""
Gate: verifies that a model works before it is swapped in. Three levels, each including those above it:

    exists    Replicate has this version of this model
    schema    a prompt is its only required input
    predict   one run of limited cost produces an image that is not one flat colour

Replicate answers alike for *not yet* and *never*: a version may be missing for a while after its training succeeded, a
model may boot for minutes. So only a model that is proven bad is refused for good; any other failure is retried.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Final, Literal, Protocol
from uuid import UUID

from pydantic import JsonValue

from services.extractor.errors import (
    DoesNotWork,
    Inconclusive,
    NeverBegan,
    NotThereYet,
    OutOfReach,
    PictureGone,
    StillRunning,
)
from services.extractor.memory import BAD_SECONDS, Failure, Memories, Memory
from services.extractor.picture import Flaw
from shared.contract.errors import DependencyDown, PermanentError
from shared.contract.identity import ModelRef
from shared.replicate.errors import BadAnswer, NoAnswer, NotThere
from shared.replicate.training import Prediction, TrainingStatus
from shared.replicate.version import InputSchema, Version

Level = Literal["exists", "schema", "predict"]
#: Reported instead of the last check if no run was started (`Gate.check_without_run`).
NOT_RUN: Final = "predict: not run"

_PROMPT: Final = "prompt"
_INPUT: Final[Mapping[str, JsonValue]] = {_PROMPT: "a landscape with hills and a lake, photo"}
#: Added to the input if the model has the field.
_CHEAP: Final[Mapping[str, JsonValue]] = {"num_outputs": 1}
_POLL_SECONDS: Final = 2.0
#: How long Replicate may take to list a new run and make it readable. Undocumented.
_LISTED_SECONDS: Final = 60.0
_FILTERED: Final = re.compile(r"nsfw|safety|sensitive|flagged", re.IGNORECASE)
#: Failures of Replicate, not of the model: interrupted runs, and machines that did not start (E6716).
_INTERRUPTED: Final = re.compile(r"interrupted|please retry|try again later|E6716", re.IGNORECASE)


class Models(Protocol):
    """The calls to Replicate's API."""

    async def get_version(self, ref: ModelRef) -> Version: ...

    async def create_prediction(
        self,
        ref: ModelRef,
        inputs: Mapping[str, JsonValue],
        cancel_after_seconds: int,
    ) -> Prediction: ...

    async def list_predictions(self) -> Sequence[Prediction]: ...

    async def get_prediction(self, prediction_id: str) -> Prediction: ...

    async def fetch_output(self, url: str) -> bytes: ...


#: Checks an image: returns its flaw, or None.
FindFlaw = Callable[[bytes], Awaitable[Flaw | None]]


class Policy(Protocol):
    """Settings: the level of verification, and its limits of time and cost."""

    @property
    def verify_level(self) -> Level: ...

    @property
    def verify_patience_seconds(self) -> float: ...

    @property
    def verify_cancel_after_seconds(self) -> int: ...


class Gate:
    """Verifies models, and remembers the results of their runs."""

    def __init__(
        self,
        replicate: Models,
        policy: Policy,
        *,
        find_flaw: FindFlaw,
        monotonic: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        on_answer: Callable[[], None] = lambda: None,
        most_remembered: int = 5_000,
    ) -> None:
        """*on_answer* is called after each answer while a run is awaited, so that it is known that Replicate is up."""
        self._replicate = replicate
        self._policy = policy
        self._find_flaw = find_flaw
        self._monotonic = monotonic
        self._sleep = sleep
        self._on_answer = on_answer
        self._memories = Memories(most_remembered)

    async def verify(self, ref: ModelRef, *, request_id: UUID | None = None) -> tuple[str, ...]:
        """
        Verify *ref*; return the checks it passed, in order.

        A run is paid for once and its result remembered: success for an hour, failure for ten minutes or until another
        *request_id* asks. A run started by another process, by this one before it was killed, or whose response was
        lost, is found in Replicate's list, which has it for an hour.

        Raises:
            NotThereYet: if Replicate does not have the version.
            Inconclusive: if the model is neither proven good nor bad.
            DoesNotWork: if the model is proven bad.

        """
        checks, schema = await self._check_version(ref)
        if schema is None:
            return checks
        await self._check_run(ref, schema, request_id)
        return (*checks, "predict")

    async def check_without_run(self, ref: ModelRef, *, request_id: UUID | None = None) -> tuple[str, ...]:
        """Verify *ref* without starting a run: use a remembered result, or report `NOT_RUN` if there is none."""
        checks, schema = await self._check_version(ref)
        if schema is None:
            return checks
        memory = self._memories.find(ref, self._monotonic())
        if memory is None:
            return (*checks, NOT_RUN)
        memory.raise_failure(self._monotonic(), request_id)
        return (*checks, "predict" if memory.works else NOT_RUN)

    async def _check_version(self, ref: ModelRef) -> tuple[tuple[str, ...], InputSchema | None]:
        """Run the free checks; return those passed, and the input schema if the level requires a run."""
        version = await self._get_version(ref)
        if self._policy.verify_level == "exists":
            return ("exists",), None
        schema = _check_schema(ref, version)
        return ("exists", "schema"), schema if self._policy.verify_level == "predict" else None

    async def _get_version(self, ref: ModelRef) -> Version:
        try:
            version = await self._replicate.get_version(ref)
        except NotThere as error:
            raise NotThereYet(str(error)) from error
        if version.id != ref.version:
            raise NotThereYet(f"{ref}: Replicate answers with another version, {version.id[:64]!r}")
        return version

    async def _check_run(self, ref: ModelRef, schema: InputSchema, request_id: UUID | None) -> None:
        memory = self._memories.get(ref, self._monotonic())
        async with memory.lock:
            if memory.works:
                return
            memory.raise_failure(self._monotonic(), request_id)
            if memory.prediction_id is None:
                known = {name: value for name, value in _CHEAP.items() if name in schema.fields}
                memory.prediction_id = await self._run(ref, {**_INPUT, **known}, memory, request_id)
            try:
                prediction = await self._wait_for(ref, memory.prediction_id, memory.run_since)
                await self._judge(ref, prediction)
            except (StillRunning, OutOfReach):
                raise
            except (Inconclusive, PermanentError) as error:
                memory.prediction_id = None
                if isinstance(error, PermanentError):
                    memory.failure = Failure(str(error), error.code, request_id, self._monotonic() + BAD_SECONDS)
                raise
            memory.works, memory.failure = True, None

    async def _run(
        self, ref: ModelRef, inputs: Mapping[str, JsonValue], memory: Memory, request_id: UUID | None
    ) -> str:
        """Return the id of a run of *ref* with these *inputs*: an earlier one if possible, else a new one."""
        earlier = None
        if not memory.knows_runs:
            # A new request wants a new run, unless one is underway.
            earlier = await self._find_run(ref, inputs, may_have_ended=request_id is None)
        # Until the response arrives, a run with an unknown id may exist.
        memory.knows_runs = False
        run_id = earlier or await self._start(ref, inputs, memory)
        memory.knows_runs, memory.run_since, memory.unanswered_since = True, self._monotonic(), None
        return run_id

    async def _start(self, ref: ModelRef, inputs: Mapping[str, JsonValue], memory: Memory) -> str:
        now, unanswered = self._monotonic(), memory.unanswered_since
        if unanswered is not None and now < unanswered + _LISTED_SECONDS:
            raise Inconclusive(f"{ref}: a run may be underway that Replicate does not list yet", code="run_not_listed")
        try:
            prediction = await self._replicate.create_prediction(ref, inputs, self._policy.verify_cancel_after_seconds)
        except NotThere as error:
            raise NotThereYet(str(error)) from error
        except (NoAnswer, BadAnswer):
            memory.unanswered_since = now
            raise
        return prediction.id

    async def _find_run(self, ref: ModelRef, inputs: Mapping[str, JsonValue], *, may_have_ended: bool) -> str | None:
        """Find a usable run in Replicate's list: one that still runs, or one that succeeded and still has its image."""
        try:
            runs = await self._replicate.list_predictions()
        except (BadAnswer, NotThere):
            return None  # costs one more run at most
        for run in runs:
            has_picture = run.status == TrainingStatus.SUCCEEDED and bool(run.output)
            is_useful = not run.has_ended or (may_have_ended and has_picture)
            if is_useful and run.version == ref.version and _has_inputs(run.input, inputs):
                return run.id
        return None

    async def _wait_for(self, ref: ModelRef, prediction_id: str, since: float) -> Prediction:
        """Wait for the end of a run. A new run may be unreadable for a while, so a 404 does not end the wait."""
        deadline = self._monotonic() + self._policy.verify_patience_seconds
        lost_at = since + self._policy.verify_cancel_after_seconds + _LISTED_SECONDS
        prediction: Prediction | None
        while True:
            try:
                prediction = await self._replicate.get_prediction(prediction_id)
            except NotThere as error:
                if self._monotonic() >= lost_at:
                    raise Inconclusive(f"{ref}: its run was lost ({error})") from error
                prediction = None
            self._on_answer()
            if prediction is not None and prediction.has_ended:
                return prediction
            if self._monotonic() >= deadline:
                status = "unreadable" if prediction is None else repr(prediction.status)
                raise StillRunning(f"{ref}: its run {prediction_id} is still {status}")
            await self._sleep(_POLL_SECONDS)

    async def _judge(self, ref: ModelRef, prediction: Prediction) -> None:
        _check_end(ref, prediction)
        match prediction.output:
            case str(url) | [str(url), *_] if url:
                pass
            case _:
                raise DoesNotWork(f"{ref}: its run {prediction.id} succeeded without a picture", code="no_image")
        try:
            picture = await self._replicate.fetch_output(url)
        except NotThere as error:
            raise PictureGone(f"{ref}: the picture of its run {prediction.id} is gone ({error})") from error
        except (BadAnswer, DependencyDown) as error:
            # The URL comes from the model's output. One that never responds must not pause the consumer for all.
            raise OutOfReach(f"{ref}: the picture of its run {prediction.id} is out of reach ({error})") from error
        if flaw := await self._find_flaw(picture):
            raise DoesNotWork(f"{ref}: its run {prediction.id} made an unusable picture: {flaw}", code=flaw)


def _has_inputs(found: Mapping[str, JsonValue], wanted: Mapping[str, JsonValue]) -> bool:
    """Return whether a run's input contains the *wanted* values; Replicate may have added defaults."""
    return all(found.get(name) == value for name, value in wanted.items())


def _check_schema(ref: ModelRef, version: Version) -> InputSchema:
    schema = version.input_schema
    if schema is None:
        raise Inconclusive(f"{ref}: Replicate does not say what it takes", code="no_schema")
    if not schema.takes_text(_PROMPT):
        raise DoesNotWork(f"{ref}: takes no prompt, but {', '.join(sorted(schema.fields))[:500]}", code="no_prompt")
    if missing := schema.required - _INPUT.keys():
        raise DoesNotWork(
            f"{ref}: needs more than a prompt: {', '.join(sorted(missing))[:500]}", code="needs_more_input"
        )
    return schema


def _check_end(ref: ModelRef, prediction: Prediction) -> None:
    if prediction.status == TrainingStatus.SUCCEEDED:
        return
    what = f"{ref}: its run {prediction.id} {prediction.status}: {prediction.error or 'no reason given'}"
    if prediction.status == TrainingStatus.ABORTED:
        raise NeverBegan(what)
    if prediction.status != TrainingStatus.FAILED:
        raise Inconclusive(what, code="run_cut_off")
    if _FILTERED.search(prediction.error or ""):
        raise Inconclusive(what, code="run_filtered")
    if _INTERRUPTED.search(prediction.error or ""):
        raise Inconclusive(what, code="run_interrupted")
    raise DoesNotWork(what, code="run_failed")
