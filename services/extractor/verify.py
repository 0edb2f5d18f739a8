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
from dataclasses import dataclass, field
from typing import Final, Literal, Protocol
from uuid import UUID

from pydantic import JsonValue

from services.extractor.picture import Flaw
from shared.contract.errors import DependencyDown, PermanentError, TransientError
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
#: Longer than the delay of a redelivery; Replicate itself deletes a run after an hour.
_REMEMBERED_SECONDS: Final = 3600.0
#: A version never changes, but what it depends on (weights, a machine) may be repaired, so a failure expires.
_BAD_SECONDS: Final = 600.0

_FILTERED: Final = re.compile(r"nsfw|safety|sensitive|flagged", re.IGNORECASE)
#: Failures of Replicate, not of the model: interrupted runs, and machines that did not start (E6716).
_UNLUCKY: Final = re.compile(r"interrupted|please retry|try again later|E6716", re.IGNORECASE)


class NotThereYet(TransientError):
    """Replicate does not have the version, which is normal right after a training."""

    code = "version_not_there_yet"


class Inconclusive(TransientError):
    """The model is neither proven good nor bad. Attempts are few, because each may cost a run."""

    code = "inconclusive"
    max_attempts = 6


class StillRunning(Inconclusive):
    """The run has not ended; it may be booting. The next attempt waits for the same run."""

    code = "still_running"


class OutOfReach(Inconclusive):
    """The run succeeded, but its image cannot be fetched now. The next attempt fetches it without a new run."""

    code = "picture_out_of_reach"


class DoesNotWork(PermanentError):
    """The model is proven bad."""

    code = "does_not_work"


class Models(Protocol):
    """The calls to Replicate's API."""

    async def get_version(self, ref: ModelRef) -> Version: ...

    async def create_prediction(
        self,
        ref: ModelRef,
        input: Mapping[str, JsonValue],  # noqa: A002 (Replicate's own word)
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


@dataclass(frozen=True, slots=True)
class _Failure:
    """A run that proved a model bad, and the request that started it."""

    # Not the error itself: its traceback keeps the image in memory.
    text: str
    code: str
    request_id: UUID | None
    until: float


@dataclass(slots=True)
class _Memory:
    """Known facts of a model's run, so that a redelivery or a replay does not pay for another run."""

    since: float
    prediction_id: str | None = None
    #: When the run was found or started. A 404 is ignored until it must have ended.
    run_since: float = 0.0
    #: When the response to a start was lost: a run may be underway that is not listed yet.
    unanswered_since: float | None = None
    #: Whether this process knows all runs of the model. If not, Replicate's list is read before starting one.
    knows_runs: bool = False
    works: bool = False
    failure: _Failure | None = None
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)

    def raise_failure(self, now: float, request_id: UUID | None) -> None:
        """Raise the remembered failure, unless it expired or another *request_id* asks for a new run."""
        failure = self.failure
        if failure and now < failure.until and request_id in (None, failure.request_id):
            raise DoesNotWork(f"{failure.text} (seen before, not run again)", code=failure.code)


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
        most_remembered: int = 5_000,
    ) -> None:
        self._replicate = replicate
        self._policy = policy
        self._find_flaw = find_flaw
        self._monotonic = monotonic
        self._sleep = sleep
        self._most_remembered = most_remembered
        self._memories: dict[ModelRef, _Memory] = {}

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
        self._forget()
        memory = self._memories.get(ref)
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
        memory = self._recall(ref)
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
                    memory.failure = _Failure(str(error), error.code, request_id, self._monotonic() + _BAD_SECONDS)
                raise
            memory.works, memory.failure = True, None

    def _recall(self, ref: ModelRef) -> _Memory:
        self._forget()
        return self._memories.setdefault(ref, _Memory(since=self._monotonic()))

    def _forget(self) -> None:
        """Drop expired and surplus memories, oldest first; each costs at most one more run."""
        now = self._monotonic()
        while self._memories:
            oldest = next(iter(self._memories))
            if (
                len(self._memories) <= self._most_remembered
                and now < self._memories[oldest].since + _REMEMBERED_SECONDS
            ):
                break
            del self._memories[oldest]

    async def _run(
        self, ref: ModelRef, question: Mapping[str, JsonValue], memory: _Memory, request_id: UUID | None
    ) -> str:
        """Return the id of a run of *ref* with the input *question*: an earlier one if possible, else a new one."""
        earlier = None
        if not memory.knows_runs:
            # A new request wants a new run, unless one is underway.
            earlier = await self._find_run(ref, question, may_have_ended=request_id is None)
        # Until the response arrives, a run with an unknown id may exist.
        memory.knows_runs = False
        run_id = earlier or await self._start(ref, question, memory)
        memory.knows_runs, memory.run_since, memory.unanswered_since = True, self._monotonic(), None
        return run_id

    async def _start(self, ref: ModelRef, question: Mapping[str, JsonValue], memory: _Memory) -> str:
        now, unanswered = self._monotonic(), memory.unanswered_since
        if unanswered is not None and now < unanswered + _LISTED_SECONDS:
            raise Inconclusive(f"{ref}: a run may be underway that Replicate does not list yet", code="run_not_listed")
        try:
            prediction = await self._replicate.create_prediction(
                ref, question, self._policy.verify_cancel_after_seconds
            )
        except NotThere as error:
            raise NotThereYet(str(error)) from error
        except (NoAnswer, BadAnswer):
            memory.unanswered_since = now
            raise
        return prediction.id

    async def _find_run(self, ref: ModelRef, question: Mapping[str, JsonValue], *, may_have_ended: bool) -> str | None:
        """Find a usable run in Replicate's list: one that still runs, or one that succeeded and still has its image."""
        try:
            runs = await self._replicate.list_predictions()
        except (BadAnswer, NotThere):
            return None  # costs one more run at most
        for run in runs:
            has_picture = run.status == TrainingStatus.SUCCEEDED and bool(run.output)
            is_useful = not run.has_ended or (may_have_ended and has_picture)
            if is_useful and run.version == ref.version and _is_asked(question, run.input):
                return run.id
        return None

    async def _wait_for(self, ref: ModelRef, prediction_id: str, since: float) -> Prediction:
        """Wait for the end of a run. A new run may be unreadable for a while, so a 404 does not end the wait."""
        deadline = self._monotonic() + self._policy.verify_patience_seconds
        over = since + self._policy.verify_cancel_after_seconds + _LISTED_SECONDS
        while True:
            try:
                prediction = await self._replicate.get_prediction(prediction_id)
            except NotThere as error:
                if self._monotonic() >= over:
                    raise Inconclusive(f"{ref}: its run was lost ({error})") from error
                status = "not to be read"
            else:
                if prediction.has_ended:
                    return prediction
                status = repr(prediction.status)
            if self._monotonic() >= deadline:
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
            raise Inconclusive(f"{ref}: the picture of its run {prediction.id} is gone ({error})") from error
        except (BadAnswer, DependencyDown) as error:
            # The URL comes from the model's output. One that never responds must not pause the consumer for all.
            raise OutOfReach(f"{ref}: the picture of its run {prediction.id} is out of reach ({error})") from error
        if flaw := await self._find_flaw(picture):
            raise DoesNotWork(f"{ref}: its run {prediction.id} drew nothing: {flaw}", code=flaw)


def _is_asked(question: Mapping[str, JsonValue], by: Mapping[str, JsonValue]) -> bool:
    """Return whether a run's input contains *question*; Replicate may have added defaults."""
    return all(by.get(name) == value for name, value in question.items())


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
    if prediction.status != TrainingStatus.FAILED:
        raise Inconclusive(what, code="run_cut_off")
    if _FILTERED.search(prediction.error or ""):
        raise Inconclusive(what, code="run_filtered")
    if _UNLUCKY.search(prediction.error or ""):
        raise Inconclusive(what, code="run_interrupted")
    raise DoesNotWork(what, code="run_failed")
