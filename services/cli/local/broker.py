"""RabbitMQ as commands on this machine reach it: over AMQP, and its management API. Edge."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

from services.cli.broker import broker_problems
from services.cli.local.stack import Environment
from shared.runtime.broker.link import Link
from shared.runtime.management import Management, opened_management
from shared.runtime.setting_types import ManagementUrl
from shared.runtime.settings import BrokerSettings

#: What to do where the management API does not answer.
MANAGEMENT: Final = "start RabbitMQ's management API, or correct MODELSWAP_MANAGEMENT_URL"


class _ManagementSettings(BrokerSettings):
    management_url: ManagementUrl | None = None


@asynccontextmanager
async def opened(environment: Environment) -> AsyncIterator[Management | None]:
    """Yield the broker's management API; None: its address is not set."""
    settings = _ManagementSettings.load(environment)
    async with opened_management(settings.management_url, settings.amqp_url.get_secret_value()) as management:
        yield management


@asynccontextmanager
async def linked(environment: Environment, *, name: str) -> AsyncIterator[Link]:
    """Yield a connection to the broker; *name* is what RabbitMQ shows of it."""
    url = BrokerSettings.load(environment).amqp_url.get_secret_value()
    with broker_problems():
        async with Link.opened(url, name=name) as link:
            yield link
