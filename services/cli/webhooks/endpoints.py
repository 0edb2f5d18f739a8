"""Webhook endpoints and their deliveries: requests to the notifier's API, and to ops where a change has a reason."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from typing import ClassVar, Final

from pydantic import JsonValue

from services.cli.choices import Format
from services.cli.client import Api, Body, first_secret, segment
from services.cli.operators.client import Operators, operators
from services.cli.options import names
from services.cli.output import confirm, tell
from services.cli.problem import Problem
from services.cli.table import Column, print_list, print_one
from services.notifier.views import DeliveryView, EndpointView, SecretView
from services.ops.endpoints.views import DeliveriesResent, DeliveryResent, EndpointEdited, EndpointRemoved, SecretMade
from shared.contract.answers import Page
from shared.contract.text import plural
from shared.runtime.settings import NotifierClientSettings

#: The same in the notifier's API and, for changes that are audited, in the operators'.
_PATH: Final = "/v1/webhook-endpoints"
_LIST: Final = "modelswap webhooks list"

ENDPOINTS: Final[Sequence[Column[EndpointView]]] = (
    Column("endpoint", lambda each: each.id),
    Column("status", lambda each: each.status, 1),
    Column("url", lambda each: each.url, 2),
    Column("events", lambda each: ", ".join(each.events), 3),
    Column("failing since", lambda each: each.failing_since, 4),
    Column("failed attempts", lambda each: each.failed_attempts, 6),
    Column("last success", lambda each: each.last_success_at, 7),
    Column("description", lambda each: each.description, 5, is_prose=True),
)
DELIVERIES: Final[Sequence[Column[DeliveryView]]] = (
    Column("delivery", lambda each: each.id),
    Column("status", lambda each: each.status, 1),
    Column("event", lambda each: each.event, 3),
    Column("webhook-id", lambda each: each.event_id, 6),
    Column("tries", lambda each: each.attempts, 5),
    Column("answer", lambda each: each.response_status, 2),
    Column("ms", lambda each: each.took_ms, 7),
    Column("made", lambda each: each.created_at, 4),
    Column("text", lambda each: each.response, 8, is_prose=True),
)


class Webhooks(Api):
    """The API of webhook endpoints."""

    _name = "the notifier's API"
    _url_setting = "MODELSWAP_NOTIFIER_URL"
    _auth_setting = "MODELSWAP_API_TOKENS"
    _lists: ClassVar[Mapping[str, str]] = {"": _LIST}


def notifier() -> Webhooks:
    settings = NotifierClientSettings.load()
    return Webhooks(settings.notifier_url, first_secret(settings.api_tokens))


def _at(endpoint: str, *more: str) -> str:
    return "/".join([_PATH, segment(endpoint), *more])


async def list_endpoints(*, limit: int, output: Format) -> None:
    async with notifier() as api:
        found = await api.list(Page[EndpointView], _PATH, limit=limit)
    print_list(found, ENDPOINTS, output, empty="there are no webhook endpoints", limit=limit)


async def add(url: str, events: str, description: str, *, reason: str, output: Format) -> None:
    body: Body = {"url": url, "events": [*names(events)], "description": description, "reason": reason}
    async with operators() as ops:
        made = await ops.post(SecretMade, _PATH, body, then="modelswap webhooks add --help")
    await _print_secret(made, output)


async def show(endpoint: str, output: Format) -> None:
    async with notifier() as api:
        _print(await api.get(EndpointView, _at(endpoint)), output)


async def edit(endpoint: str, given: Mapping[str, str | None], *, reason: str, output: Format) -> None:
    changes: dict[str, JsonValue] = {name: value for name, value in given.items() if value is not None}
    if "events" in changes:
        changes["events"] = [*names(given["events"] or "")]
    if not changes:
        raise Problem("say what is to change", then="modelswap webhooks edit --help")
    async with operators() as ops:
        await ops.ask(EndpointEdited, "PATCH", _at(endpoint), body={**changes, "reason": reason}, then=_LIST)
    await show(endpoint, output)


async def remove(endpoint: str, *, reason: str, yes: bool, output: Format) -> None:
    async with notifier() as api:
        found = await api.get(EndpointView, _at(endpoint))
    if not yes:
        confirm(f"{found.url} gets no webhooks any more", "Remove it?", then="modelswap webhooks list")
    async with operators() as ops:
        await ops.ask(EndpointRemoved, "DELETE", _at(endpoint), query={"reason": reason}, then=_LIST)
    _print(found, output)


async def rotate_secret(endpoint: str, *, reason: str, output: Format) -> None:
    async with operators() as ops:
        made = await ops.post(SecretMade, _at(endpoint, "rotate-secret"), {"reason": reason}, then=_LIST)
    await _print_secret(made, output)


async def send_test(endpoint: str, *, reason: str, output: Format) -> None:
    async with operators() as ops:
        _print(await ops.post(DeliveryView, _at(endpoint, "test"), {"reason": reason}, then=_LIST), output)


async def list_deliveries(endpoint: str, *, status: str | None, limit: int, output: Format) -> None:
    async with notifier() as api:
        found = await api.list(Page[DeliveryView], _at(endpoint, "deliveries"), {"status": status}, limit=limit)
    print_list(found, DELIVERIES, output, empty="there are no such deliveries", limit=limit)


async def resend_one(endpoint: str, delivery: str, reason: str, output: Format) -> None:
    path = _at(endpoint, "deliveries", segment(delivery), "resend")
    async with operators() as api:
        _print(await api.post(DeliveryResent, path, {"reason": reason}, then=_deliveries_of(endpoint)), output)


async def resend_since(endpoint: str, wanted: Body, *, dry_run: bool, yes: bool, output: Format) -> None:
    """Deliver failed events since a time again, or say how many that would be; ask first, unless *yes*."""
    async with operators() as api:
        if dry_run or yes:
            done = await _resend(api, endpoint, {**wanted, "dry_run": dry_run})
        else:
            done = await resend_if_confirmed(api, endpoint, wanted)
    shown = ((name, value) for name, value in done if name != "newest")
    print_one(shown, output, data=done.model_dump(mode="json", exclude={"newest"}))
    if done.next_since is not None:
        tell(f"there are more: so many are sent at a time; then --since {done.next_since.isoformat()}")


async def resend_if_confirmed(api: Operators, endpoint: str, wanted: Body) -> DeliveriesResent:
    """Show how many deliveries would be sent again, ask, and send just those that were counted."""
    planned = await _resend(api, endpoint, {**wanted, "dry_run": True})
    if not planned.deliveries:
        return planned
    which = "" if planned.next_since is None else " (the oldest, of more)"
    count = plural(planned.deliveries, f"delivery{which} is", f"deliveries{which} are")
    confirm(f"{count} sent again", "Send them?", then=_deliveries_of(endpoint))
    # A notifier of the version before names no newest one, and knows no bound.
    up_to: Body = {} if planned.newest is None else {"up_to": planned.newest}
    return await _resend(api, endpoint, {**wanted, **up_to})


async def _resend(api: Operators, endpoint: str, body: Body) -> DeliveriesResent:
    return await api.post(DeliveriesResent, _at(endpoint, "resend"), body, then=_LIST)


def _deliveries_of(endpoint: str) -> str:
    return f"modelswap webhooks deliveries {shlex.quote(endpoint)}"


async def _print_secret(made: SecretMade, output: Format) -> None:
    async with notifier() as api:
        _print(SecretView.of(await api.get(EndpointView, _at(str(made.id))), made.secret), output)


def _print(found: EndpointView | DeliveryView | DeliveryResent, output: Format) -> None:
    print_one(((name, value) for name, value in found if name != "number"), output, data=found)
