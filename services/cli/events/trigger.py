"""Post webhooks to the receiver, signed as Replicate signs them. Edge."""

from __future__ import annotations

import asyncio
import json
import os
import re
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime
from hashlib import sha256
from typing import Any, Final
from uuid import uuid4

from pydantic import JsonValue

from services.cli import client
from services.cli.choices import Trigger
from services.cli.events.client import is_simulator, tell_simulator
from services.cli.events.order import Order
from services.cli.events.webhook import named_output, signed, some_version, training
from services.cli.output import tell
from services.cli.problem import Problem
from services.cli.product.trainings import product
from services.state.views import TrainingView
from shared.contract.identity import ModelName
from shared.replicate.client import Replicate
from shared.runtime.clock import now
from shared.runtime.settings import TriggerSettings

_KNOWN_SECONDS: Final = 10.0
_POLL_SECONDS: Final = 0.05
_VERSION: Final = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Subject:
    """The training that the webhooks are about."""

    id: str
    destination: ModelName | None
    #: Where its webhooks go; None if a product knows it already, or does not know it at all.
    address: str | None


@dataclass(frozen=True, slots=True)
class _Sent:
    """A webhook to send; it has the same id however often it is sent."""

    trigger: Trigger
    body: dict[str, Any]
    message_id: str = field(default_factory=lambda: f"msg_{uuid4().hex}")


async def trigger(order: Order, url: str | None) -> str:
    """Post what *order* wants to the receiver, which may be at *url*; what became of it, in words."""
    settings = TriggerSettings.load(os.environ)
    secret = await _secret(settings)
    simulated = await is_simulator(settings.replicate_api_url)
    if Trigger.SUCCEEDED in order.triggers and not simulated:
        _warn_of_the_version(order, settings.replicate_api_url)
    subject = await _subject(order, simulated=simulated)
    moment = now()
    bodies = [_body(order, each, subject, moment) for each in order.triggers]
    if simulated:
        told = {**bodies[-1], "destination": str(subject.destination or ""), "makes": _made(order, subject)}
        await tell_simulator(settings.replicate_api_url, subject.id, told)
    target = f"{(url or settings.receiver_url).rstrip('/')}/webhooks/replicate"
    lines = []
    if subject.address is not None and Trigger.PROGRESSED in order.triggers and Trigger.STARTED not in order.triggers:
        # Progress may be lost, so it makes no training known by its id. Replicate says first that it runs as well.
        begun = _Sent(Trigger.STARTED, _body(order, Trigger.STARTED, subject, moment))
        lines.append(await _post(target, begun, secret))
        await _until_known(subject.id)
    sent = [_Sent(each, body) for each, body in zip(order.triggers, bodies, strict=True)]
    lines += [await _post(target, each, secret) for each in order.arranged(sent)]
    return "\n".join(lines)


async def _until_known(training_id: str) -> None:
    """
    Wait until the product knows the training by Replicate's id.

    Raises:
        Problem: if it does not within a while.

    """
    async with product() as api:
        try:
            async with asyncio.timeout(_KNOWN_SECONDS):
                while True:
                    with suppress(client.NotThere):
                        await api.get_training(training_id)
                        return
                    await asyncio.sleep(_POLL_SECONDS)
        except TimeoutError:
            raise Problem(f"training.started of {training_id} was not handled", then="modelswap doctor") from None


async def _post(target: str, sent: _Sent, secret: str) -> str:
    webhook = signed(sent.body, secret, message_id=sent.message_id, now=now())
    status, reason = await client.post(target, webhook.body, webhook.headers)
    if reason:
        raise Problem(f"{target} answered {status}: {reason}", then="modelswap config show")
    return f"{status}: {sent.trigger} of {sent.body['id']} is confirmed"


def _warn_of_the_version(order: Order, replicate_url: str) -> None:
    """
    Say what a success comes to where Replicate is asked for the version.

    Raises:
        Problem: if it can come to nothing, because the version would be made up.

    """
    if order.version is None and order.output is None:
        raise Problem(
            f"{replicate_url} is not the simulated Replicate, and has no version that is made up: the training would "
            "end as unverified",
            then="--version with one that exists at the --destination, or --output",
        )
    tell(f"{replicate_url} is asked for the version: unless the destination has it, the training ends as unverified")


async def _subject(order: Order, *, simulated: bool) -> _Subject:
    if order.user_id is None:
        if order.training_id is None:
            raise Problem("about which training?", then="add --user for a new one, or --training")
        return _Subject(id=order.training_id, destination=order.destination_name(), address=None)
    training_id = order.training_id or order.own_id
    async with product() as api:
        try:
            known = await api.get_training(training_id)
        except client.NotThere:
            destination = order.destination_name() or (_own_destination(order.user_id) if simulated else None)
            if destination is None:
                raise Problem("a new training needs a model to train", then="add --destination owner/name") from None
            body = {"user_id": order.user_id, "destination": str(destination), "start": False}
            # Triggered again before its first webhook is handled, it is the same training.
            begun = await api.start_training(body, key=f"trigger-{training_id}")
            return _Subject(id=training_id, destination=destination, address=begun.webhook_url)
    return _known(order, known, training_id)


def _known(order: Order, known: TrainingView, training_id: str) -> _Subject:
    if known.user_id != order.user_id:
        raise Problem(f"{training_id} is a training of user {known.user_id}", then="--training with another id")
    return _Subject(
        id=training_id, destination=order.destination_name() or ModelName.parse(str(known.destination)), address=None
    )


async def _secret(settings: TriggerSettings) -> str:
    """What the receiver takes for Replicate's: as there, configured or asked for."""
    if settings.webhook_secrets:
        return settings.webhook_secrets[0].get_secret_value()
    if settings.replicate_api_token is None:
        raise Problem(
            "nothing to sign with: neither MODELSWAP_WEBHOOK_SECRETS nor MODELSWAP_REPLICATE_API_TOKEN is set",
            then="modelswap config show",
        )
    async with Replicate(settings.replicate_api_token.get_secret_value(), settings.replicate_api_url) as replicate:
        return await replicate.webhook_secret()


def _body(order: Order, trigger: Trigger, subject: _Subject, moment: datetime) -> dict[str, Any]:
    return training(
        trigger,
        subject.id,
        now=moment,
        output=_output(order, subject) if trigger is Trigger.SUCCEEDED else None,
        percent=order.percent,
        error=order.error,
        webhook=subject.address,
    )


def _output(order: Order, subject: _Subject) -> JsonValue:
    if order.output is None:
        if subject.destination is None:
            raise Problem("the output of a success names a model", then="add --destination owner/name")
        return named_output(subject.destination, order.version or some_version(subject.id))
    try:
        output: JsonValue = json.loads(order.output)
    except ValueError as error:
        raise Problem(f"--output is not JSON: {error}", then="""--output '{"version": "owner/name:…"}'""") from error
    return output


def _made(order: Order, subject: _Subject) -> str:
    """The version that the training made, as far as *order* says one; empty for none."""
    if Trigger.SUCCEEDED not in order.triggers:
        return ""
    if order.version is None and order.output is None:
        return some_version(subject.id)
    named = set(_VERSION.findall(order.version or order.output or ""))
    return named.pop() if len(named) == 1 else ""


def _own_destination(user_id: str) -> ModelName:
    """A model for the trainings of a user, on a Replicate where one may train into any."""
    plain = re.sub(r"[^a-z0-9]+", "-", user_id.lower()).strip("-")[:60]
    own = plain if plain == user_id else f"{plain}-{sha256(user_id.encode()).hexdigest()[:12]}".strip("-")
    return ModelName("trigger", own)
