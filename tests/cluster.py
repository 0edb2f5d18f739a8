"""Three private RabbitMQ nodes that are one broker, as a tester kills and starts them."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Final

import pytest

from deploy.local.binaries import get_rabbitmq
from deploy.local.errors import Say, Unavailable
from deploy.local.rabbitmq import RabbitMQ, node_name, port_mapper
from deploy.local.state import State, temporary_state

_NODES: Final = 3


@contextlib.contextmanager
def running_cluster(say: Say, *, series: str = "auto") -> Iterator[Sequence[RabbitMQ]]:
    """Three nodes of one broker, all ready; where RabbitMQ can not be had, the test is skipped with the reason."""
    try:
        binaries = get_rabbitmq(series, say)
    except Unavailable as error:
        pytest.skip(str(error))
    with contextlib.ExitStack() as stack:
        states = [stack.enter_context(temporary_state()) for _ in range(_NODES)]
        first = states[0]
        mapper = port_mapper(binaries, first)
        stack.callback(mapper.end)
        names = [node_name(state.ports) for state in states]
        nodes = [RabbitMQ(binaries, _joined(state, first), cluster=names) for state in states]
        for node in nodes:
            stack.callback(node.end)
            node.launch()
        for node in nodes:
            node.wait_until_ready()
        yield nodes


def _joined(state: State, first: State) -> State:
    """*state* with what all nodes share: port mapper, password, and the cookie that they know each other by."""
    home = state.folder / "rabbitmq"
    home.mkdir(mode=0o700)
    cookie = home / ".erlang.cookie"
    cookie.write_text(first.password)
    cookie.chmod(0o400)
    return replace(state, password=first.password, ports=replace(state.ports, epmd=first.ports.epmd))
