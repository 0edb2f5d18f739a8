"""
Does it keep its promise? Edge: three trainings, started through the product's API, watched from outside until the end.

*ann* trains her first model. *ben* has a model; his next training fails. *cleo* has a model; her next training replaces
it, and all the while her model is asked for over and over. What is printed comes from the API and from the broker; what
was promised is checked in the end.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Coroutine, Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any, Final

from rich.console import Console
from rich.text import Text

from services.cli import client
from services.cli.choices import Format
from services.cli.client import NotThere, Product
from services.cli.events.subscription import Heard, subscribed
from services.cli.local.children import Children
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
from services.cli.local.up import Say, prepare, private_servers
from services.cli.output import console
from services.cli.problem import Problem
from services.cli.product.trainings import Bars, follow
from services.cli.table import Column, print_table
from services.state.transitions import Stage
from services.state.views import ModelView, SwapView, TrainingView
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

USERS: Final = ("ann", "ben", "cleo")
#: A training of ten minutes takes ten seconds.
_SPEED: Final = 60
#: A quick one takes a second.
_QUICK: Final = {"duration_seconds": 60}
_FAILS: Final = {"outcome": "failed", "error": "CUDA out of memory. Tried to allocate 20.00 MiB"}
_PATIENCE_SECONDS: Final = 90
_LOOK: Final = "modelswap up --embedded, which shows what the services say"
_READ_EVERY_SECONDS: Final = 0.05
#: What is in use at the end.
MODELS: Final[Sequence[Column[ModelView]]] = (
    Column("user", lambda each: each.user_id),
    Column("model", lambda each: each.reference),
    Column("generation", lambda each: each.generation, 1),
    Column("since", lambda each: each.activated_at, 2),
)
_EVERYTHING: Final = ((TRAINING_EXCHANGE, "#"), (EVENTS_EXCHANGE, "#"))


def demo(environment: Environment) -> None:
    """
    Show it, and check it.

    Raises:
        Problem: if something did not turn out as promised.

    """
    out = console()
    began = time.monotonic()

    def say(text: str) -> None:
        out.print(text, soft_wrap=True)

    with ExitStack() as stack:
        ready, logins = stack.enter_context(private_servers(without_settings(environment), None, say))
        names = (*SERVICES, SIMULATOR)
        ports = stack.enter_context(free_ports(len(names)))
        settings = {f"{name.upper()}_PORT": str(port) for name, port in zip(names, ports, strict=True)}
        # Every model has to make an image before it is used.
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
        async with (
            Product(everything.urls["state"], environment["MODELSWAP_API_TOKENS"]) as api,
            subscribed(environment["MODELSWAP_AMQP_URL"], _EVERYTHING, name="modelswap demo") as events,
        ):
            show = Show(api, everything.urls[SIMULATOR], out)
            await _first(show.run(), show.hear(events), _raise(children.death()))


@dataclass
class Readings:
    """What the product was told when it asked for a user's model, again and again."""

    user_id: str
    count: int = 0
    #: Each answer that differs from the one before; None is "no model yet".
    answers: list[ModelView | None] = field(default_factory=list)

    async def read(self, api: Product) -> None:
        """Ask once. An answer that is no whole model, or none at all, raises."""
        answer = await _find_model(api, self.user_id)
        self.count += 1
        if not self.answers or answer != self.answers[-1]:
            self.answers.append(answer)

    async def go_on(self, api: Product) -> None:
        while True:
            await self.read(api)
            await asyncio.sleep(_READ_EVERY_SECONDS)


class Show:
    """The trainings, and what is heard of them."""

    def __init__(self, api: Product, simulator_url: str, out: Console) -> None:
        self._api = api
        self._simulator_url = simulator_url
        self._out = out
        #: What was published, by training.
        self._activated: defaultdict[str, asyncio.Future[ModelActivated]] = defaultdict(
            asyncio.get_running_loop().create_future
        )
        self._progress_reports = 0

    # What happens

    async def run(self) -> None:
        """
        Let it all happen, and check it.

        Raises:
            Problem: if something did not turn out as promised.

        """
        try:
            async with asyncio.timeout(_PATIENCE_SECONDS):
                self._head("ben and cleo need a model first, so that they have something to lose: two quick trainings")
                await self._train({"ben": _QUICK, "cleo": _QUICK})
                self._head("now three trainings: ann's first one, one of ben's that fails, a retrain of cleo's")
                readings = [Readings(user) for user in USERS]
                ended = await self._train_while_read({"ann": {}, "ben": _FAILS, "cleo": {}}, readings)
                await self._judge(ended, readings)
        except TimeoutError:
            raise Problem(f"it was not done after {_PATIENCE_SECONDS} s", then=_LOOK) from None

    async def _train(self, orders: dict[str, dict[str, Any]]) -> list[TrainingView]:
        """Start a training for each user, as ordered, and wait until they have ended and all that is said was heard."""
        with Bars(self._out) as bars:
            ended = await asyncio.gather(*(self._train_one(user, order, bars) for user, order in orders.items()))
            for training in ended:
                if training.stage is Stage.ACTIVE:
                    await self._activated[_id(training)]
        return ended

    async def _train_while_read(
        self, orders: dict[str, dict[str, Any]], readings: Sequence[Readings]
    ) -> list[TrainingView]:
        for each in readings:
            await each.read(self._api)
        readers = [asyncio.create_task(each.go_on(self._api)) for each in readings]
        try:
            ended = await self._train(orders)
        finally:
            for reader in readers:
                reader.cancel()
            ends = await asyncio.gather(*readers, return_exceptions=True)
        for end in ends:
            if isinstance(end, Exception):
                raise end
        for each in readings:
            await each.read(self._api)
        return ended

    async def _train_one(self, user: str, order: dict[str, Any], bars: Bars) -> TrainingView:
        destination = f"demo/{user}"
        if order:
            await self._order({"destination": destination, **order})
        training = await self._api.start_training(
            {
                "user_id": user,
                "destination": destination,
                "trainer": TRAINER,
                "trigger_word": user.upper(),
                "input": {"steps": 1000, "trigger_word": user.upper()},
            }
        )
        return await follow(self._api, training, lambda now: bars.show(f"{user:<5}", now))

    async def _order(self, fault: dict[str, Any]) -> None:
        url = f"{self._simulator_url}/_simulator/faults"
        status, reason = await client.post(url, json.dumps(fault).encode(), {"content-type": "application/json"})
        if reason:
            raise Problem(f"the simulator refused {fault}: {status} {reason}", then="modelswap serve simulator")

    # What is heard

    async def hear(self, events: AsyncIterator[Heard]) -> None:
        """Say what goes over the broker."""
        async for heard in events:
            if heard.event is None:
                raise Problem(f"{heard.routing_key} is not understood", then="modelswap listen -o json")
            await self._tell(heard.event)

    async def _tell(self, event: Event) -> None:
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
                swap = await self._committed(event)
                was = f", was {_short(swap.previous_reference)}" if swap.previous_reference else ""
                self._line("committed", event.user_id, f"{_short(event.model)}, generation {swap.generation}{was}")
                self._line("published", event.user_id, event.key)
                if not (published := self._activated[event.training_id]).done():
                    published.set_result(event)
            case ExtractionFailed():
                self._line("gave up", await self._user(event), f"{event.error}: {event.detail}")

    async def _committed(self, event: ModelActivated) -> SwapView:
        """What the API says of a swap that was published."""
        for swap in await self._api.list_history(event.user_id, limit=10):
            if (swap.generation, swap.reference) == (event.generation, event.model):
                return swap
        raise Problem(f"{event.user_id}: published, but the API knows no such swap", then="modelswap models history")

    async def _user(self, event: TrainingEvent | ModelReady | ExtractionFailed) -> str:
        # A webhook can be faster than the answer that names the training: then only our own id is known.
        return (await self._api.get_training(str(event.ref or event.training_id))).user_id

    # What was promised

    async def _judge(self, ended: Sequence[TrainingView], readings: Sequence[Readings]) -> None:
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
        committed = {(user, swap.generation) for user in USERS for swap in await self._api.list_history(user, limit=10)}
        return {(event.user_id, event.generation) for event in events} == committed

    def _head(self, text: str) -> None:
        self._out.print(Text(f"\n{text}", style="bold"), soft_wrap=True)

    def _line(self, what: str, user: str, text: str) -> None:
        self._out.print(Text.assemble((f"  {what:<10}", "cyan"), f"{user:<6}{text}"), soft_wrap=True)


def promises(ended: Sequence[TrainingView], readings: Sequence[Readings]) -> Iterable[tuple[str, bool]]:
    """What the three trainings should have come to, and whether they did."""
    (ann, ben, cleo), (of_ann, of_ben, of_cleo) = ended, readings
    yield "ann had no model, and uses the one that her training made", _is(of_ann.answers, None, ann)
    reason = ben.failure.reason if ben.failure else "no reason"
    failed = ben.stage is Stage.FAILED and len(of_ben.answers) == 1 and of_ben.answers[0] is not None
    yield f"ben's training failed ({reason}), and he uses the model that he had", failed
    old = of_cleo.answers[0]
    replaced = old is not None and _is(of_cleo.answers, old, cleo)
    asked = f"asked {of_cleo.count} times meanwhile, the API named her old one until the swap, and the new one since"
    yield f"cleo uses the model that her retrain made; {asked}", replaced


def _is(answers: Sequence[ModelView | None], before: ModelView | None, training: TrainingView) -> bool:
    """Was it just *before*, and then the model of *training*?"""
    match answers:
        case [first, ModelView() as last]:
            return first == before and (last.training_id, last.reference) == (training.training_id, training.reference)
    return False


async def _find_model(api: Product, user_id: str) -> ModelView | None:
    try:
        return await api.get_model(user_id)
    except NotThere:
        return None


def _id(training: TrainingView) -> str:
    return training.training_id or str(training.ref)


def _short(model: ModelRef) -> str:
    return f"{model.model}:{model.version[:8]}…"


async def _first(story: Coroutine[Any, Any, None], *guards: Coroutine[Any, Any, None]) -> None:
    """Run *story* to its end, unless one of the *guards* ends first, which only errors do."""
    tasks = [asyncio.create_task(work) for work in (story, *guards)]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _raise(death: Awaitable[Problem]) -> None:
    raise await death
