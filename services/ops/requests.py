"""What requests to ops' API have in common: names, numbers, and the reason of a change. Pure."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, JsonValue, StringConstraints, ValidationInfo

from shared.contract.answers import NUMBER, Moment
from shared.contract.checked import PRINTABLE, Reason

Name = Annotated[str, StringConstraints(min_length=1, max_length=200), PRINTABLE]


def _after_since(until: Moment | None, info: ValidationInfo) -> Moment | None:
    since = info.data.get("since")
    if until is not None and since is not None and until < since:
        raise ValueError("must not be before `since`")
    return until


#: The end of a span whose begin is the field `since`, which stands before it.
Until = Annotated[Moment | None, AfterValidator(_after_since)]
#: JSON has no larger whole numbers that all readers agree on.
Number = Annotated[int, Field(ge=1, lt=2**53), NUMBER]


class Request(BaseModel):
    """Base of what is sent to the API: an unknown field is refused."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Reasoned(Request):
    """Base of a request that changes something."""

    #: Why. It is kept in the audit.
    reason: Reason


class Because(Request):
    """Why something is changed. It is audited."""

    reason: Annotated[str, Field(max_length=1000), PRINTABLE] = ""


def fields(*names: str) -> list[JsonValue]:
    """Return, for each name, the JSON Schema of an object that has this field: options for anyOf and oneOf."""
    return [{"properties": {name: {"not": {"type": "null"}}}, "required": [name]} for name in names]
