"""Trainings: shown, watched and asked to change through the product's API; as tables, JSON or live bars."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from functools import partial
from shlex import quote as shell_quote
from typing import Final, Self
from uuid import UUID

from pydantic_core import to_json
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn

from services.cli.choices import Format
from services.cli.client import patiently, segment, show_command
from services.cli.output import console, print_json_line, tell
from services.cli.product.client import Product, models_of, product
from services.cli.table import Column, print_list, print_one
from services.state.timeline import FactView, TimelineView
from services.state.transitions import Stage
from services.state.views import TrainingView
from shared.contract.text import without_controls

_POLL_SECONDS: Final = 0.5
#: In these, a training changes by itself.
UNDERWAY: Final = (Stage.REQUESTED, Stage.RUNNING, Stage.VERIFYING)
_WATCHED: Final = 100


def _percent(training: TrainingView) -> str | None:
    """Return how far it is; None while nothing is known, neither from its log nor when it began."""
    return f"{training.progress}%" if training.progress or training.started_at else None


TRAININGS: Final[Sequence[Column[TrainingView]]] = (
    Column("training", lambda each: each.training_id or each.ref),
    Column("user", lambda each: each.user_id, 3),
    Column("stage", lambda each: each.stage, 1),
    Column("progress", _percent, 2),
    Column("destination", lambda each: each.destination, 6),
    Column("requested", lambda each: each.requested_at, 4),
    Column("current", lambda each: "yes" if each.current else "", 5),
)


def _retries(fact: FactView) -> str | None:
    """Return at which attempt a model was verified, or an event applied, if that was not the first one."""
    said = [
        f"{what} at attempt {each.attempt}, after {(at - each.first_failed_at).total_seconds():.0f} s"
        for what, each, at in (("verified", fact.retries, fact.at), ("applied", fact.applied_retries, fact.applied_at))
        if each is not None and at is not None
    ]
    return "; ".join(said) or None


def _seconds(seconds: float | None) -> str | None:
    return None if seconds is None else f"{seconds:.3f}"


TIMELINE: Final[Sequence[Column[FactView]]] = (
    Column("at", lambda each: each.at),
    Column("seconds", lambda each: _seconds(each.seconds_since_previous), 2),
    Column("what", lambda each: each.kind),
    Column("event", lambda each: each.event, 3),
    Column("stage", lambda each: each.stage, 1),
    Column("retries", _retries, 6),
    Column("replay", lambda each: each.replay, 5),
    Column("detail", lambda each: to_json(each.detail).decode() if each.detail else None, 4, is_prose=True),
)


async def list_trainings(*, user_id: str | None, stage: str | None, limit: int, output: Format) -> None:
    async with product() as api:
        found = await api.list_trainings({"user_id": user_id, "stage": stage}, limit=limit)
    empty = "no training fits" if user_id or stage else "there are no trainings; start one: POST /v1/trainings"
    print_list(found, TRAININGS, output, empty=empty, limit=limit)


async def show_training(training_id: str, output: Format) -> None:
    async with product() as api:
        print_training(await api.get_training(training_id), output)


async def show_timeline(training_id: str, output: Format) -> None:
    async with product() as api:
        found = await api.get(TimelineView, f"/v1/trainings/{segment(training_id)}/timeline")
    print_list(found.items, TIMELINE, output, empty="nothing is known of it", data=found)


async def cancel(training_id: str, output: Format) -> None:
    async with product() as api:
        path = f"/v1/trainings/{segment(training_id)}/cancel"
        print_training(await api.post(TrainingView, path, then=show_command(training_id)), output)


async def retry_extraction(training_id: str | None, user_id: str, output: Format) -> None:
    """Retry for a training or, where None is given, for the newest training without a model of the user."""
    if training_id is not None:
        path, then, absent = f"/v1/trainings/{segment(training_id)}", show_command(training_id), ""
    else:
        path, then = f"/v1/users/{segment(user_id)}", f"modelswap trainings list --user {shell_quote(user_id)}"
        absent = models_of(user_id)
    async with product() as api:
        print_training(await api.post(TrainingView, f"{path}/retry-extraction", then=then, absent=absent), output)


def print_training(training: TrainingView, output: Format) -> None:
    failure = training.failure
    known = dict(training) | {"progress": _percent(training)}
    known["failure"] = failure and f"{failure.code}: {failure.reason}"
    print_one(((name, value) for name, value in known.items() if value is not None), output, data=training)


async def find_underway(api: Product) -> list[TrainingView]:
    """Return the trainings that are underway, at most so many of each stage."""
    found: dict[UUID, TrainingView] = {}
    # In the order of their walk: one that moves on meanwhile is seen at least once.
    for stage in UNDERWAY:
        of_stage = await api.list_trainings({"stage": stage}, limit=_WATCHED)
        if len(of_stage) == _WATCHED:
            tell(f"the newest {_WATCHED} that are {stage} are watched")
        found |= {each.ref: each for each in of_stage}
    return list(found.values())


async def watch(training_id: str | None, output: Format) -> list[TrainingView]:
    """Show one training, or all that are underway, until they have ended; return them as they are then."""
    async with product() as api:
        if training_id is not None:
            begun = [await api.get_training(training_id)]
        else:
            begun = await find_underway(api)
        if output is Format.JSON:
            return await asyncio.gather(*(follow(api, each, print_json_line) for each in begun))
        if not begun:
            console().print("no training is underway; start one: POST /v1/trainings")
        with Bars(console()) as bars:
            names = [f"{each.user_id} {each.training_id or each.ref}" for each in begun]
            return await asyncio.gather(
                *(follow(api, each, partial(bars.show, name)) for name, each in zip(names, begun, strict=True))
            )


class Bars:
    """One line for each training: a live bar on a terminal, a line for each change elsewhere."""

    def __init__(self, out: Console) -> None:
        self._out = out
        self._progress = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=30),
            TextColumn("{task.fields[percent]:>4} {task.fields[stage]}", markup=False),
            console=self._out,
            disable=not self._out.is_terminal,
        )
        self._tasks: dict[str, TaskID] = {}
        self._said: dict[str, str] = {}

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def show(self, name: str, training: TrainingView) -> None:
        percent, stage = _percent(training) or "", _stage(training)
        if name not in self._tasks:
            self._tasks[name] = self._progress.add_task(name, total=100, percent=percent, stage=stage)
        self._progress.update(self._tasks[name], completed=training.progress, percent=percent, stage=stage)
        # Without a terminal, a line for every tenth is enough.
        said = f"{training.stage} {training.progress // 10}"
        if not self._out.is_terminal and said != self._said.get(name):
            self._said[name] = said
            self._out.print(f"{name}  {percent:>4}  {stage}", soft_wrap=True)


async def follow(api: Product, training: TrainingView, show: Callable[[TrainingView], None]) -> TrainingView:
    """Show *training* at each change until it has ended; return it as it is then."""
    show(training)
    while training.stage in UNDERWAY:
        await asyncio.sleep(_POLL_SECONDS)
        now = await patiently(partial(api.get_training, training.training_id or str(training.ref)))
        if now != training:
            show(now)
        training = now
    return training


def _stage(training: TrainingView) -> str:
    """Return the stage, with the reason of a failure or the time that is left."""
    if training.failure is not None:
        return f"{training.stage}: {without_controls(training.failure.reason)}"
    if training.eta_seconds is not None:
        return f"{training.stage}, about {training.eta_seconds} s left"
    return training.stage
