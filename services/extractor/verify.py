"""
Does the model that was found work? The gate before a swap, in three levels of which each includes those above it.

    exists    Replicate has this version of this model
    schema    a prompt is all it needs
    predict   it is run once, with an end to its cost, and draws a picture that is not one flat colour

*Not yet* and *never* look alike at Replicate: a version may be missing for a while after its training succeeded, a
model may boot for minutes. So only what is proven bad is refused for good; whatever else goes wrong is tried again.
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
#: Stands for the last check where no run was started (`Gate.check_without_run`).
NOT_RUN: Final = "predict: not run"

_PROMPT: Final = "prompt"
_INPUT: Final[Mapping[str, JsonValue]] = {_PROMPT: "a landscape with hills and a lake, photo"}
#: Sent along where the model knows it.
_CHEAP: Final[Mapping[str, JsonValue]] = {"num_outputs": 1}
_POLL_SECONDS: Final = 2.0
#: How long Replicate may take until a new run is in its list and can be read. Nothing is documented.
_LISTED_SECONDS: Final = 60.0
#: Longer than a delivery takes to come back; Replicate itself forgets a run after an hour.
_REMEMBERED_SECONDS: Final = 3600.0
#: A version never changes, but what it needs may come back (weights, a machine): whoever mended that waits no longer.
_BAD_SECONDS: Final = 600.0
_MOST_REMEMBERED: Final = 5_000

_FILTERED: Final = re.compile(r"nsfw|safety|sensitive|flagged", re.IGNORECASE)
#: Replicate's own trouble: interrupted runs, and machines that did not start (E6716).
_UNLUCKY: Final = re.compile(r"interrupted|please retry|try again later|E6716", re.IGNORECASE)


class NotThereYet(TransientError):  # noqa: N818 (it is what was seen, and reads as one)
    """Replicate does not know the version. Right after a training that is normal."""

    code = "version_not_there_yet"


class Inconclusive(TransientError):  # noqa: N818 (likewise)
    """Neither proven good nor proven bad. Every further attempt may cost a run, so there are few."""

    code = "inconclusive"
    max_attempts = 6


class StillRunning(Inconclusive):
    """It may be booting. The next attempt goes on waiting for the same run."""

    code = "still_running"


class OutOfReach(Inconclusive):
    """Its run ended well, but the picture can not be fetched now. The next attempt fetches it, and pays for no run."""

    code = "picture_out_of_reach"


class DoesNotWork(PermanentError):  # noqa: N818 (likewise)
    """The model is proven bad."""

    code = "does_not_work"


class Models(Protocol):
    """What is asked of Replicate."""

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


#: Says what keeps bytes from being a picture of something, if anything does.
FindFlaw = Callable[[bytes], Awaitable[Flaw | None]]


class Policy(Protocol):
    """What a model must show, and how much time and money that may take."""

    @property
    def verify_level(self) -> Level: ...

    @property
    def verify_patience_seconds(self) -> float: ...

    @property
    def verify_cancel_after_seconds(self) -> int: ...


@dataclass(frozen=True, slots=True)
class _Failure:
    """A run that proved a model bad, and who had asked for it."""

    # Not the error itself: that holds its frames, and a picture in them.
    text: str
    code: str
    request_id: UUID | None
    until: float


@dataclass(slots=True)
class _Memory:
    """What is known of a model's run, so that a redelivery or a replay does not pay for another."""

    since: float
    prediction_id: str | None = None
    #: When the run was found or paid for. Until its time is over, that Replicate can not read it means nothing.
    run_since: float = 0.0
    #: When the answer to a new run was lost: one may be underway that no list shows yet.
    unanswered_since: float | None = None
    #: Does this process know of all its runs? Else Replicate's list is looked at before another one is paid for.
    knows_runs: bool = False
    works: bool = False
    failure: _Failure | None = None
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)

    def raise_failure(self, now: float, request_id: UUID | None) -> None:
        """Say again why the model does not work, unless that is long ago or somebody new wants it tried again."""
        failure = self.failure
        if failure and now < failure.until and request_id in (None, failure.request_id):
            raise DoesNotWork(f"{failure.text} (seen before, not run again)", code=failure.code)


class Gate:
    """Lets models pass that work."""

    def __init__(
        self,
        replicate: Models,
        policy: Policy,
        *,
        find_flaw: FindFlaw,
        monotonic: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._replicate = replicate
        self._policy = policy
        self._find_flaw = find_flaw
        self._monotonic = monotonic
        self._sleep = sleep
        self._memories: dict[ModelRef, _Memory] = {}

    async def verify(self, ref: ModelRef, *, request_id: UUID | None = None) -> tuple[str, ...]:
        """
        The checks that *ref* passed, in order.

        A run is paid for once. What it proved is remembered: that a model works for an hour, that it does not for ten
        minutes, or until somebody asks with a *request_id* of their own. A run that another process paid for, or this
        one before it was killed, or whose answer was lost, is found in Replicate's list, which has it for an hour.

        Raises:
            NotThereYet: if Replicate does not know it.
            Inconclusive: if it could not be found out.
            DoesNotWork: if it is proven bad.

        """
        checks, schema = await self._check_version(ref)
        if schema is None:
            return checks
        await self._check_run(ref, schema, request_id)
        return (*checks, "predict")

    async def check_without_run(self, ref: ModelRef, *, request_id: UUID | None = None) -> tuple[str, ...]:
        """As `verify`, but no run is paid for: what one proved before counts, and where none did, that is said."""
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
        """The checks that cost nothing; and what *ref* takes, if it is to be run as well."""
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
        """The oldest first, which costs at most one more run of each."""
        now = self._monotonic()
        while self._memories:
            oldest = next(iter(self._memories))
            if len(self._memories) <= _MOST_REMEMBERED and now < self._memories[oldest].since + _REMEMBERED_SECONDS:
                break
            del self._memories[oldest]

    async def _run(
        self, ref: ModelRef, question: Mapping[str, JsonValue], memory: _Memory, request_id: UUID | None
    ) -> str:
        """The id of a run of *ref* with that *question*: one that was paid for already, or a new one."""
        earlier = None
        if not memory.knows_runs:
            # Whoever asks anew wants a new one, unless theirs is underway.
            earlier = await self._find_run(ref, question, may_have_ended=request_id is None)
        # Until an answer comes, one may run whose id is not known.
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
        """What did not succeed is not worth another look; of what did, the picture may be deleted by now."""
        try:
            runs = await self._replicate.list_predictions()
        except (BadAnswer, NotThere):
            return None  # it costs one more run at the most
        for run in runs:
            has_picture = run.status == TrainingStatus.SUCCEEDED and bool(run.output)
            is_useful = not run.has_ended or (may_have_ended and has_picture)
            if is_useful and run.version == ref.version and _is_asked(question, run.input):
                return run.id
        return None

    async def _wait_for(self, ref: ModelRef, prediction_id: str, since: float) -> Prediction:
        """Wait for the end of a run. It may be readable only a while after it was paid for, so 404 ends no wait."""
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
            # The model said where its picture is. An address that never answers holds up nobody else's model.
            raise OutOfReach(f"{ref}: the picture of its run {prediction.id} is out of reach ({error})") from error
        if flaw := await self._find_flaw(picture):
            raise DoesNotWork(f"{ref}: its run {prediction.id} drew nothing: {flaw}", code=flaw)


def _is_asked(question: Mapping[str, JsonValue], by: Mapping[str, JsonValue]) -> bool:
    """Replicate may have added what else the model takes."""
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
