"""
`modelswap demo`: three trainings through the product's API, watched from outside and checked. Edge.

*ann* trains her first model. *ben* has a model; his next training fails. *cleo* has a model; her next training replaces
it, and her model is requested over and over meanwhile. What is printed comes from the API and from the broker.
"""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Coroutine, Mapping, Sequence
from contextlib import ExitStack
from typing import Final, TypeVar

from pydantic import JsonValue
from rich.console import Console
from rich.text import Text

from services.cli.choices import Format
from services.cli.events.heard import Heard
from services.cli.events.listen import subscribed
from services.cli.events.simulator import change_simulator
from services.cli.local.children import Children
from services.cli.local.console import console_address
from services.cli.local.private import Say, private_servers
from services.cli.local.promises import Readings, promises
from services.cli.local.stack import (
    SERVICES,
    SIMULATOR,
    TRAINER,
    Environment,
    Plan,
    overridden,
    plan,
    without_settings,
)
from services.cli.local.up import prepare
from services.cli.output import console
from services.cli.problem import Problem
from services.cli.product.client import Product
from services.cli.product.trainings import Bars, follow
from services.cli.table import Column, print_table
from services.state.transitions import Stage
from services.state.views import ModelView, TrainingView
from shared.contract.events import (
    EVENTS_EXCHANGE,
    TRAINING_EXCHANGE,
    Event,
    ExtractionFailed,
    ModelActivated,
    ModelReady,
    TrainingCanceled,
    TrainingEvent,
    TrainingFailed,
    TrainingProgressed,
    TrainingStarted,
    TrainingSucceeded,
)
from shared.contract.identity import ModelRef
from shared.runtime.ports import free_ports

T = TypeVar("T")
#: The simulator's faults for a user's training.
Faults = Mapping[str, Mapping[str, JsonValue]]

USERS: Final = ("ann", "ben", "cleo")
#: A training of ten minutes takes ten seconds.
_SPEED: Final = 60
#: A quick one takes a second.
_QUICK: Final = {"duration_seconds": 60}
_FAILS: Final = {"outcome": "failed", "error": "CUDA out of memory. Tried to allocate 20.00 MiB"}
_DEADLINE_SECONDS: Final = 90
_LOOK: Final = "modelswap up --embedded, which shows the logs of the services"
MODELS: Final[Sequence[Column[ModelView]]] = (
    Column("user", lambda each: each.user_id),
    Column("model", lambda each: each.reference),
    Column("generation", lambda each: each.generation, 1),
    Column("since", lambda each: each.activated_at, 2),
)
_EXCHANGES: Final = (TRAINING_EXCHANGE, EVENTS_EXCHANGE)


def demo(environment: Environment) -> None:
    out = console()
    began = time.monotonic()

    def say(text: str) -> None:
        out.print(text, soft_wrap=True)

    with ExitStack() as stack:
        ready, logins, _ = stack.enter_context(private_servers(without_settings(environment), None, say))
        names = (*SERVICES, SIMULATOR)
        ports = stack.enter_context(free_ports(len(names)))
        settings = {f"{name.upper()}_PORT": str(port) for name, port in zip(names, ports, strict=True)}
        # Every model must generate an image before it is swapped in.
        settings |= {"SIMULATOR_SPEED": str(_SPEED), "VERIFY_LEVEL": "predict"}
        everything = plan(overridden(ready, settings), simulator=True, logins=logins)
        asyncio.run(_run(everything, out, say))
    say(f"\nStopped and deleted everything. It took {time.monotonic() - began:.0f} s.")


async def _run(everything: Plan, out: Console, say: Say) -> None:
    environment = everything.environment
    await prepare(environment, say)
    async with Children(lambda *_: None) as children:
        for name in everything.services:
            await children.start(name, everything.environment_of(name))
        await children.until_ready(everything.urls)
        say(f"{', '.join(everything.services)}: ready")
        say(f"console: {await console_address(everything)}")
        async with (
            Product(everything.urls["state"], environment["MODELSWAP_API_TOKENS"]) as api,
            subscribed(environment["MODELSWAP_AMQP_URL"], _EXCHANGES, name="modelswap demo") as events,
        ):
            show = Show(api, everything.urls[SIMULATOR], out)
            await _first(show.run(), show.hear(events), _raise(children.death()))


class Show:
    """The trainings, and the events about them."""

    def __init__(self, api: Product, simulator_url: str, out: Console) -> None:
        self._api = api
        self._simulator_url = simulator_url
        self._out = out
        #: Published swaps, by training.
        self._activated: defaultdict[str, asyncio.Future[ModelActivated]] = defaultdict(
            asyncio.get_running_loop().create_future
        )
        self._progress_reports = 0

    async def run(self) -> None:
        try:
            async with asyncio.timeout(_DEADLINE_SECONDS):
                self._head("ben and cleo need a model first, so that they have something to lose: two quick trainings")
                await self._train({"ben": _QUICK, "cleo": _QUICK})
                self._head("now three trainings: ann's first one, one of ben's that fails, a retrain of cleo's")
                readings = [Readings(user) for user in USERS]
                await self._read(readings)
                training = self._train({"ann": {}, "ben": _FAILS, "cleo": {}})
                ended = await _first(training, *(each.read_on(self._api) for each in readings))
                await self._read(readings)
                await self._check(ended, readings)
        except TimeoutError:
            raise Problem(f"it was not done after {_DEADLINE_SECONDS} s", then=_LOOK) from None

    async def _train(self, faults: Faults) -> list[TrainingView]:
        """Start a training for each user, and wait until all have ended and their swaps were published."""
        with Bars(self._out) as bars:
            ended = await asyncio.gather(*(self._train_one(user, fault, bars) for user, fault in faults.items()))
            for training in ended:
                if training.stage is Stage.ACTIVE:
                    await self._activated[training.training_id or str(training.ref)]
        return ended

    async def _read(self, readings: Sequence[Readings]) -> None:
        for each in readings:
            await each.read(self._api)

    async def _train_one(self, user: str, fault: Mapping[str, JsonValue], bars: Bars) -> TrainingView:
        destination = f"demo/{user}"
        if fault:
            await change_simulator(self._simulator_url, "POST", "faults", {"destination": destination, **fault})
        body: dict[str, JsonValue] = {
            "user_id": user,
            "destination": destination,
            "trainer": TRAINER,
            "trigger_word": user.upper(),
            "input": {"steps": 1000, "trigger_word": user.upper()},
        }
        training = await self._api.start_training(body)
        return await follow(self._api, training, lambda now: bars.show(f"{user:<5}", now))

    async def hear(self, events: AsyncIterator[Heard]) -> None:
        async for heard in events:
            if heard.event is None:
                raise Problem(f"{heard.delivery.routing_key} cannot be decoded", then="modelswap listen -o json")
            await self._print(heard.event)

    async def _print(self, event: Event) -> None:
        match event:
            case TrainingProgressed():
                self._progress_reports += 1
            case TrainingFailed() | TrainingCanceled():
                self._line("received", await self._user(event), f"{event.key}: {event.reason}")
            case TrainingStarted() | TrainingSucceeded():
                self._line("received", await self._user(event), event.key)
            case ModelReady():
                checks = ", ".join(event.evidence.checks)
                self._line("verified", await self._user(event), f"{_short(event.model)} passed {checks}")
            case ModelActivated():
                was = f", was {_short(event.previous)}" if event.previous else ""
                self._line("committed", event.user_id, f"{_short(event.model)}, generation {event.generation}{was}")
                self._line("published", event.user_id, event.key)
                if not (published := self._activated[event.training_id]).done():
                    published.set_result(event)
            case ExtractionFailed():
                self._line("gave up", await self._user(event), f"{event.error}: {event.detail}")

    async def _user(self, event: TrainingEvent | ModelReady | ExtractionFailed) -> str:
        # A webhook can be faster than the response that names the training: then only our ref is known.
        return (await self._api.get_training(str(event.ref or event.training_id))).user_id

    async def _check(self, ended: Sequence[TrainingView], readings: Sequence[Readings]) -> None:
        checked = [
            *promises(ended, readings),
            (f"every one of the {len(self._activated)} swaps was published", await self._all_published()),
        ]
        self._head(f"what was promised ({self._progress_reports} reports of progress came by on the way)")
        for text, is_kept in checked:
            self._out.print(Text.assemble((" yes " if is_kept else " NO  ", "green" if is_kept else "bold red"), text))
        self._head("the models in use now, as GET /v1/users/{user}/model has them")
        models = [model for each in readings if (model := each.answers[-1])]
        print_table(models, MODELS, Format.TABLE, empty="none")
        if broken := [text for text, is_kept in checked if not is_kept]:
            raise Problem(f"not as promised: {'; '.join(broken)}", then=_LOOK)

    async def _all_published(self) -> bool:
        events = [each.result() for each in self._activated.values()]
        committed = {
            (user, swap.generation, swap.reference)
            for user in USERS
            for swap in await self._api.list_history(user, limit=10)
        }
        return {(event.user_id, event.generation, event.model) for event in events} == committed

    def _head(self, text: str) -> None:
        self._out.print(Text(f"\n{text}", style="bold"), soft_wrap=True)

    def _line(self, what: str, user: str, text: str) -> None:
        self._out.print(Text.assemble((f"  {what:<10}", "cyan"), f"{user:<6}{text}"), soft_wrap=True)


def _short(model: ModelRef) -> str:
    return f"{model.model}:{model.version[:8]}…"


async def _first(work: Coroutine[object, object, T], *guards: Coroutine[object, object, None]) -> T:
    """Return the result of *work*, unless one of the *guards*, which never return, raises before."""
    working, guarding = asyncio.create_task(work), [asyncio.create_task(guard) for guard in guards]
    try:
        done, _ = await asyncio.wait((working, *guarding), return_when=asyncio.FIRST_COMPLETED)
        for task in done.intersection(guarding):
            task.result()
        return working.result()
    finally:
        for task in (working, *guarding):
            task.cancel()
        await asyncio.gather(working, *guarding, return_exceptions=True)


async def _raise(death: Awaitable[Problem]) -> None:
    raise await death
