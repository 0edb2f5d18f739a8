"""RabbitMQ as commands reach it: over AMQP, and its management API; its errors in words for who typed. Edge."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from typing import Final

from services.cli.problem import Problem, Refused
from shared.contract.errors import DependencyDown
from shared.runtime.broker import Publisher
from shared.runtime.broker.link import Link
from shared.runtime.broker.link_errors import LINK_ERRORS, is_forbidden, is_refused, say
from shared.runtime.management import Management, opened_management
from shared.runtime.setting_types import ManagementUrl
from shared.runtime.settings import BrokerSettings

#: What to do where the management API does not answer.
MANAGEMENT: Final = "start RabbitMQ's management API, or correct MODELSWAP_MANAGEMENT_URL"
_REFUSED: Final = "check the user in MODELSWAP_AMQP_URL"
_FORBIDDEN: Final = f"{_REFUSED}: a process's own may do only what that process does"


class _ManagementSettings(BrokerSettings):
    management_url: ManagementUrl | None = None


def broker_url(environment: Mapping[str, str]) -> str:
    return BrokerSettings.load(environment).amqp_url.get_secret_value()


@contextmanager
def broker_problems() -> Iterator[None]:
    """Translate the AMQP library's errors to problems."""
    try:
        yield
    except LINK_ERRORS as error:
        raise _problem(say(error), error) from error
    except DependencyDown as error:
        if not is_refused(error.__cause__):
            raise
        raise _problem(str(error), error.__cause__) from error


def _problem(said: str, error: BaseException | None) -> Problem:
    if is_forbidden(error):
        return Refused(said, then=_FORBIDDEN)
    return Problem(said, then=_REFUSED if is_refused(error) else "modelswap doctor")


@asynccontextmanager
async def linked(environment: Mapping[str, str], *, name: str) -> AsyncIterator[Link]:
    """Yield a connection to the broker; *name* is what RabbitMQ shows of it."""
    url = broker_url(environment)
    with broker_problems():
        async with Link.opened(url, name=name) as link:
            yield link


@asynccontextmanager
async def opened_publisher(settings: BrokerSettings, *, name: str) -> AsyncIterator[Publisher]:
    url, seconds = settings.amqp_url.get_secret_value(), settings.publish_timeout_seconds
    with broker_problems():
        async with Publisher(url, name=name, timeout_seconds=seconds) as publisher:
            yield publisher


def opened_api(environment: Mapping[str, str]) -> AbstractAsyncContextManager[Management | None]:
    """Open the broker's management API; None: its address is not set."""
    settings = _ManagementSettings.load(environment)
    return opened_management(settings.management_url, settings.amqp_url.get_secret_value())
