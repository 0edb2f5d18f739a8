"""What is shown of trainings and models? Answers of the product's API, as tables, JSON or live bars."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from functools import partial
from typing import Final, Self

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn

from services.cli.choices import Format
from services.cli.client import Product, patiently
from services.cli.output import console, print_json, print_json_line, printable
from services.cli.table import Column, print_facts, print_list
from services.state.transitions import Stage
from services.state.views import ModelView, SwapView, TrainingView
from shared.runtime.settings import ClientSettings
from shared.runtime.tokens import read_token

_POLL_SECONDS: Final = 0.5
#: In these, a training changes by itself.
UNDERWAY: Final = (Stage.REQUESTED, Stage.RUNNING, Stage.VERIFYING)
_WATCHED: Final = 100
_NOTHING_RUNS: Final = "no training is underway; start one: POST /v1/trainings"
TRAININGS: Final[Sequence[Column[TrainingView]]] = (
    Column("training", lambda each: each.training_id or each.ref),
    Column("user", lambda each: each.user_id, 3),
    Column("stage", lambda each: each.stage, 1),
    Column("progress", lambda each: f"{each.progress}%", 2),
    Column("destination", lambda each: each.destination, 6),
    Column("requested", lambda each: each.requested_at, 4),
    Column("current", lambda each: "yes" if each.current else "", 5),
)
HISTORY: Final[Sequence[Column[SwapView]]] = (
    Column("generation", lambda each: each.generation),
    Column("since", lambda each: each.at, 1),
    Column("cause", lambda each: each.cause, 2),
    Column("model", lambda each: each.reference or "no model"),
    Column("training", lambda each: each.training_id, 4),
    Column("by", lambda each: each.actor, 5),
    Column("reason", lambda each: each.reason, 3, is_prose=True),
)


@asynccontextmanager
async def product() -> AsyncIterator[Product]:
    """The product's API, as the environment says where it is."""
    settings = ClientSettings.load(os.environ)
    async with Product(settings.api_url, read_token(settings.api_tokens[0].get_secret_value()).secret) as api:
        yield api


async def list_trainings(*, user_id: str | None, stage: str | None, limit: int, output: Format) -> None:
    async with product() as api:
        found = await api.list_trainings(user_id=user_id, stage=stage, limit=limit)
    print_list(found, TRAININGS, output, empty="no such training; start one: POST /v1/trainings", limit=limit)


async def show_training(training_id: str, output: Format) -> None:
    async with product() as api:
        print_training(await api.get_training(training_id), output)


def print_training(training: TrainingView, output: Format) -> None:
    if output is Format.JSON:
        print_json(training)
        return
    failure = training.failure
    known = dict(training) | {"failure": failure and f"{failure.code}: {failure.reason}"}
    print_facts((name, value) for name, value in known.items() if value is not None)


async def watch(training_id: str | None, output: Format) -> list[TrainingView]:
    """Show trainings until they have ended: one, or all that are underway; as they are then."""
    async with product() as api:
        if training_id is not None:
            begun = [await api.get_training(training_id)]
        else:
            found = await api.list_trainings(user_id=None, stage=None, limit=_WATCHED)
            begun = [training for training in found if training.stage in UNDERWAY]
        if output is Format.JSON:
            return await asyncio.gather(*(follow(api, each, _print_line) for each in begun))
        if not begun:
            console().print(_NOTHING_RUNS)
        with Bars(console()) as bars:
            names = [f"{each.user_id} {each.training_id or each.ref}" for each in begun]
            return await asyncio.gather(
                *(follow(api, each, partial(bars.show, name)) for name, each in zip(names, begun, strict=True))
            )


async def show_model(user_id: str, output: Format) -> None:
    async with product() as api:
        print_model(await api.get_model(user_id), output)


def print_model(found: ModelView, output: Format) -> None:
    if output is Format.JSON:
        print_json(found)
    else:
        # The reference has the parts.
        print_facts((name, value) for name, value in found if name not in {"owner", "name", "version", "dry_run"})


async def show_history(user_id: str, *, limit: int, output: Format) -> None:
    async with product() as api:
        found = await api.list_history(user_id, limit=limit)
    print_list(found, HISTORY, output, empty=f"user {user_id} has no model yet", limit=limit)


class Bars:
    """One line for each training: a live bar on a terminal, a line for each change elsewhere."""

    def __init__(self, out: Console) -> None:
        self._out = out
        self._progress = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=30),
            TextColumn("{task.percentage:>3.0f}% {task.fields[stage]}", markup=False),
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
        if name not in self._tasks:
            self._tasks[name] = self._progress.add_task(name, total=100, stage="")
        self._progress.update(self._tasks[name], completed=training.progress, stage=_stage(training))
        # Elsewhere, every tenth is enough.
        said = f"{training.stage} {training.progress // 10}"
        if not self._out.is_terminal and said != self._said.get(name):
            self._said[name] = said
            self._out.print(f"{name}  {training.progress:>3}%  {_stage(training)}", soft_wrap=True)


async def follow(api: Product, training: TrainingView, show: Callable[[TrainingView], None]) -> TrainingView:
    """Show *training* whenever something changed, until it has ended; as it is then."""
    show(training)
    while training.stage in UNDERWAY:
        await asyncio.sleep(_POLL_SECONDS)
        now = await patiently(partial(api.get_training, training.training_id or str(training.ref)))
        if now != training:
            show(now)
        training = now
    return training


def _print_line(training: TrainingView) -> None:
    print_json_line(training)


def _stage(training: TrainingView) -> str:
    """Its stage, and why or how long."""
    if training.failure is not None:
        return f"{training.stage}: {printable(training.failure.reason)}"
    if training.eta_seconds is not None:
        return f"{training.stage}, about {training.eta_seconds} s left"
    return training.stage
