"""`modelswap subscriptions`: add, list, show and remove the subscriptions of services."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from services.cli.choices import Format
from services.cli.client import Body, segment
from services.cli.operators.client import operators
from services.cli.options import names
from services.cli.output import confirm, tell
from services.cli.table import Column, print_list, print_one
from services.ops.subscriptions.views import PasswordRotated, SubscriptionAdded, SubscriptionView
from shared.contract.answers import Page
from shared.contract.text import plural

_ONCE: Final = "The password is shown this once. For a new one: modelswap subscriptions rotate-password {}"
SUBSCRIPTIONS: Final[Sequence[Column[SubscriptionView]]] = (
    Column("subscription", lambda each: each.name),
    Column("waiting", lambda each: each.waiting, 1),
    Column("oldest", lambda each: each.oldest_at, 4),
    Column("consumers", lambda each: each.consumers, 2),
    Column("overflowed", lambda each: each.overflowed, 3),
    Column("at most", lambda each: each.max_length, 6),
    Column("events", lambda each: ", ".join(each.events), 5, is_prose=True),
)


async def add(name: str, events: str, *, max_length: int | None, reason: str, output: Format) -> None:
    """Add or change a subscription; print it, with the address of a new one."""
    # None: as before.
    body: Body = {"events": [*names(events)], "max_length": max_length, "reason": reason}
    async with operators() as api:
        added = await api.ask(
            SubscriptionAdded, "PUT", _path(name), body=body, then="modelswap subscriptions add --help"
        )
    _print(added, output, address=added.amqp_url)


async def list_subscriptions(*, limit: int, output: Format) -> None:
    async with operators() as api:
        found = await api.list(Page[SubscriptionView], "/v1/subscriptions", limit=limit)
    print_list(found, SUBSCRIPTIONS, output, empty="no subscriptions", limit=limit)


async def show(name: str, output: Format) -> None:
    async with operators() as api:
        _print(await api.get(SubscriptionView, _path(name)), output)


async def rotate_password(name: str, *, reason: str, output: Format) -> None:
    async with operators() as api:
        rotated = await api.post(PasswordRotated, f"{_path(name)}/rotate-password", {"reason": reason})
    print_one([("address", rotated.amqp_url)], output, data=rotated)
    tell(_ONCE.format(name))


async def remove(name: str, *, reason: str, yes: bool, output: Format) -> None:
    """Remove a subscription, after a confirmation that says what is lost."""
    async with operators() as api:
        if not yes:
            there = await api.get(SubscriptionView, _path(name))
            waiting = plural(there.waiting, "event waits", "events wait")
            lost = f"{waiting} in it and {there.overflowed} in its overflow queue: all are deleted"
            confirm(f"subscription {name}: {lost}", "Remove it?", then=f"modelswap subscriptions show {name}")
        removed = await api.ask(SubscriptionView, "DELETE", _path(name), query={"reason": reason})
    facts = [("removed", removed.name), ("waiting", removed.waiting), ("overflowed", removed.overflowed)]
    print_one(facts, output, data=removed)


def _path(name: str) -> str:
    return f"/v1/subscriptions/{segment(name)}"


def _print(shown: SubscriptionView, output: Format, *, address: str | None = None) -> None:
    facts: list[tuple[str, object]] = [
        ("subscription", shown.name),
        ("events", ", ".join(shown.events)),
        ("waiting", f"{shown.waiting} of at most {shown.max_length}"),
        ("oldest", shown.oldest_at),
        ("consumers", shown.consumers),
        ("overflowed", f"{shown.overflowed} of at most {shown.overflow_max_length}"),
        ("queue", shown.queue),
        ("overflow queue", shown.overflow_queue),
        ("user", shown.user),
    ]
    if address is not None:
        facts.append(("address", address))
    print_one(facts, output, data=shown)
    if address is not None:
        tell(_ONCE.format(shown.name))
