"""Requests and answers of the API of the audit. Pure."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import datetime
from typing import TypeAlias

from pydantic import BaseModel

from services.ops.letters.views import Name, Request
from shared.contract.answers import Moment

#: Adds an entry to the audit: actor, action, target, reason, outcome.
Audit: TypeAlias = Callable[[str, str, str, str, str], Awaitable[None]]


class AuditView(BaseModel):
    """Who did what, why, and with which outcome."""

    number: int
    at: datetime
    actor: str
    action: str
    target: str
    reason: str
    outcome: str


class AuditFilter(Request):
    """Which entries of the audit."""

    actor: Name | None = None
    action: Name | None = None
    target: Name | None = None
    #: At this time or later.
    since: Moment | None = None
    #: Before this time.
    until: Moment | None = None
    #: Words, or beginnings of words, in what it was done to, in the reason and in the outcome.
    text: Name | None = None
