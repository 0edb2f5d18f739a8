"""What is shown of trainings and models? Answers of the product's API, as tables, JSON or live bars."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import Final, Self

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn

from services.cli.client import Product, patiently
from services.cli.output import console, print_json, print_json_line, print_table, printable
from services.cli.words import Format
from services.state.transitions import Stage
from services.state.views import TrainingView
from shared.runtime.settings import ClientSettings
from shared.runtime.tokens import read_token

_POLL_SECONDS: Final = 0.5
#: In these, a training changes by itself.
UNDERWAY: Final = (Stage.REQUESTED, Stage.RUNNING, Stage.VERIFYING)
_WATCHED: Final = 100
_NOTHING_RUNS: Final = "no training is underway; start one: POST /v1/trainings"
_COLUMNS: Final = ("training", "user", "stage", "progress", "destination", "requested", "current")


@asynccontextmanager
async def product() -> AsyncIterator[Product]:
    """The product's API, as the environment says where it is."""
    settings = ClientSettings.load(os.environ)
    async with Product(settings.api_url, read_token(settings.api_tokens[0].get_secret_value()).secret) as api:
        yield api


async def list_trainings(*, user_id: str | None, stage: str | None, limit: int, output: Format) -> None:
    async with product() as api:
        found = await api.list_trainings(user_id=user_id, stage=stage, limit=limit)
    if output is Format.JSON:
        print_json([each.model_dump(mode="json") for each in found])
    else:
        print_table(_COLUMNS, map(_row, found), empty="no such training; start one: POST /v1/trainings")


async def show_training(training_id: str, output: Format) -> None:
    async with product() as api:
        print_training(await api.get_training(training_id), output)


def print_training(training: TrainingView, output: Format) -> None:
    shown = training.model_dump(mode="json", exclude_none=output is Format.TABLE)
    if output is Format.JSON:
        print_json(shown)
        return
    failure = shown.pop("failure", None)
    details = {**shown, **({"failure": f"{failure['code']}: {failure['reason']}"} if failure else {})}
    print_table(("field", "value"), details.items(), empty="")


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
        found = await api.get_model(user_id)
    shown = found.model_dump(mode="json")
    if output is Format.JSON:
        print_json(shown)
    else:
        print_table(("field", "value"), shown.items(), empty="")


async def show_history(user_id: str, *, limit: int, output: Format) -> None:
    async with product() as api:
        found = await api.list_history(user_id, limit=limit)
    if output is Format.JSON:
        print_json([each.model_dump(mode="json") for each in found])
        return
    rows = [
        (each.generation, each.at, each.cause, each.reference or "no model", each.training_id, each.actor, each.reason)
        for each in found
    ]
    columns = ("generation", "since", "cause", "model", "training", "by", "reason")
    print_table(columns, rows, empty=f"user {user_id} has no model yet")


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
    print_json_line(training.model_dump(mode="json"))


def _row(training: TrainingView) -> tuple[object, ...]:
    return (
        training.training_id or training.ref,
        training.user_id,
        training.stage,
        f"{training.progress}%",
        training.destination,
        training.requested_at,
        "yes" if training.current else "",
    )


def _stage(training: TrainingView) -> str:
    """Its stage, and why or how long."""
    if training.failure is not None:
        return f"{training.stage}: {printable(training.failure.reason)}"
    if training.eta_seconds is not None:
        return f"{training.stage}, about {training.eta_seconds} s left"
    return training.stage
