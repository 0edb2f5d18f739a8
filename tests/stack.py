"""The product's processes on loopback, as a tester sees them: start, kill, ask, read what they logged."""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import json
import os
import secrets
import signal
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Protocol, Self
from uuid import uuid4

import httpx

from services.cli.local.users import make_users
from shared.contract.rights import USERS
from shared.contract.topology import Topology
from shared.runtime.addresses import with_login
from shared.runtime.management import Management
from shared.runtime.ports import free_ports
from tests import forks
from tests.broker import Broker
from tests.databases import logged_in

ROOT: Final = forks.ROOT
#: The public test secret of the Standard Webhooks libraries.
WEBHOOK_SECRET: Final = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
API_TOKEN: Final = "token-of-the-product"
SERVICE_TOKEN: Final = "token-of-ops-at-state"
OPS_TOKEN: Final = "token-of-an-operator"
READER_TOKEN: Final = "token-of-a-reader"
REPLICATE_TOKEN: Final = "r8_simulator"
SERVICES: Final = ("receiver", "extractor", "state", "ops", "notifier")
#: Eight processes that start at once on a busy machine take more than one minute.
_READY_SECONDS: Final = 240
#: By itself, httpx gives up after five seconds.
_PATIENCE_SECONDS: Final = 60
#: Between two questions, whose answers take as much CPU as the work that is waited for.
_FIRST_PAUSE: Final = 0.03
_LONGEST_PAUSE: Final = 0.2


#: Kept until the tests end: other runs on this machine look for ports as well.
_reservations: Final = contextlib.ExitStack()
atexit.register(_reservations.close)


def free_port() -> int:
    (port,) = reserved_ports(1)
    return port


def reserved_ports(count: int) -> list[int]:
    """So many free ports that no other run of the tests takes while this one lasts."""
    return _reservations.enter_context(free_ports(count))


def plain_client(**options: Any) -> httpx.AsyncClient:
    """A client for plain HTTP on loopback: to read the certificates that TLS needs takes longer than many requests."""
    return httpx.AsyncClient(**{"verify": False, "trust_env": False, "timeout": _PATIENCE_SECONDS, **options})


async def make_broker_users(management_url: str, plan: Topology) -> None:
    """Make the user of each process, with the rights that it has in production."""
    async with Management(management_url, vhost="/") as management:
        await make_users(management, {name: _password(name) for name in SERVICES}, plan)


def as_broker_user(amqp_url: str, name: str) -> dict[str, str]:
    """The settings of the process of that *name*, as a user that may declare nothing."""
    return {
        "MODELSWAP_AMQP_URL": with_login(amqp_url, USERS[name], _password(name)),
        "MODELSWAP_DECLARE_TOPOLOGY": "false",
    }


def _password(name: str) -> str:
    return f"password-of-{name}"


async def insist(ask: Callable[[], Awaitable[httpx.Response]]) -> httpx.Response:
    """Ask, again while the answer is 503: on a busy machine, a server of the product may not answer it in time."""
    async with asyncio.timeout(_PATIENCE_SECONDS):
        while (answer := await ask()).status_code == 503:
            await asyncio.sleep(_LONGEST_PAUSE)
    return answer


async def post(api: httpx.AsyncClient, path: str, body: object = None, **headers: str) -> httpx.Response:
    """Post *body*, again while the answer is 503; by its key, it is done once."""
    own = {"Idempotency-Key": uuid4().hex, **headers}
    return await insist(lambda: api.post(path, json=body, headers=own))


class Running(Protocol):
    """A process of the operating system."""

    @property
    def pid(self) -> int | None: ...

    @property
    def exitcode(self) -> int | None: ...

    def is_alive(self) -> bool: ...

    def join(self, timeout: float) -> None: ...


class Process:
    """One process of the product, and what it logged."""

    def __init__(self, name: str, environment: Mapping[str, str], log: Path, *, module: str | None = None) -> None:
        """*module* is what runs instead of the service itself."""
        self.name = name
        self._module = module or f"services.{name}"
        self.environment = {**os.environ, **environment}
        self.log = log
        self._running: Running | None = None

    def with_module(self, module: str) -> Process:
        """Another process in its place, with the same settings."""
        return Process(self.name, self.environment, self.log, module=module)

    def start(self) -> None:
        with self.log.open("ab") as log:
            self._running = forks.start(self._module, (), self.environment, output=log.fileno(), errors=log.fileno())

    @property
    def pid(self) -> int:
        assert self._running is not None
        assert self._running.pid is not None
        return self._running.pid

    @property
    def is_alive(self) -> bool:
        return self._running is not None and self._running.is_alive()

    def kill(self) -> None:
        """As the kernel does it: nothing of the process runs any more."""
        self._send(signal.SIGKILL)
        self.wait()

    def stop(self) -> int:
        """As an orchestrator does it; returns the exit code."""
        self.ask_to_stop()
        return self.wait()

    def ask_to_stop(self) -> None:
        """SIGTERM, without waiting for the end."""
        self._send(signal.SIGTERM)

    def _send(self, which: signal.Signals) -> None:
        if self.is_alive:
            os.kill(self.pid, which)

    def wait(self) -> int:
        """Return the exit code; 0 if it was never started."""
        if self._running is None:
            return 0
        self._running.join(_PATIENCE_SECONDS)
        code = self._running.exitcode
        assert code is not None, f"{self.name} still runs"
        return code

    def lines(self) -> list[dict[str, Any]]:
        """What it logged, line by line. The last line may be half written."""
        whole, _, _ = self.log.read_text().rpartition("\n")
        return [json.loads(line) for line in whole.splitlines() if line.startswith("{")]


class Stack:
    """All services against one broker, one database and one (simulated) Replicate."""

    def __init__(
        self,
        folder: Path,
        *,
        amqp_url: str,
        database_url: str,
        replicate_url: str,
        settings: Mapping[str, str] | None = None,
        has_users: bool = False,
    ) -> None:
        """With *has_users*, each process logs in to the broker as the user that `make_broker_users` made for it."""
        #: A tester's hands on its broker.
        self.broker = Broker(amqp_url)
        #: With the tester's login, who may do everything.
        self.database_url = database_url
        self.ports = dict(zip(SERVICES, reserved_ports(len(SERVICES)), strict=True))
        self.environment = {
            "MODELSWAP_AMQP_URL": amqp_url,
            "MODELSWAP_DATABASE_URL": logged_in(database_url, "owner"),
            "MODELSWAP_REPLICATE_API_URL": replicate_url,
            "MODELSWAP_REPLICATE_API_TOKEN": REPLICATE_TOKEN,
            "MODELSWAP_WEBHOOK_SECRETS": WEBHOOK_SECRET,
            "MODELSWAP_REF_SECRETS": secrets.token_urlsafe(),
            "MODELSWAP_WEBHOOK_MASTER_SECRETS": secrets.token_urlsafe(),
            "MODELSWAP_WEBHOOK_ALLOWED_NETWORKS": "127.0.0.0/8",
            "MODELSWAP_API_TOKENS": f"{API_TOKEN},service/ops:{SERVICE_TOKEN}",
            "MODELSWAP_API_URL": self.url("state"),
            "MODELSWAP_EXTRACTOR_URL": self.url("extractor"),
            "MODELSWAP_RECEIVER_URL": self.url("receiver"),
            "MODELSWAP_NOTIFIER_URL": self.url("notifier"),
            "MODELSWAP_OPS_TOKENS": f"operator/olga:{OPS_TOKEN},reader:{READER_TOKEN}",
            "MODELSWAP_PUBLIC_URL": self.url("receiver"),
            "MODELSWAP_RETRY_DELAYS": "200ms,500ms,1s,2s,2s,2s,2s,2s",
            **{f"MODELSWAP_{name.upper()}_PORT": str(port) for name, port in self.ports.items()},
            **(settings or {}),
        }
        logins = {
            name: {"MODELSWAP_DATABASE_URL": logged_in(database_url, name)} for name in ("state", "ops", "notifier")
        }
        users = {name: as_broker_user(amqp_url, name) for name in SERVICES} if has_users else {}
        self.processes = {
            name: Process(
                name, {**self.environment, **logins.get(name, {}), **users.get(name, {})}, folder / f"{name}.log"
            )
            for name in SERVICES
        }
        self.api = plain_client(base_url=self.url("state"), headers={"Authorization": f"Bearer {API_TOKEN}"})
        #: The operators' API, as an operator.
        self.ops = plain_client(base_url=self.url("ops"), headers={"Authorization": f"Bearer {OPS_TOKEN}"})

    def url(self, service: str) -> str:
        return f"http://127.0.0.1:{self.ports[service]}"

    async def __aenter__(self) -> Self:
        for process in self.processes.values():
            process.start()
        try:
            await self.until_ready()
        except BaseException as error:
            await self.__aexit__(type(error), error, error.__traceback__)
            raise
        return self

    @contextlib.asynccontextmanager
    async def clients(self) -> AsyncIterator[None]:
        """The stack without any process of it."""
        async with self.api, self.ops:
            yield

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.api.aclose()
        await self.ops.aclose()
        for process in self.processes.values():
            process.ask_to_stop()
        for process in self.processes.values():
            process.wait()

    async def until_ready(self, *names: str) -> None:
        """Wait until each of these processes (all, if none is named) says that it can do its work."""
        for name in names or SERVICES:
            await self._until_ready(name)

    async def _until_ready(self, name: str) -> None:
        said = "nothing yet"
        pause = _FIRST_PAUSE
        try:
            async with asyncio.timeout(_READY_SECONDS), plain_client() as client:
                while True:
                    if not self.processes[name].is_alive:
                        break
                    with contextlib.suppress(httpx.TransportError):
                        answer = await client.get(f"{self.url(name)}/readyz")
                        said = answer.text
                        if answer.is_success:
                            return
                    await asyncio.sleep(pause)
                    pause = min(1.5 * pause, _LONGEST_PAUSE)
        except TimeoutError:
            pass
        tail = "\n".join(self.processes[name].log.read_text().splitlines()[-15:])
        raise AssertionError(f"{name} is not ready: {said}\n{tail}")

    async def until_in_trouble(self, name: str, part: str, seconds: float = 60) -> str:
        """Wait until this process says that it can not do that *part* of its work, and why."""
        async with asyncio.timeout(seconds), plain_client() as client:
            while True:
                said: str = (await client.get(f"{self.url(name)}/readyz")).json()["checks"][part]
                if said != "ok":
                    return said
                await asyncio.sleep(0.05)

    async def model(self, user_id: str) -> dict[str, Any] | None:
        """The user's current model, or None if there is none yet."""
        answer = await self._ask(f"/v1/users/{user_id}/model")
        if answer.status_code == 404:
            assert answer.json()["type"].endswith("no-model")
            return None
        answer.raise_for_status()
        model: dict[str, Any] = answer.json()
        return model

    async def training(self, training_id: str) -> dict[str, Any]:
        answer = await self._ask(f"/v1/trainings/{training_id}")
        answer.raise_for_status()
        training: dict[str, Any] = answer.json()
        return training

    async def _ask(self, path: str) -> httpx.Response:
        """Ask the product's API."""
        return await insist(lambda: self.api.get(path))

    async def dead_letters(self, **wanted: str) -> list[dict[str, Any]]:
        """The newest letters in the archive."""
        answer = await insist(lambda: self.ops.get("/v1/dead-letters", params=wanted))
        answer.raise_for_status()
        letters: list[dict[str, Any]] = answer.json()["items"]
        return letters

    async def dead_letter(self, training_id: str, seconds: float = 120) -> dict[str, Any]:
        """Wait for a letter of this training."""
        async with asyncio.timeout(seconds):
            while not (found := await self.dead_letters(training_id=training_id)):
                await asyncio.sleep(0.05)
        return found[0]

    async def until_stage(self, training_id: str, *stages: str, seconds: float = 120) -> dict[str, Any]:
        """Wait until the training is in one of *stages*. Its first event may be what makes its id known."""
        seen: dict[str, Any] = {}
        pause = _FIRST_PAUSE
        try:
            async with asyncio.timeout(seconds):
                while True:
                    answer = await self._ask(f"/v1/trainings/{training_id}")
                    seen = answer.json()
                    if answer.status_code != 404:
                        answer.raise_for_status()
                        if seen["stage"] in stages:
                            return seen
                    await asyncio.sleep(pause)
                    pause = min(1.5 * pause, _LONGEST_PAUSE)
        except TimeoutError:
            raise AssertionError(f"{training_id} did not come to {stages}: {seen}") from None
