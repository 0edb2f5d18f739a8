"""Asks the processes and RabbitMQ how everything runs. Each answer has a deadline; none makes the asker hang. Edge."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, field
from typing import Final, Generic, TypeVar

from prometheus_client import generate_latest

from services.ops.processes.views import Processes, ProcessView, Queues, QueueView, Source, kind_of
from services.ops.queues import Arrivals, PageAnswer, QueueAnswer
from shared.contract.errors import ModelswapError
from shared.contract.health import Health, ProcessState, Seen, judge, why_stuck
from shared.contract.queues import Queue
from shared.contract.rights import CONSUMED, exactly
from shared.contract.topology import Topology
from shared.runtime.broker import depths
from shared.runtime.broker.link_errors import LINK_ERRORS, say
from shared.runtime.clock import now
from shared.runtime.management import Management
from shared.runtime.periodic import run_periodically
from shared.runtime.processes import look_at, oldest_deliveries

T = TypeVar("T")

_OURSELVES: Final = "ops"
#: For each process, and for RabbitMQ.
_DEADLINE_SECONDS: Final = 3.0
#: How long an answer is given to others who ask the same.
_RECENT_SECONDS: Final = 2.0
#: How often queues are counted, so that the age of what waits without a consumer is known.
_SAMPLE_SECONDS: Final = 30.0
#: The largest page of the management API.
_PAGE: Final = "500"
_COLUMNS: Final = (
    "name,messages_ready,messages_unacknowledged,consumers,"
    "message_stats.publish,message_stats.publish_details.rate,message_stats.ack_details.rate"
)
_NO_MANAGEMENT: Final = "the rates are not known: MODELSWAP_MANAGEMENT_URL of ops is not set"


@dataclass(frozen=True, slots=True)
class _Answer:
    """Counts of the queues, by name."""

    source: Source
    trouble: str
    counts: Mapping[str, QueueAnswer]


@dataclass(slots=True)
class Running:
    """What runs: the other processes by their addresses, this one, and the queues between them."""

    addresses: Mapping[str, str]
    #: The health of this process.
    itself: Callable[[], Awaitable[Health]]
    _: KW_ONLY
    version: str
    amqp_url: str
    management: Management | None
    topology: Topology
    deadline_seconds: float = _DEADLINE_SECONDS
    _looked: _Recent[Mapping[str, Seen]] = field(init=False)
    _counted: _Recent[_Answer] = field(init=False)
    _arrivals: Arrivals = field(init=False, default_factory=Arrivals)

    def __post_init__(self) -> None:
        self._looked = _Recent(self._look)
        self._counted = _Recent(self._count)

    async def processes(self) -> Processes:
        seen = await self.seen()
        return Processes(
            at=now(), version=self.version, processes=[self._process(name, each) for name, each in seen.items()]
        )

    async def seen(self) -> Mapping[str, Seen]:
        """Return how every process was found just now, by name."""
        return await self._looked.get()

    async def queues(self) -> Queues:
        seen, answer = await asyncio.gather(self.seen(), self._counted.get())
        queues = [self._queue(queue, seen, answer.counts) for queue in self.topology.queues]
        return Queues(at=now(), source=answer.source, trouble=answer.trouble, queues=queues)

    async def run(self, stopping: asyncio.Event) -> None:
        """Count the queues until *stopping* is set. Needed with a management API only, which says what arrived."""
        await run_periodically("queues", self._sample, stopping)

    async def _sample(self) -> float:
        await self._counted.get()
        return _SAMPLE_SECONDS

    # Processes

    async def _look(self) -> Mapping[str, Seen]:
        looks = (look_at(*each, self.version, seconds=self.deadline_seconds) for each in self.addresses.items())
        *others, itself = await asyncio.gather(*looks, self._look_at_itself())
        return {**dict(zip(self.addresses, others, strict=True)), _OURSELVES: itself}

    async def _look_at_itself(self) -> Seen:
        try:
            async with asyncio.timeout(self.deadline_seconds):
                health = await self.itself()
        except TimeoutError:
            detail = f"its checks did not end within {self.deadline_seconds:g} s: what it depends on hangs"
            return Seen(ProcessState.NOT_READY, detail, f"Postgres may be frozen; log of {_OURSELVES}")
        return judge(_OURSELVES, health, self.version, oldest_deliveries(generate_latest().decode(), _OURSELVES))

    def _process(self, name: str, seen: Seen) -> ProcessView:
        health = seen.health
        return ProcessView(
            name=name,
            address=self.addresses.get(name),
            state=seen.state,
            detail=seen.detail,
            then=seen.then,
            version=health.version if health else None,
            checks=health.checks if health else {},
            set_aside=health.set_aside if health else {},
        )

    # Queues

    async def _count(self) -> _Answer:
        if self.management is None:
            return await self._passively(_NO_MANAGEMENT)
        query = {
            "name": exactly(*(queue.name for queue in self.topology.queues)),
            "use_regex": "true",
            "columns": _COLUMNS,
            "page": "1",
            "page_size": _PAGE,
        }
        try:
            async with asyncio.timeout(self.deadline_seconds):
                page = await self.management.find(PageAnswer[QueueAnswer], "queues", query=query)
        except TimeoutError:
            return await self._passively("the rates are not known: RabbitMQ's management API does not answer in time")
        except ModelswapError as error:
            return await self._passively(f"the rates are not known: {error}")
        counts = {each.name: each for each in page.items} if page else {}
        self._arrivals.note({name: each.message_stats.publish for name, each in counts.items()}, at=now())
        return _Answer(Source.MANAGEMENT, "", counts)

    async def _passively(self, trouble: str) -> _Answer:
        """Ask RabbitMQ itself, for lossy queues apart: where their node is down, they have no answer."""
        parts = [[queue.name for queue in self.topology.queues if queue.is_lossy is lossy] for lossy in (False, True)]
        found = await asyncio.gather(*map(self._depths, parts))
        counts = {name: each for counts, _ in found for name, each in counts.items()}
        troubles = [trouble, *(said for _, said in found if said)]
        return _Answer(Source.AMQP if counts else Source.NONE, "; ".join(dict.fromkeys(troubles)), counts)

    async def _depths(self, names: Sequence[str]) -> tuple[Mapping[str, QueueAnswer], str]:
        try:
            async with asyncio.timeout(self.deadline_seconds):
                found = await depths(self.amqp_url, names, name="modelswap ops looks at queues")
        except LINK_ERRORS as error:
            return {}, say(error)
        counts = {
            name: QueueAnswer(name=name, messages_ready=each.waiting, consumers=each.consumers)
            for name, each in found.items()
        }
        return counts, ""

    def _queue(self, queue: Queue, seen: Mapping[str, Seen], counts: Mapping[str, QueueAnswer]) -> QueueView:
        name = queue.name
        process = next((each for each, queues in CONSUMED.items() if name in queues), None)
        found = seen.get(process) if process else None
        counted = counts.get(name) or QueueAnswer(name=name)
        waiting = (counted.messages_ready or 0) + (counted.messages_unacknowledged or 0)
        oldest = found.oldest.get(name) if found else None
        if process and (oldest is None or counted.consumers == 0):
            oldest = self._waiting_seconds(counted, waiting)
        problem = None
        if process and counted.messages_ready is not None and counted.consumers is not None:
            problem = why_stuck(name, waiting, counted.consumers, oldest or 0.0)
        return QueueView(
            name=name,
            kind=kind_of(queue, self.topology.delays),
            process=process,
            ready=counted.messages_ready,
            unacked=counted.messages_unacknowledged,
            consumers=counted.consumers,
            oldest_seconds=oldest or None,
            publish_rate=counted.message_stats.publish_details.rate,
            ack_rate=counted.message_stats.ack_details.rate,
            paused=found.health.paused.get(name) if found and found.health else None,
            problem=problem,
        )

    def _waiting_seconds(self, counted: QueueAnswer, waiting: int) -> float | None:
        """Return how long the oldest message has waited, by the order of arrival; None if that is not known."""
        at, arrived = now(), counted.message_stats.publish
        oldest_at = self._arrivals.oldest(counted.name, arrived=arrived, waiting=waiting, now=at)
        return (at - oldest_at).total_seconds() if oldest_at is not None else None


class _Recent(Generic[T]):
    """The result of *look*, shared by all who ask for it at the same moment or soon after."""

    def __init__(self, look: Callable[[], Awaitable[T]]) -> None:
        self._look = look
        self._task: asyncio.Task[tuple[float, T]] | None = None

    async def get(self) -> T:
        if self._task is None or not self._is_recent(self._task):
            self._task = asyncio.create_task(self._take())
        # One who goes away does not take the answer from the others.
        _, result = await asyncio.shield(self._task)
        return result

    async def _take(self) -> tuple[float, T]:
        result = await self._look()
        return asyncio.get_running_loop().time(), result

    def _is_recent(self, task: asyncio.Task[tuple[float, T]]) -> bool:
        if not task.done():
            return True
        if task.cancelled() or task.exception():
            return False
        return asyncio.get_running_loop().time() < task.result()[0] + _RECENT_SECONDS
