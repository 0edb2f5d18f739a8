"""What does the receiver make of a webhook? Edge: signs one as Replicate would, and posts it."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from uuid import uuid4

from pydantic import JsonValue

from services.cli import client
from services.cli.problem import Problem
from services.cli.product.trainings import product
from services.cli.wire.webhook import Webhook, named_output, signed, some_version, training
from services.cli.words import Trigger
from shared.contract.identity import ModelName
from shared.replicate.client import Replicate
from shared.runtime.clock import now
from shared.runtime.settings import TriggerSettings


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """Which webhook is wanted, as it was typed."""

    trigger: Trigger
    training_id: str
    #: Make the training known for this user first.
    user_id: str | None
    destination: str | None
    version: str | None
    #: JSON
    output: str | None
    percent: int
    error: str


async def trigger(order: Order, url: str | None) -> str:
    """Post what *order* wants to the receiver, which may be at *url*; what became of it, in words."""
    settings = TriggerSettings.load(os.environ)
    secret = await _secret(settings)
    address = None if order.user_id is None else await _address(order, order.user_id)
    webhook = _webhook(order, secret, address)
    target = f"{(url or settings.receiver_url).rstrip('/')}/webhooks/replicate"
    status, reason = await client.post(target, webhook.body, webhook.headers)
    if reason:
        raise Problem(f"{target} answered {status}: {reason}", then="modelswap config show")
    return f"{status}: {order.trigger} of {order.training_id} is confirmed"


async def _address(order: Order, user_id: str) -> str | None:
    """Where the training's webhooks go, as a product that starts it itself is told; None if it is known already."""
    async with product() as api:
        try:
            known = await api.get_training(order.training_id)
        except client.NotThere:
            body = {"user_id": user_id, "destination": str(_destination(order)), "start": False}
            # Triggered again before its first webhook is handled, it is the same training.
            return (await api.start_training(body, key=f"trigger-{order.training_id}")).webhook_url
    if known.user_id != user_id:
        raise Problem(f"{order.training_id} is a training of user {known.user_id}", then="--training with another id")
    return None


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


def _webhook(order: Order, secret: str, address: str | None) -> Webhook:
    moment = now()
    body = training(
        order.trigger,
        order.training_id,
        now=moment,
        output=_output(order) if order.trigger is Trigger.SUCCEEDED else None,
        percent=order.percent,
        error=order.error,
        webhook=address,
    )
    return signed(body, secret, message_id=f"msg_{uuid4().hex}", now=moment)


def _output(order: Order) -> JsonValue:
    if order.output is None:
        return named_output(_destination(order), order.version or some_version(order.training_id))
    try:
        output: JsonValue = json.loads(order.output)
    except ValueError as error:
        raise Problem(f"--output is not JSON: {error}", then="""--output '{"version": "owner/name:…"}'""") from error
    return output


def _destination(order: Order) -> ModelName:
    if order.destination is None:
        raise Problem(f"{order.trigger} of this training needs a model", then="add --destination owner/name")
    name = ModelName.parse(order.destination)
    if name is None:
        raise Problem(f"{order.destination!r} is no model name", then="--destination owner/name, in lower case")
    return name
