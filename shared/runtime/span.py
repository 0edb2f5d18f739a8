"""A span, as the code around it sees it: a piece of work in a trace. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from enum import StrEnum
from types import MappingProxyType
from typing import Final, Self, TypeAlias

Attributes: TypeAlias = Mapping[str, str | int]
#: A trace context as message headers.
Context: TypeAlias = Mapping[str, str]

_NOTHING: Final = nullcontext()
_FAILED: Final = 500


class Kind(StrEnum):
    """OpenTelemetry's kinds of spans."""

    SERVER = "SERVER"
    CLIENT = "CLIENT"
    PRODUCER = "PRODUCER"
    CONSUMER = "CONSUMER"
    INTERNAL = "INTERNAL"


class Span:
    """
    One piece of work; this base class records nothing.

    As a context manager it is the current span of the block, fails with the block's error, and ends with it.
    """

    #: Its trace context; empty if tracing is off.
    context: Context = MappingProxyType({})

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, frames: object) -> None:
        pass

    def at_work(self) -> AbstractContextManager[object]:
        """Make it the current span of a block, without ending it."""
        return _NOTHING

    def rename(self, name: str) -> None:
        """Name it anew, once more is known than at its start."""

    def set(self, name: str, value: str | int) -> None:
        """Set an attribute."""

    def link(self, other: Context) -> None:
        """Refer to a span that is no parent."""

    def fail(self, error: str) -> None:
        """Mark it as failed, with a code of low cardinality."""

    def answered(self, status: int) -> None:
        """Set the status of the HTTP response; those of our own failures mark it as failed."""
        self.set("http.response.status_code", status)
        if status >= _FAILED:
            self.fail(str(status))

    def end(self) -> None:
        """End it, unless it has ended."""


NO_SPAN: Final = Span()
