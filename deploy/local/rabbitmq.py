"""A private RabbitMQ, on one node or on several that are one broker: start, crash, stop, start again. Edge."""

from __future__ import annotations

import base64
import contextlib
import http.client
import os
import signal
import socket
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

from deploy.local.binaries import RabbitMQBinaries
from deploy.local.errors import LocalServersError, Say
from deploy.local.plugins import with_few_plugins
from deploy.local.process import Process
from deploy.local.state import Ports, State, kept_state, temporary_state
from shared.runtime.private_files import write_private

_USER: Final = "modelswap"
_AMQP_HEADER: Final = b"AMQP\x00\x00\x09\x01"
_CONFIGURATION: Final = """\
listeners.tcp.1 = 127.0.0.1:{amqp}
management.tcp.ip = 127.0.0.1
management.tcp.port = {management}
default_user = {user}
default_pass = {password}
disk_free_limit.absolute = 50MB
vm_memory_high_watermark.absolute = 1GB
# The default way reads /proc, and a container may have none.
vm_memory_calculation_strategy = allocated
log.console = true
log.console.level = warning
log.file = false
"""

#: How soon a frozen node counts as down, which by default takes a minute: the events log waits so long for a leader.
#: And how it joins the others again; RabbitMQ 4.3 ignores this, and needs no setting for it.
AMONG_NODES: Final = "net_ticktime = 15\ncluster_partition_handling = autoheal\n"


def node_name(ports: Ports) -> str:
    """Return a fixed node name: the machine's own may not resolve, or change, and another name is an empty broker."""
    return f"modelswap-{ports.amqp}@localhost"


class PortMapper(Process):
    """The port mapper (epmd) of all nodes, in the foreground: one that RabbitMQ starts would not end with them."""

    def __init__(self, binaries: RabbitMQBinaries, state: State) -> None:
        super().__init__(
            "RabbitMQ's port mapper",
            [str(binaries.epmd)],
            {**os.environ, "ERL_EPMD_ADDRESS": "127.0.0.1", "ERL_EPMD_PORT": str(state.ports.epmd)},
            log=state.folder / "epmd.log",
            end_signal=signal.SIGTERM,
            keeps_open=state.locks,
        )
        self._port = state.ports.epmd

    def is_ready(self) -> bool:
        with socket.create_connection(("127.0.0.1", self._port), timeout=1):
            return True


class RabbitMQ(Process):
    """One private RabbitMQ, or one node of a cluster; its port mapper runs already."""

    def __init__(
        self, binaries: RabbitMQBinaries, state: State, *, cluster: Sequence[str] = (), configuration: str = ""
    ) -> None:
        """
        Add lines of *configuration* to its own.

        *cluster*: the names of all nodes, which share cookie and password.
        """
        self.binaries = binaries
        self._state = state
        self._cluster = cluster
        self._configuration = configuration
        self._folder = state.folder / "rabbitmq"
        super().__init__(
            "RabbitMQ",
            [],  # known at launch
            self._environment(),
            log=self._folder / "log",
            end_signal=signal.SIGTERM if state.kept else signal.SIGKILL,
            keeps_open=state.locks,
        )

    @property
    def name(self) -> str:
        return node_name(self._state.ports)

    @property
    def url(self) -> str:
        return f"amqp://{_USER}:{self._state.password}@127.0.0.1:{self._state.ports.amqp}/"

    @property
    def management_url(self) -> str:
        return f"http://{_USER}:{self._state.password}@127.0.0.1:{self._state.ports.management}"

    def stop(self) -> None:
        """Shut it down cleanly, which takes 3.10 six seconds."""
        self.end_by(signal.SIGTERM)

    def kill(self) -> None:
        """
        Crash it.

        A crash within half a second of a quorum queue's declaration empties that queue, confirmed messages included:
        its name reaches the disk later than they do (seen with 3.10 and 4.3, 2026-11).
        """
        self.end_by(signal.SIGKILL)

    def launch(self) -> None:
        self.end()
        self._configure()
        self.command = [str(with_few_plugins(self.binaries.server, self._folder / "server"))]
        super().launch()

    def is_ready(self) -> bool:
        with socket.create_connection(("127.0.0.1", self._state.ports.amqp), timeout=1) as connection:
            connection.sendall(_AMQP_HEADER)
            if connection.recv(1) != b"\x01":  # the start of Connection.Start
                return False
        return self._has_management()

    def _has_management(self) -> bool:
        """Poll until it answers 200: 4.3 answers 500 for a moment after AMQP is open."""
        connection = http.client.HTTPConnection("127.0.0.1", self._state.ports.management, timeout=2)
        credentials = base64.b64encode(f"{_USER}:{self._state.password}".encode()).decode()
        try:
            connection.request("GET", "/api/overview", headers={"Authorization": f"Basic {credentials}"})
            return connection.getresponse().status == http.HTTPStatus.OK
        except http.client.HTTPException:
            return False
        finally:
            connection.close()

    def _configure(self) -> None:
        folder, ports = self._folder, self._state.ports
        folder.mkdir(mode=0o700, exist_ok=True)
        (folder / "rabbitmq.conf").write_text(
            _CONFIGURATION.format(
                amqp=ports.amqp, management=ports.management, user=_USER, password=self._state.password
            )
            + "".join(
                f"cluster_formation.classic_config.nodes.{number} = {name}\n"
                for number, name in enumerate(self._cluster, start=1)
            )
            + (AMONG_NODES if self._cluster else "")
            + self._configuration
        )
        (folder / "plugins").write_text("[rabbitmq_management].\n")

    def _environment(self) -> dict[str, str]:
        """Return the environment with which it reads no configuration but ours."""
        folder, ports = self._folder, self._state.ports
        environment = {
            name: value for name, value in os.environ.items() if not name.startswith(("RABBITMQ_", "ERL_", "NOTIFY_"))
        }
        if self.binaries.erlang is not None:
            environment["PATH"] = f"{self.binaries.erlang}:{environment.get('PATH', os.defpath)}"
        return environment | {
            "HOME": str(folder),  # the cookie lands here
            "LANG": "C.UTF-8",
            "ERL_CRASH_DUMP": str(folder / "erl_crash.dump"),
            "ERL_EPMD_ADDRESS": "127.0.0.1",
            "ERL_EPMD_PORT": str(ports.epmd),
            "RABBITMQ_NODENAME": self.name,
            "RABBITMQ_CONF_ENV_FILE": os.devnull,
            "RABBITMQ_CONFIG_FILE": str(folder / "rabbitmq.conf"),
            "RABBITMQ_ADVANCED_CONFIG_FILE": str(folder / "no-such-file"),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(folder / "plugins"),
            "RABBITMQ_MNESIA_BASE": str(folder / "data"),
            "RABBITMQ_LOG_BASE": str(folder / "logs"),
            "RABBITMQ_PID_FILE": str(folder / "pid"),
            "RABBITMQ_DIST_PORT": str(ports.distribution),
            # The script then becomes the server instead of waiting for it, so signals reach the server.
            "RABBITMQ_ALLOW_INPUT": "1",
            # No busy waiting: here the server shares its cores with everything that it serves.
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "-noinput -kernel inet_dist_use_interface {127,0,0,1}"
            " +sbwt none +sbwtdcpu none +sbwtdio none",
        }


@contextlib.contextmanager
def launched_nodes(binaries: RabbitMQBinaries, first: State, count: int, say: Say) -> Iterator[Sequence[RabbitMQ]]:
    """Launch *count* nodes, the first of them in *first*, whose port mapper runs; each has yet to be ready."""
    with contextlib.ExitStack() as stack:
        states = [first, *(stack.enter_context(_another(first, number, say)) for number in range(2, count + 1))]
        if _folder_of(first, count + 1).exists():
            # Without the others, a node of a cluster has no majority, and so no queue.
            raise LocalServersError(
                f"the RabbitMQ in {first.folder} has more than {count} nodes: start as many, or choose another folder"
            )
        names = [node_name(state.ports) for state in states] if count > 1 else []
        nodes = [RabbitMQ(binaries, state, cluster=names) for state in states]
        for node, state in zip(nodes, states, strict=True):
            if count > 1:
                _share_cookie(state, first)
            stack.callback(node.end)
            node.launch()
        yield nodes


@contextlib.contextmanager
def _another(first: State, number: int, say: Say) -> Iterator[State]:
    """Yield the state of a further node, which shares the first one's port mapper and password."""
    place = kept_state(_folder_of(first, number), say) if first.kept else temporary_state()
    with place as state:
        yield replace(state, password=first.password, ports=replace(state.ports, epmd=first.ports.epmd))


def _folder_of(first: State, number: int) -> Path:
    return first.folder / f"node-{number}"


def _share_cookie(state: State, first: State) -> None:
    """Write the cookie by which nodes know each other; a first node that ran alone before has one."""
    given = first.folder / "rabbitmq" / ".erlang.cookie"
    text = given.read_text() if given.exists() else first.password
    home = state.folder / "rabbitmq"
    home.mkdir(mode=0o700, exist_ok=True)
    cookie = home / ".erlang.cookie"
    if not cookie.exists():
        write_private(cookie, text)
