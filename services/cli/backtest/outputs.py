"""Run this machine's parser on stored outputs and on dead letters; retry the extractions that succeed now."""

from __future__ import annotations

import asyncio
from base64 import b64decode
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, replace
from typing import Final

from pydantic import JsonValue

from services.cli.backtest.verdicts import Group, Judged, Past, Verdict, grouped, judge
from services.cli.choices import Format
from services.cli.client import NotThere, segment, show_command
from services.cli.operators.client import Operators, operators
from services.cli.output import confirm, tell
from services.cli.problem import Problem
from services.cli.product.client import Product, product
from services.cli.table import Column, print_list, print_table, tell_if_cut
from services.ops.letters.views import LetterLine, LetterView
from services.ops.reconcile.views import ExtractionRetried
from services.state.transitions import Stage
from services.state.views import OutputView
from shared.contract.answers import Page
from shared.contract.envelope import decode
from shared.contract.errors import Malformed
from shared.contract.events import ExtractionRequested, TrainingSucceeded
from shared.contract.text import plural
from shared.contract.topology import EXTRACTOR_QUEUE

_AT_ONCE: Final = 8
_WHAT: Final[Sequence[Column[Judged]]] = (
    Column("today", lambda each: each.verdict, 1),
    Column("why", lambda each: each.detail or each.code, 2, is_prose=True),
    Column("model today", lambda each: each.model, 3),
    Column("user", lambda each: each.past.user_id, 5),
)
_TRAINING: Final[Column[Judged]] = Column("training", lambda each: each.past.training_id)
TRAININGS: Final[Sequence[Column[Judged]]] = (_TRAINING, *_WHAT, Column("model then", lambda each: each.past.model, 4))
LETTERS: Final[Sequence[Column[Judged]]] = (Column("dead letter", lambda each: each.past.letter), _TRAINING, *_WHAT)
GROUPS: Final[Sequence[Column[Group]]] = (
    Column("today", lambda each: each.verdict),
    Column("shape or error", lambda each: each.code, 2),
    Column("how many", lambda each: each.count, 1),
    Column("such as", lambda each: each.example),
)
RETRIED: Final[Sequence[Column[tuple[str, str]]]] = (
    Column("training", lambda each: each[0]),
    Column("outcome", lambda each: each[1], is_prose=True),
)


async def try_letters(since: str, *, limit: int, output: Format) -> None:
    async with operators() as ops, product() as api:
        query = {"queue": EXTRACTOR_QUEUE, "since": since}
        lines = await ops.list(Page[LetterLine], "/v1/dead-letters", query, limit=limit)
        slots = asyncio.Semaphore(_AT_ONCE)

        async def judge_one(number: int) -> Judged | None:
            async with slots:
                # Housekeeping may have deleted it since it was listed.
                with suppress(NotThere):
                    return await _judge_letter(await ops.get_dead_letter(number), api)
                return None

        judged = [each for each in await asyncio.gather(*(judge_one(line.number) for line in lines)) if each]
    print_judged(judged, output, empty="the extractor has no dead letters since then", what="letters", limit=limit)


async def try_outputs(since: str, *, limit: int, output: Format) -> None:
    async with product() as api:
        judged = await _judge_outputs(api, since, limit)
    print_judged(judged, output, empty="no training since then has an output", what="trainings", limit=limit)


async def retry_extractions(since: str, reason: str, *, yes: bool, limit: int, output: Format) -> bool:
    """Retry each training without a model that the parser would find now; return False if some were refused."""
    async with product() as api:
        judged = await _judge_outputs(api, since, limit, Stage.UNVERIFIED)
    found = [each.past.training_id for each in judged if each.verdict in {Verdict.FOUND, Verdict.ASKS}]
    if found and not yes:
        then = "modelswap trainings re-extract --since TIME --dry-run, to see what it would find"
        newest = f" (of the newest {limit} unverified ones)" if len(judged) >= limit else ""
        confirm(f"the extraction of {plural(len(found), 'training')} is retried{newest}", "Retry?", then=then)
    async with operators() as ops:
        refused = {training_id: said for training_id in found if (said := await _retry(ops, training_id, reason))}
    asked = [each for each in found if each not in refused]
    rows = [*((each, "extraction is retried") for each in asked), *refused.items()]
    empty = "no unverified training since then gives a model now"
    print_list(rows, RETRIED, output, empty=empty, data={"asked": asked, "refused": refused})
    if len(judged) >= limit:
        tell(f"the newest {limit} unverified trainings were looked at; for more, --limit")
    return not refused


async def _retry(ops: Operators, training_id: str, reason: str) -> str:
    """Retry an extraction, in the name of the operator's token; return why it is refused, or nothing."""
    path = f"/v1/trainings/{segment(training_id)}/retry-extraction"
    try:
        await ops.post(ExtractionRetried, path, {"reason": reason}, then=show_command(training_id))
    except Problem as error:
        return str(error)
    return ""


async def _judge_outputs(api: Product, since: str, limit: int, stage: Stage | None = None) -> list[Judged]:
    query = {"since": since, "stage": stage}
    # A page is small, because an output may be large.
    found = await api.list(Page[OutputView], "/v1/outputs", query, limit=limit, page_size=20)
    return [judge(_past(each)) for each in found]


def _past(view: OutputView) -> Past:
    return Past(
        training_id=view.training_id,
        user_id=view.user_id,
        output=view.output,
        destination=view.destination,
        trainer=str(view.trainer.model) if view.trainer else None,
        trainer_version=view.trainer_version,
        model=view.reference,
    )


async def _judge_letter(letter: LetterView, api: Product) -> Judged:
    past = Past(training_id=letter.training_id or "", user_id=letter.user_id, letter=letter.number)
    try:
        event = decode(letter.headers, letter.content_type, b64decode(letter.body_base64)).event
    except Malformed as error:
        return Judged(past, Verdict.FAILS, None, error.code, str(error))
    if not isinstance(event, TrainingSucceeded | ExtractionRequested):
        return Judged(past, Verdict.FAILS, None, "unexpected_event", f"nothing is extracted from {event.key}")
    destination = event.destination
    if destination is None:
        with suppress(NotThere):
            destination = (await api.get_training(event.training_id)).destination
    past = replace(
        past,
        training_id=event.training_id,
        output=event.output,
        destination=destination,
        trainer=event.trainer if isinstance(event, TrainingSucceeded) else None,
        trainer_version=event.trainer_version,
    )
    if isinstance(event, TrainingSucceeded) and event.output_omitted_bytes is not None:
        return Judged(past, Verdict.ASKS, None, "output_omitted", "the output was too large to carry")
    return judge(past)


def print_judged(judged: Sequence[Judged], output: Format, *, empty: str, what: str, limit: int) -> None:
    groups = grouped(judged)
    data = {"groups": [asdict(group) for group in groups], what: [_json(each) for each in judged]}
    print_list(groups, GROUPS, output, empty=empty, data=data)
    changed = [each for each in judged if each.verdict is not Verdict.SAME]
    if output is Format.JSON:
        return
    if changed:
        print()
        print_table(changed, LETTERS if what == "letters" else TRAININGS, output, empty="")
    tell_if_cut(judged, limit)


def _json(judged: Judged) -> dict[str, JsonValue]:
    past = judged.past
    shown: dict[str, JsonValue] = {
        "training_id": past.training_id,
        "user_id": past.user_id,
        "today": judged.verdict,
        "model_today": judged.model and str(judged.model),
        "why": judged.detail or judged.code,
    }
    if past.letter is None:
        return {**shown, "model_then": past.model and str(past.model)}
    return {"letter": past.letter, **shown}
