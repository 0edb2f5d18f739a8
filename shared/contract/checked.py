"""Validators that also state their rule in the type's JSON schema. Pure."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Final

from pydantic import AfterValidator, GetCoreSchemaHandler, GetJsonSchemaHandler, StringConstraints
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, core_schema

from shared.contract.text import printable, storable


class Checked:
    """Type annotation: a validator, and the JSON Schema keywords that state the same rule."""

    def __init__(self, check: Callable[..., object], **keywords: object) -> None:
        self._check = check
        self._keywords = keywords

    def __get_pydantic_core_schema__(self, source: object, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_after_validator_function(self._check, handler(source))

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        return {**handler(schema), **self._keywords}


def _said(text: str) -> str:
    said = printable(text).strip()
    if not said:
        raise ValueError("must not be blank")
    return said


#: No control characters. `str.isprintable` refuses a few more, such as other spaces; but classes like ``\p{L}`` are
#: unknown to Python's `re`, so validators refuse a whole document for them.
PRINTABLE_PATTERN: Final = r"^[^\x00-\x1f\x7f-\x9f]*$"
#: Restricts a text type to printable characters.
PRINTABLE: Final = Checked(printable, pattern=PRINTABLE_PATTERN)
#: Why something is changed: a text that is not blank, without blanks around it.
Reason = Annotated[
    str,
    StringConstraints(min_length=1, max_length=1000),
    Checked(_said, pattern=r"^ *[^ \x00-\x1f\x7f-\x9f][^\x00-\x1f\x7f-\x9f]*$"),
]
#: Restricts JSON to what can be sent and stored.
STORABLE: Final = AfterValidator(storable)
