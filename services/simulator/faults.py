"""
Faults that can be injected. Pure: the one list of all faults.

`Faults` are those of one training; each field is a fault, its default means no fault. Seconds are simulated ones.
`ApiFault` is that of one API call; its seconds are real ones, because the caller's timeout counts in real time.

Order them by name: ``POST /_simulator/faults``, ``POST /_simulator/api-faults``.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from string import Template
from typing import Annotated, Final

from pydantic import BaseModel, ConfigDict, Field, JsonValue, StringConstraints

from services.simulator.job import Status


class WebhookEvent(StrEnum):
    """The events of the webhooks of a training or a prediction."""

    START = "start"  #: It started.
    OUTPUT = "output"  #: It has an output, but has not ended.
    LOGS = "logs"  #: It wrote to its log.
    COMPLETED = "completed"  #: It ended. The only webhook that is retried.


class Behaviour(StrEnum):
    """The behaviour of a version's predictions."""

    WORKS = "works"  #: An image.
    NEVER_STARTS = "never_starts"  #: It stays at starting, until its deadline if it has one.
    WEIGHTS_GONE = "weights_gone"  #: The same, with an error in its logs about missing weights.
    FAILS = "fails"  #: An error.
    UNSAFE = "unsafe"  #: Replicate's safety checker refuses the image.
    BLANK = "blank"  #: An image of one colour.


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Faults(_Frozen):
    """The faults of one training, its webhooks, its version and that version's predictions."""

    outcome: Status = Field(
        Status.SUCCEEDED,
        description="How it ends. Whether Replicate tells of an aborted one is not known: combine with drop.",
        examples=[Status.FAILED, Status.CANCELED, Status.ABORTED],
    )
    error: str = Field(
        "CUDA out of memory. Tried to allocate 20.00 MiB",
        description="The reason of a failed one.",
        examples=["Failed to create trained image after successful training run."],
    )
    duration_seconds: float | None = Field(
        None, gt=0, description="How long it runs, instead of as long as all.", examples=[3600]
    )
    huge_logs: int = Field(0, ge=0, description="Its logs have at least this many bytes.", examples=[230_000])
    output: JsonValue = Field(
        None,
        description="Its output is this JSON, null included. "
        "$version, $destination and $weights in it stand for what it would have been.",
        examples=[None, "$destination:$version", {"version": {"id": "$version"}}, {"weights": "$weights"}],
    )
    data_removed: bool = Field(
        False, description="Once it ended, GET shows it without input, output and logs.", examples=[True]
    )

    drop: frozenset[WebhookEvent] = Field(
        frozenset(), description="These webhooks are never posted.", examples=[list(WebhookEvent), ["completed"]]
    )
    duplicate: int = Field(0, ge=0, description="Every webhook is posted this many more times.", examples=[1, 3])
    reorder: bool = Field(
        False,
        description="Nothing is heard until the terminal webhook, which overtakes start, output and the last logs.",
        examples=[True],
    )
    late_seconds: float = Field(
        0, ge=0, description="The terminal webhook comes this long after the end.", examples=[60]
    )
    late_logs_seconds: float = Field(
        0, ge=0, description="One more logs webhook comes this long after the terminal one.", examples=[5]
    )
    bad_signature: bool = Field(False, description="Webhooks are signed with another secret.", examples=[True])
    old_timestamp_seconds: int = Field(
        0, ge=0, description="Webhooks were signed this long ago, correctly.", examples=[3600]
    )

    foreign_version: bool = Field(
        False, description="The version that it makes belongs to somebody else's model.", examples=[True]
    )
    version_late_seconds: float = Field(
        0, ge=0, description="The version is not there until this long after the end.", examples=[30]
    )
    version_late_calls: int = Field(
        0, ge=0, description="The version is not there for this many calls that ask for it.", examples=[3]
    )
    no_prompt: bool = Field(False, description="The version's input schema has no prompt.", examples=[True])
    prediction: Behaviour = Field(
        Behaviour.WORKS,
        description="What the predictions of its version do.",
        examples=[each for each in Behaviour if each is not Behaviour.WORKS],
    )

    def with_orders(self, more: Faults) -> Faults:
        """Merge these faults with *more*, which takes precedence."""
        return self.model_copy(update={name: getattr(more, name) for name in more.model_fields_set})

    @property
    def overrides_output(self) -> bool:
        """Whether an output was ordered; null is a valid order, so the value alone does not tell."""
        return "output" in self.model_fields_set


class FaultOrder(Faults):
    """
    Faults for certain trainings.

    With *training_id* they apply to that running training from now on, and an outcome ends it at once. Otherwise they
    apply to the *next* trainings that are created, of *destination* if given.
    """

    training_id: str | None = None
    destination: str | None = None
    next: int = Field(1, ge=1)

    @property
    def faults(self) -> Faults:
        return Faults(**{n: getattr(self, n) for n in self.model_fields_set if n in Faults.model_fields})


class ApiFault(_Frozen):
    """The fault of one API call."""

    status: Annotated[int, Field(ge=400, le=599)] | None = Field(
        None, description="It is answered with this status, and nothing is done."
    )
    takes_effect: bool = Field(
        False, description="It is done nevertheless: only the answer is lost. What a timeout looks like from outside."
    )
    retry_after_header: str | None = Field(None, description="The answer's Retry-After: seconds, or an HTTP date.")
    retry_after_body: int | None = Field(None, description="The answer's retry_after.")
    delay_seconds: float = Field(0, ge=0, description="The answer takes this long.")


class ApiFaultOrder(ApiFault):
    """A fault for the *next* calls of a *route* (its name in `ReplicateApi.routes`), or of all routes."""

    route: Annotated[str, StringConstraints(min_length=1)] = "*"
    next: int = Field(1, ge=1)


#: Examples of faults of API calls.
API_FAULTS: Final[Mapping[str, ApiFault]] = {
    "api_throttled": ApiFault(status=429, retry_after_header="1", retry_after_body=1),
    "api_unavailable": ApiFault(status=503),
    "api_answer_lost": ApiFault(status=502, takes_effect=True),
    "api_slow": ApiFault(delay_seconds=2),
}


def table() -> Mapping[str, Mapping[str, object]]:
    """Return every fault with its description and examples."""
    return {
        name: {"description": field.description, "examples": field.examples}
        for name, field in Faults.model_fields.items()
    } | {
        name: {"description": "A call of the API.", "examples": [fault.model_dump(exclude_defaults=True)]}
        for name, fault in API_FAULTS.items()
    }


def filled(output: JsonValue, values: Mapping[str, str]) -> JsonValue:
    """Replace the placeholders in *output*, at any depth."""
    match output:
        case str():
            return Template(output).safe_substitute(values)
        case list():
            return [filled(each, values) for each in output]
        case dict():
            return {name: filled(each, values) for name, each in output.items()}
    return output
