"""Adds, shows and removes subscriptions through RabbitMQ's management API. Edge."""

from __future__ import annotations

import re
import secrets
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Final

from pydantic import JsonValue

from services.ops.queues import Arrivals, PageAnswer, Q, QueueAnswer
from services.ops.subscriptions.answers import Binding, BoundAnswer, Policy
from services.ops.subscriptions.plan import (
    OVERFLOW,
    OVERFLOW_LENGTH,
    PREFIX,
    arguments,
    overflow_arguments,
    overflow_of,
    policy,
    queue_of,
    rights,
    user_of,
)
from services.ops.subscriptions.views import (
    DEFAULT_LENGTH,
    LONGEST,
    NoManagement,
    NoSubscription,
    PasswordRotated,
    Planned,
    Subscribe,
    SubscriptionAdded,
    SubscriptionView,
)
from shared.contract.events import EVENTS_EXCHANGE
from shared.contract.topology import topology
from shared.runtime.addresses import with_login, without_parameters
from shared.runtime.clock import now
from shared.runtime.management import Management

_PASSWORD_BYTES: Final = 24
#: The largest page of the management API.
_PAGE: Final = 500
_MOST_PAGES: Final = 20
#: How many exchanges that others bound to ours, or to each other, are followed.
_MOST_EXCHANGES: Final = 50
_BOUND_COLUMNS: Final = "name,state,arguments,effective_policy_definition"
_COLUMNS: Final = "name,messages,consumers,message_stats.publish"


class Subscriptions:
    """The subscriptions of one broker. Every method raises `NoManagement` without the management API's address."""

    def __init__(self, management: Management | None, amqp_url: str) -> None:
        """*amqp_url* is the address that subscribers are given, with a user of their own."""
        self._ours = {queue.name for queue in topology().queues}
        self._given = management
        self._amqp_url = amqp_url
        self._arrivals = Arrivals()

    async def list_all(self) -> list[SubscriptionView]:
        """Return all subscriptions by name; their queues were counted up to five seconds ago."""
        queues, bindings, limits = await self._queues(), await self._bindings(), await self._limits()
        names = sorted(queue.removeprefix(PREFIX) for queue in queues if not queue.endswith(OVERFLOW))
        self._arrivals.note({name: queues[queue_of(name)].message_stats.publish for name in names}, at=now())
        return [
            self._view(
                name,
                queues[queue_of(name)],
                queues.get(overflow_of(name)),
                bindings[queue_of(name)],
                limits.get(user_of(name), LONGEST),
            )
            for name in names
        ]

    async def list_blocking(self) -> list[str]:
        """Return why each queue of others that gets public events holds up all subscribers, or could."""
        bound = await self._bound_queues()
        # From the list: asked for one queue alone, RabbitMQ 4.3 says that it runs while its node is down (2026-11).
        queues = await self._list(PageAnswer[BoundAnswer], {"columns": _BOUND_COLUMNS}) if bound else []
        reasons = (queue.why_blocking for queue in queues if queue.name in bound)
        return sorted(reason for reason in reasons if reason)

    async def _bound_queues(self) -> set[str]:
        """Return the queues of others that get public events, also through exchanges that are bound to ours."""
        queues, exchanges = set(), [EVENTS_EXCHANGE]
        for exchange in exchanges:  # grows on the way
            for binding in await self._bindings_from(exchange):
                if binding.destination_type == "queue":
                    queues.add(binding.destination)
                elif binding.destination not in exchanges and len(exchanges) < _MOST_EXCHANGES:
                    exchanges.append(binding.destination)
        return {queue for queue in queues if queue not in self._ours and not queue.startswith(PREFIX)}

    async def _find(self, queue: str) -> QueueAnswer | None:
        return await self._management.find(QueueAnswer, "queues", queue, query={"columns": _COLUMNS})

    async def get(self, name: str) -> SubscriptionView:
        """
        Return one subscription, as `list_all` does.

        Raises:
            NoSubscription: if there is none of that name.

        """
        queue, overflow = await self._find(queue_of(name)), await self._find(overflow_of(name))
        if queue is None:
            raise NoSubscription(f"there is no subscription {name}")
        bindings, limits = await self._bindings(), await self._limits()
        return self._view(name, queue, overflow, bindings[queue_of(name)], limits.get(user_of(name), LONGEST))

    async def plan(self, name: str, wanted: Subscribe) -> Planned:
        """Return what `put` will do."""
        is_new = not await self._management.has_user(user_of(name))
        return Planned(is_new, await self._length(name, wanted))

    async def put(self, name: str, wanted: Subscribe) -> SubscriptionAdded:
        """
        Add a subscription, or change its events and its limit; a new one's answer has the password.

        Raises:
            Inequivalent: if a queue of that name exists that is not ours.

        """
        management, queue = self._management, queue_of(name)
        length = await self._length(name, wanted)
        # First what may be refused. Events arrive once all is there.
        await management.put("queues", queue, body=_durable(arguments(name)))
        await management.put("queues", overflow_of(name), body=_durable(overflow_arguments()))
        await management.put("policies", user_of(name), body=policy(name, length))
        bound = {binding.routing_key: binding for binding in (await self._bindings())[queue]}
        for key in wanted.events:
            if key not in bound:
                await management.post("bindings", "e", EVENTS_EXCHANGE, "q", queue, body={"routing_key": key})
        for key, binding in bound.items():
            if key not in wanted.events:
                await management.delete("bindings", "e", EVENTS_EXCHANGE, "q", queue, binding.properties_key)
        # Asked only now: if another request has made the user meanwhile, its password stays.
        is_new = not await management.has_user(user_of(name))
        amqp_url = await self._new_password(name) if is_new else None
        await management.set_rights(user_of(name), rights(name))
        return SubscriptionAdded(**(await self.get(name)).model_dump(), amqp_url=amqp_url)

    async def _length(self, name: str, wanted: Subscribe) -> int:
        return wanted.max_length or (await self._limits()).get(user_of(name), DEFAULT_LENGTH)

    async def rotate_password(self, name: str) -> PasswordRotated:
        """
        Give the subscription's user another password.

        Raises:
            NoSubscription: if there is none of that name.

        """
        await self.get(name)
        amqp_url = await self._new_password(name)
        await self._management.set_rights(user_of(name), rights(name))
        return PasswordRotated(name=name, amqp_url=amqp_url)

    async def remove(self, name: str) -> SubscriptionView:
        """
        Remove the user, the queues and what waits in them; return what there was.

        Raises:
            NoSubscription: if there is none of that name.

        """
        shown = await self.get(name)
        await self._management.delete_user(user_of(name))
        # The queue last: without it there is no subscription, and what a failure left over could not be removed.
        await self._management.delete("queues", overflow_of(name))
        await self._management.delete("policies", user_of(name))
        await self._management.delete("queues", queue_of(name))
        return shown

    async def _new_password(self, name: str) -> str:
        password = secrets.token_urlsafe(_PASSWORD_BYTES)
        await self._management.put_user(user_of(name), password)
        # Its parameters name files of ours.
        return without_parameters(with_login(self._amqp_url, user_of(name), password))

    async def _queues(self) -> dict[str, QueueAnswer]:
        """Return the queues of all subscriptions by name."""
        query = {"name": f"^{re.escape(PREFIX)}", "use_regex": "true", "columns": _COLUMNS}
        return {queue.name: queue for queue in await self._list(PageAnswer[QueueAnswer], query)}

    async def _list(self, kind: type[PageAnswer[Q]], query: Mapping[str, str]) -> list[Q]:
        """Return the queues that *query* selects, page by page."""
        queues: list[Q] = []
        for page in range(1, _MOST_PAGES + 1):
            at = {"page": str(page), "page_size": str(_PAGE)}
            found = await self._management.find(kind, "queues", query={**query, **at})
            queues += found.items if found else ()
            if found is None or page >= found.page_count:
                break
        return queues

    async def _limits(self) -> dict[str, int]:
        """Return the limits that policies set, by their names: what queues say of it is up to five seconds old."""
        found = await self._management.find(list[Policy], "policies") or []
        return {each.name: each.definition.max_length for each in found}

    async def _bindings(self) -> dict[str, list[Binding]]:
        """Return the bindings of the exchange of public events by queue."""
        bindings = defaultdict(list)
        for binding in await self._bindings_from(EVENTS_EXCHANGE):
            bindings[binding.destination].append(binding)
        return bindings

    async def _bindings_from(self, exchange: str) -> Sequence[Binding]:
        return await self._management.find(list[Binding], "exchanges", exchange, "bindings", "source") or ()

    @property
    def _management(self) -> Management:
        if self._given is None:
            raise NoManagement(
                "MODELSWAP_MANAGEMENT_URL of ops is not set: it is the address of RabbitMQ's management API, such as "
                "http://user:password@rabbitmq:15672, with a user that has the tag administrator"
            )
        return self._given

    def _view(
        self, name: str, queue: QueueAnswer, overflow: QueueAnswer | None, bindings: Sequence[Binding], max_length: int
    ) -> SubscriptionView:
        arrived, waiting = queue.message_stats.publish, queue.messages or 0
        return SubscriptionView(
            name=name,
            events=sorted(binding.routing_key for binding in bindings),
            max_length=max_length,
            queue=queue.name,
            user=user_of(name),
            waiting=waiting,
            consumers=queue.consumers or 0,
            oldest_at=self._arrivals.oldest(name, arrived=arrived, waiting=waiting, now=now()),
            overflow_queue=overflow_of(name),
            overflowed=(overflow and overflow.messages) or 0,
            overflow_max_length=OVERFLOW_LENGTH,
        )


def _durable(given: Mapping[str, JsonValue]) -> Mapping[str, JsonValue]:
    return {"durable": True, "auto_delete": False, "arguments": dict(given)}
