"""RabbitMQ on one node, or on several that are one broker. Edge."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from deploy.local.binaries import RabbitMQBinaries
from deploy.local.errors import LocalServersError, Say
from deploy.local.rabbitmq import RabbitMQ, node_name
from deploy.local.state import State, kept_state, temporary_state
from shared.runtime.private_files import write_private


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
