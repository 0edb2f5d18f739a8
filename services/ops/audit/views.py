"""Requests and answers of the API of the audit. Pure."""

from __future__ import annotations

from datetime import datetime
from typing import Protocol

from pydantic import BaseModel

from services.ops.requests import Name, Request, Until
from shared.contract.answers import Moment


class Audit(Protocol):
    """
    Adds an entry to the audit; with the *key* of a request, the same entry only once, however often it is sent.

    *refused* is the outcome of the entry that this one says the refusal of: it may be added again.
    """

    async def __call__(
        self,
        actor: str,
        action: str,
        target: str,
        reason: str,
        outcome: str,
        /,
        *,
        key: str | None = None,
        refused: str | None = None,
    ) -> None: ...


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
    until: Until = None
    #: Words, or beginnings of words, in what it was done to, in the reason and in the outcome.
    text: Name | None = None
