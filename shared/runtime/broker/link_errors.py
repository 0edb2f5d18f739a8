"""The errors of a connection to RabbitMQ: what the client library raises, and what it means."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import aiormq
from pamqp.exceptions import PAMQPException

from shared.contract.health import RABBITMQ_AWAY
from shared.runtime.tls import say_tls

#: Errors of a lost connection. A frozen broker causes TimeoutError; see also `is_stray_cancel`.
LINK_ERRORS: Final = (
    aiormq.exceptions.AMQPError,
    PAMQPException,
    OSError,
    RuntimeError,
    StopAsyncIteration,
    TimeoutError,
)

#: The broker closed the channel or the connection because of a published message.
CONTENT_ERRORS: Final = (
    aiormq.exceptions.ChannelPreconditionFailed,
    aiormq.exceptions.ConnectionFrameError,
    aiormq.exceptions.ConnectionSyntaxError,
    aiormq.exceptions.ConnectionUnexpectedFrame,
    aiormq.exceptions.ConnectionNotImplemented,
)

CLOSED: Final = "the connection was closed"


class Returned(Exception):
    """A mandatory message reached no queue."""


class Nacked(Exception):
    """The broker refused a message."""


@contextmanager
def no_bare_exception() -> Iterator[None]:
    """
    Raise ConnectionError, one of LINK_ERRORS, where the library raises a bare `Exception`.

    It does so in each request that is under way, or begins, while a connection is closed without a reason, as after the
    broker's `connection.close-ok` or the end of its reader (aiormq 7.2; seen in a chaos test, 2026-11).
    """
    try:
        yield
    except Exception as error:
        if type(error) is not Exception:
            raise
        raise ConnectionError(CLOSED) from error


def is_forbidden(error: BaseException | None) -> bool:
    """Return whether the broker knows us, and does not let us do what we asked for."""
    return isinstance(error, aiormq.exceptions.ChannelAccessRefused)


def is_refused(error: BaseException | None) -> bool:
    """Return whether the broker refused us (credentials, permissions), so that retrying does not help."""
    refusals = (
        aiormq.exceptions.ProbableAuthenticationError,
        aiormq.exceptions.AuthenticationError,
        aiormq.exceptions.ChannelAccessRefused,
        aiormq.exceptions.ConnectionNotAllowed,
    )
    return isinstance(error, refusals)


def say(error: BaseException) -> str:
    """Describe a connection's *error* in a sentence for operators."""
    if is_refused(error):
        return f"RabbitMQ refuses us: {error}"
    if sentence := say_tls("RabbitMQ", error):
        return sentence
    text = str(error) or type(error).__name__
    return text if text.startswith("RabbitMQ") else f"{RABBITMQ_AWAY}: {text}"
