"""What would today's parser make of what is past? Fetched from the APIs, read on this machine; nothing is changed."""

from __future__ import annotations

import asyncio
from base64 import b64decode
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict
from datetime import datetime
from typing import Final

from services.cli.backtest.verdicts import Group, Judged, Past, Verdict, grouped, judge
from services.cli.choices import Format
from services.cli.client import NotThere, Product
from services.cli.operators.replays import operators
from services.cli.output import print_json
from services.cli.problem import Problem
from services.cli.product.trainings import product
from services.cli.table import Column, print_table, tell_if_cut
from services.ops.letters.views import LetterView
from services.state.transitions import Stage
from services.state.views import OutputView
from shared.contract.envelope import decode
from shared.contract.errors import Malformed
from shared.contract.events import ExtractionRequested, TrainingSucceeded
from shared.contract.topology import EXTRACTOR_QUEUE

_AT_ONCE: Final = 8
_WHAT: Final[Sequence[Column[Judged]]] = (
    Column("today", lambda each: each.verdict, 1),
    Column("why", lambda each: each.detail or each.code, 2, is_prose=True),
    Column("model today", lambda each: each.model, 3),
    Column("user", lambda each: each.past.user_id, 5),
)
_TRAINING: Final[Column[Judged]] = Column("training", lambda each: each.past.training_id)
TRAININGS: Final[Sequence[Column[Judged]]] = (
    _TRAINING,
    *_WHAT,
    Column("model then", lambda each: each.past.model, 4),
)
LETTERS: Final[Sequence[Column[Judged]]] = (Column("letter", lambda each: each.past.letter), _TRAINING, *_WHAT)
GROUPS: Final[Sequence[Column[Group]]] = (
    Column("today", lambda each: each.verdict),
    Column("shape or error", lambda each: each.code, 2),
    Column("how many", lambda each: each.count, 1),
    Column("such as", lambda each: each.example),
)
LOOKED_AGAIN: Final[Sequence[Column[tuple[str, str]]]] = (
    Column("training", lambda each: each[0]),
    Column("outcome", lambda each: each[1], is_prose=True),
)


async def try_letters(since: datetime, *, limit: int, output: Format) -> None:
    """Say of the extractor's dead letters which model each would give now."""
    async with operators() as ops, product() as api:
        chosen = {"queue": EXTRACTOR_QUEUE, "since": since.isoformat()}
        lines = await ops.list_dead_letters(chosen, limit=limit)
        slots = asyncio.Semaphore(_AT_ONCE)

        async def one(number: int) -> Judged:
            async with slots:
                return await _judged(await ops.get_dead_letter(number), api)

        judged = await asyncio.gather(*(one(line.number) for line in lines))
    print_judged(judged, output, empty="the extractor has no dead letters since then", what="letters", limit=limit)


async def re_extract(since: datetime, *, limit: int, output: Format) -> None:
    """Say of past outputs what today's parser would make of them."""
    async with product() as api:
        found = await api.list_outputs(since=since, limit=limit)
    judged = [judge(_past(each)) for each in found]
    print_judged(judged, output, empty="no training since then has an output", what="trainings", limit=limit)


async def found_by_now(since: datetime, *, limit: int) -> list[str]:
    """The trainings without a usable model of which today's parser finds one, or can ask for it."""
    async with product() as api:
        found = await api.list_outputs(since=since, limit=limit)
    unverified = (judge(_past(each)) for each in found if each.stage is Stage.UNVERIFIED)
    return [each.past.training_id for each in unverified if each.verdict in (Verdict.FOUND, Verdict.ASKS)]


async def look_again(training_ids: Sequence[str], reason: str) -> list[tuple[str, str]]:
    """Have each looked for again, in the name of whose token it is; those that were refused, and why."""
    refused = []
    async with operators() as ops:
        for training_id in training_ids:
            try:
                await ops.look_again(training_id, reason)
            except Problem as error:
                refused.append((training_id, str(error)))
    return refused


def print_looked_again(training_ids: Sequence[str], refused: Sequence[tuple[str, str]], output: Format) -> None:
    """Say at which trainings is looked again, and which were refused."""
    why = dict(refused)
    asked = [each for each in training_ids if each not in why]
    if output is Format.JSON:
        print_json({"asked": asked, "refused": why})
        return
    rows = [*((each, "is looked at again") for each in asked), *why.items()]
    print_table(rows, LOOKED_AGAIN, output, empty="no unverified training since then gives a model now")


async def _judged(letter: LetterView, api: Product) -> Judged:
    try:
        event = decode(letter.headers, letter.content_type, b64decode(letter.body_base64)).event
    except Malformed as error:
        past = Past(letter.training_id or "", letter.user_id, None, None, None, None, letter=letter.number)
        return Judged(past, Verdict.FAILS, None, error.code, str(error))
    if not isinstance(event, TrainingSucceeded | ExtractionRequested):
        past = Past(event.training_id, letter.user_id, None, None, None, None, letter=letter.number)
        return Judged(past, Verdict.FAILS, None, "unexpected_event", f"nothing is extracted from {event.key}")
    destination = event.destination
    if destination is None:
        # What the extractor is not told, state knows.
        with suppress(NotThere):
            destination = (await api.get_training(event.training_id)).destination
    trainer = event.trainer if isinstance(event, TrainingSucceeded) else None
    past = Past(
        event.training_id,
        letter.user_id,
        event.output,
        destination,
        trainer,
        event.trainer_version,
        letter=letter.number,
    )
    if isinstance(event, TrainingSucceeded) and event.output_omitted_bytes is not None:
        return Judged(past, Verdict.ASKS, None, "output_omitted", "the output was too large to carry")
    return judge(past)


def _past(view: OutputView) -> Past:
    trainer = str(view.trainer.model) if view.trainer else None
    return Past(
        view.training_id,
        view.user_id,
        view.output,
        view.destination,
        trainer,
        view.trainer_version,
        view.reference,
    )


def print_judged(judged: Sequence[Judged], output: Format, *, empty: str, what: str, limit: int) -> None:
    groups = grouped(judged)
    if output is Format.JSON:
        print_json({"groups": [asdict(group) for group in groups], what: [_json(each) for each in judged]})
        return
    print_table(groups, GROUPS, output, empty=empty)
    if changed := [each for each in judged if each.verdict is not Verdict.SAME]:
        print()
        print_table(changed, LETTERS if what == "letters" else TRAININGS, output, empty="")
    tell_if_cut(judged, limit)


def _json(judged: Judged) -> dict[str, object]:
    past = judged.past
    shown = {
        "training_id": past.training_id,
        "user_id": past.user_id,
        "today": judged.verdict,
        "model_today": judged.model and str(judged.model),
        "why": judged.detail or judged.code,
    }
    if past.letter is None:
        return {**shown, "model_then": past.model and str(past.model)}
    return {"letter": past.letter, **shown}
