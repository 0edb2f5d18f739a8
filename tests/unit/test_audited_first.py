"""What another service is asked to change is in the audit before it is asked."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from services.ops.audit.first import noted_first
from services.ops.reconcile.api import reconciliation_router
from services.ops.reconcile.trainings import StateRefused
from services.ops.reconcile.views import RetryExtraction
from shared.contract.errors import DependencyDown
from shared.runtime.tokens import read_token

OLGA = read_token("operator/olga:a-token-of-hers").caller
ENTRY = ("olga", "training.retry_extraction", "training t1", "it was late")


class Told:
    """What the audit was told, and state was asked, in this order; the audit is away after *most* entries."""

    def __init__(self, *, most: int = 9, refuses: bool = False) -> None:
        self.heard: list[tuple[str, str | None]] = []
        self._left = most
        self._refuses = refuses

    async def audit(self, *entry: str, key: str | None = None, refused: str | None = None) -> None:
        if not self._left:
            raise DependencyDown("Postgres does not answer")
        self._left -= 1
        self.heard.append((entry[-1], key if refused is None else f"{key}, may be asked again: {refused}"))

    async def retry_extraction(self, training: str) -> None:
        self.heard.append((f"(retry {training})", None))
        if self._refuses:
            raise StateRefused("it has its model")


async def test_the_outcome_of_what_was_asked_is_noted_after_it():
    told = Told()

    async with noted_first(told.audit, ENTRY, "all", refusal=StateRefused, key="k") as note_outcome:
        await told.retry_extraction("t1")
        await note_outcome("7")

    assert told.heard == [("asked: all", "k"), ("(retry t1)", None), ("7", "k")]


async def test_a_refusal_is_noted_after_what_was_asked():
    told = Told(refuses=True)

    with pytest.raises(StateRefused):
        async with noted_first(told.audit, ENTRY, "all", refusal=StateRefused, key="k"):
            await told.retry_extraction("t1")

    assert told.heard == [
        ("asked: all", "k"),
        ("(retry t1)", None),
        ("refused: it has its model", "k, may be asked again: asked: all"),
    ]


def test_an_extraction_is_not_retried_for_a_blank_reason():
    with pytest.raises(ValidationError, match="must not be blank"):
        RetryExtraction(reason="  ")


async def test_an_extraction_is_not_retried_that_cannot_be_audited():
    told = Told(most=0)
    router = reconciliation_router(told, told, calls_per_minute=1)  # type: ignore[arg-type]
    retry = next(each.endpoint for each in router.routes if "retry" in each.path)  # type: ignore[attr-defined]

    with pytest.raises(DependencyDown):
        await retry("t1", RetryExtraction(reason="it was late"), OLGA)

    assert told.heard == []
