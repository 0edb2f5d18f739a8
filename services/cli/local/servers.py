"""Migrations and topology: applied, and compared with the database and the broker. Edge."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import datetime
from typing import Final, NamedTuple

from services.cli.broker import MANAGEMENT, broker_problems, linked, opened_api
from services.cli.choices import Format
from services.cli.local.database import database_url, login_problems
from services.cli.local.stack import Environment
from services.cli.local.users import differences, find_passwords, make_users
from services.cli.output import tell
from services.cli.problem import Problem
from services.cli.table import Column, print_list
from services.notifier import migrate as notifier
from services.ops import migrate as ops
from services.state import migrate as state
from shared.contract.errors import DependencyDown
from shared.contract.topology import Topology
from shared.runtime.broker import declare, declare_log, diff
from shared.runtime.management import Management, ManagementRefused
from shared.runtime.settings import TopologySettings

#: Of several nodes that hang, each takes as long; the doctor waits 15 seconds in all.
_MANAGEMENT_SECONDS: Final = 10.0
MIGRATIONS: Final[Sequence[Column[tuple[str, datetime | None]]]] = (
    Column("migration", lambda each: each[0]),
    Column("applied", lambda each: each[1] or "no"),
)
#: For lines that name an exchange, a queue or a user, then the difference.
DIFFERENCES: Final[Sequence[Column[str]]] = (
    Column("what", lambda line: line.partition(": ")[0]),
    Column("difference", lambda line: line.partition(": ")[2], is_prose=True),
)
_SCHEMAS = (state.MIGRATIONS, ops.MIGRATIONS, notifier.MIGRATIONS)


async def migrate(environment: Environment) -> list[str]:
    url = database_url(environment)
    with login_problems():
        return [f"{schema.schema}.{name}" for schema in _SCHEMAS for name in await schema.apply(url)]


async def migration_status(environment: Environment) -> list[tuple[str, datetime | None]]:
    url = database_url(environment)
    with login_problems():
        return [(f"{schema.schema}.{name}", at) for schema in _SCHEMAS for name, at in await schema.status(url)]


async def declare_topology(environment: Environment) -> Topology:
    """
    Declare every exchange and queue, the lossy ones last; existing ones are not changed.

    Create the processes' users, too, if *environment* has their passwords.
    """
    plan = TopologySettings.load(environment).topology
    for part in (plan.lasting, plan.lossy):
        async with linked(environment, name="modelswap topology") as link:
            await declare(link.channel, part)
    async with linked(environment, name="modelswap topology") as link:
        if difference := await declare_log(link, plan):
            tell(difference)
    if passwords := find_passwords(environment):
        async with opened_api(environment) as management:
            if management is None:
                then = "set it: http://user:password@host:15672, with a user that has the tag administrator"
                raise Problem("users are created through MODELSWAP_MANAGEMENT_URL, which is not set", then=then)
            await make_users(management, passwords, plan)
    return plan


class Comparison(NamedTuple):
    """How the broker differs from the plan."""

    #: One for each exchange, queue, binding or user of a process that is missing or differs.
    lines: Sequence[str]
    #: What could not be compared, and why; empty if all was.
    unseen: str = ""
    #: Whether it should have been compared: the management API is configured.
    is_lacking: bool = False

    @property
    def as_planned(self) -> str:
        """Say what is as planned, if there are no differences."""
        compared = "exchange and queue" if self.unseen else "exchange, queue, binding and user"
        return f"every {compared} is as planned"


async def diff_topology(environment: Environment) -> Comparison:
    """Compare the broker with the plan; bindings and users only if its management API is known."""
    settings = TopologySettings.load(environment)
    with broker_problems():
        found = await diff(settings.amqp_url.get_secret_value(), settings.topology)
    rest = await _bindings_and_users(environment, settings.topology)
    return rest._replace(lines=[*found, *rest.lines])


async def _bindings_and_users(environment: Environment, plan: Topology) -> Comparison:
    async with opened_api(environment) as management:
        if management is None:
            return Comparison([], "bindings and users were not looked at: MODELSWAP_MANAGEMENT_URL is not set")
        try:
            async with asyncio.timeout(_MANAGEMENT_SECONDS):
                return Comparison([*await _missing_bindings(management, plan), *await differences(management, plan)])
        except (DependencyDown, ManagementRefused, TimeoutError) as error:
            why = str(error) or "RabbitMQ's management API does not answer in time"
            return Comparison([], f"bindings and users are not known: {why}", is_lacking=True)


async def _missing_bindings(management: Management, plan: Topology) -> list[str]:
    """AMQP cannot list them. A queue that is missing has a line of its own already."""
    found = {queue.name: await management.bindings_of(queue.name) for queue in plan.queues}
    lines = []
    for each in plan.bindings:
        there = found[each.queue]
        if there is not None and each not in there:
            how = f"exchange {each.exchange} with routing key {each.routing_key}"
            lines.append(f"queue {each.queue}: missing binding to {how}")
    return lines


def print_migrations(migrations: Sequence[tuple[str, datetime | None]], output: Format) -> bool:
    """Print the migrations; return True if all are applied."""
    data = [{"name": name, "applied_at": at and at.isoformat()} for name, at in migrations]
    print_list(migrations, MIGRATIONS, output, empty="no migrations", data=data)
    return all(at for _, at in migrations)


def print_differences(comparison: Comparison, output: Format) -> bool:
    """Print the differences; return True if there are none."""
    print_list(comparison.lines, DIFFERENCES, output, empty=comparison.as_planned)
    if any("missing" in line for line in comparison.lines):
        tell("modelswap topology apply makes what is missing")
    if comparison.is_lacking:
        raise Problem(comparison.unseen, then=MANAGEMENT)
    if comparison.unseen and output != Format.JSON:  # a program knows whether it set the address
        tell(comparison.unseen)
    return not comparison.lines
