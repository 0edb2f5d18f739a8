"""`modelswap events`: show public events from the log, and publish one of them again. Edge."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Sequence
from typing import Final

from pydantic import JsonValue

from services.cli.broker import broker_url, opened_publisher
from services.cli.choices import Format
from services.cli.events.heard import Heard, check_public, describe_heard, line
from services.cli.events.log import Wanted, follow, read_to_end
from services.cli.options import read_timestamp
from services.cli.output import confirm, console, print_json_line, tell
from services.cli.problem import Problem
from services.cli.table import Column, print_list
from services.ops.subscriptions.plan import queue_of
from shared.contract.events import EVENTS_EXCHANGE
from shared.contract.headers import carried
from shared.contract.limits import short
from shared.runtime.broker import Outgoing, Unroutable
from shared.runtime.broker.log_reader import offset_of
from shared.runtime.clock import now
from shared.runtime.settings import BrokerSettings

EVENTS: Final[Sequence[Column[Heard]]] = (
    Column("event", lambda each: each.delivery.routing_key, 1),
    Column("of", lambda each: each.attributes.get("subject", ""), 2),
    Column("says", describe_heard, 3, is_prose=True),
    Column("published", lambda each: each.delivery.published_at, 4),
    Column("offset", lambda each: offset_of(each.delivery), 5),
    Column("id", lambda each: each.attributes.get("id", "")),
)


async def list_events(types: Sequence[str], *, user_id: str | None, since: str, limit: int, output: Format) -> None:
    check_public(types)
    begin = read_timestamp(since, now=now())
    wanted = Wanted(types, user_id, since=begin)
    newest: deque[Heard] = deque(maxlen=limit)
    async for heard in read_to_end(broker_url(os.environ), wanted):
        newest.append(heard)
    found = list(reversed(newest))
    data = [_document(each) for each in found]
    empty = f"no such event since {begin:%Y-%m-%d %H:%M:%S%z}: --since looks further back"
    print_list(found, EVENTS, output, empty=empty, limit=limit, data=data)


async def tail_events(types: Sequence[str], *, user_id: str | None, since: str | None, output: Format) -> None:
    check_public(types)
    wanted = Wanted(types, user_id, since=None if since is None else read_timestamp(since, now=now()))
    tell("following the log; Ctrl-C ends it")
    async for heard in follow(broker_url(os.environ), wanted):
        if output is Format.JSON:
            print_json_line(_document(heard))
        else:
            console().print(line(heard), soft_wrap=True)


async def resend_event(event_id: str, *, to: str | None, since: str | None, yes: bool) -> str:
    """Publish an event of the log again, to every subscriber or to the subscription *to*; return what was done."""
    wanted = Wanted(event_id=event_id, since=None if since is None else read_timestamp(since, now=now()))
    found = None
    async for heard in read_to_end(broker_url(os.environ), wanted):
        found = heard
    if found is None:
        raise Problem(f"no event {event_id} is in the log", then="modelswap events list --since 7d")
    said = f"{found.delivery.routing_key} of {found.attributes.get('subject', '')}: {describe_heard(found)}"
    target = f"the subscription {to}" if to else f"every queue that is bound to {EVENTS_EXCHANGE}"
    if not yes:
        confirm(
            f"{said}\nit goes to {target}, with the same id and content as before",
            "Publish it again?",
            then="modelswap events list",
            nothing="nothing was published",
        )
    async with opened_publisher(BrokerSettings.load(os.environ), name="modelswap events") as publisher:
        try:
            await publisher.publish(_again(found, to))
        except Unroutable as error:
            then = "modelswap subscriptions list" if to else "modelswap topology apply"
            raise Problem(f"there is no queue for it: {target}", then=then) from error
    return f"{said}\npublished again to {target}"


def _again(heard: Heard, to: str | None) -> Outgoing:
    delivery = heard.delivery
    return Outgoing(
        exchange="" if to else EVENTS_EXCHANGE,
        routing_key=queue_of(to) if to else delivery.routing_key,
        body=delivery.body,
        headers=carried(delivery.headers),
        content_type=short(delivery.content_type),
        message_type=short(delivery.headers.get("ce-type")),
    )


def _document(heard: Heard) -> dict[str, JsonValue]:
    return {"offset": offset_of(heard.delivery), **heard.document()}
