"""Progress messages and errors of private servers."""

from __future__ import annotations

from collections.abc import Callable

#: Prints a line for a person.
Say = Callable[[str], object]


class LocalServersError(RuntimeError):
    """A private server could not be started; the text says why and what to do."""


class Unavailable(LocalServersError):
    """This machine has no such server and cannot fetch one; the text says what was tried and how to install one."""
