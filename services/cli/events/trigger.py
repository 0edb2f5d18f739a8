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
from typing import Final
from uuid import uuid4

from pydantic import JsonValue

from services.cli.choices import Trigger
from services.cli.client import Body, NotThere, post, product
from services.cli.events.request import TriggerRequest
from services.cli.events.simulator import change_simulator, is_simulator
from services.cli.events.webhook import named_output, signed, some_version, training
from services.cli.output import tell
from services.cli.problem import Problem
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
    #: The webhook URL of a training that is registered here; None otherwise.
    address: str | None


@dataclass(frozen=True, slots=True)
class _Sent:
    """A webhook to send; repeats have the same id."""

    trigger: Trigger
    body: dict[str, JsonValue]
    message_id: str = field(default_factory=lambda: f"msg_{uuid4().hex}")


async def trigger(request: TriggerRequest, url: str | None) -> str:
    """Post the webhooks of *request* to the receiver (default: as configured); return a line for each."""
    settings = TriggerSettings.load(os.environ)
    secret = await _secret(settings)
    simulated = await is_simulator(settings.replicate_api_url)
    if Trigger.SUCCEEDED in request.triggers and not simulated:
        _warn_of_the_version(request, settings.replicate_api_url)
    subject = await _subject(request, simulated=simulated)
    moment = now()
    bodies = [_body(request, each, subject, moment) for each in request.triggers]
    if simulated:
        told = {**bodies[-1], "destination": str(subject.destination or ""), "makes": _made(request, subject)}
        await change_simulator(settings.replicate_api_url, "PUT", f"trainings/{subject.id}", told)
    target = f"{(url or settings.receiver_url).rstrip('/')}/webhooks/replicate"
    lines = []
    if (
        subject.address is not None
        and Trigger.PROGRESSED in request.triggers
        and Trigger.STARTED not in request.triggers
    ):
        # Progress may be lost, so it registers no training id. Replicate also says first that the training runs.
        start = _Sent(Trigger.STARTED, _body(request, Trigger.STARTED, subject, moment))
        lines.append(await _post(target, start, secret))
        await _until_known(subject.id)
    sent = [_Sent(each, body) for each, body in zip(request.triggers, bodies, strict=True)]
    lines += [await _post(target, each, secret) for each in request.arranged(sent)]
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
                    with suppress(NotThere):
                        await api.get_training(training_id)
                        return
                    await asyncio.sleep(_POLL_SECONDS)
        except TimeoutError:
            raise Problem(f"training.started of {training_id} was not handled", then="modelswap doctor") from None


async def _post(target: str, sent: _Sent, secret: str) -> str:
    webhook = signed(sent.body, secret, message_id=sent.message_id, now=now())
    status, reason = await post(target, webhook.body, webhook.headers)
    if reason:
        raise Problem(f"{target} answered {status}: {reason}", then="modelswap config show")
    return f"{status}: {sent.trigger} of {sent.body['id']} is confirmed"


def _warn_of_the_version(request: TriggerRequest, replicate_url: str) -> None:
    """
    Warn that the real Replicate must have the version of a success.

    Raises:
        Problem: if it cannot, because the version would be made up.

    """
    if request.version is None and request.output is None:
        raise Problem(
            f"{replicate_url} is not the simulated Replicate and has no made-up version: the training would end as "
            "unverified",
            then="--version with one that exists at the --destination, or --output",
        )
    tell(f"unless {replicate_url} has the version at the destination, the training ends as unverified")


async def _subject(request: TriggerRequest, *, simulated: bool) -> _Subject:
    if request.user_id is None:
        if request.training_id is None:
            raise Problem("which training?", then="add --user for a new one, or --training")
        return _Subject(id=request.training_id, destination=request.destination_name(), address=None)
    training_id = request.training_id or request.own_id
    async with product() as api:
        try:
            known = await api.get_training(training_id)
        except NotThere:
            destination = request.destination_name() or (_own_destination(request.user_id) if simulated else None)
            if destination is None:
                raise Problem("a new training needs a model to train", then="add --destination owner/name") from None
            body: Body = {"user_id": request.user_id, "destination": str(destination), "start": False}
            # Triggered again before its first webhook is handled, it is the same training.
            begun = await api.start_training(body, key=f"trigger-{training_id}")
            return _Subject(id=training_id, destination=destination, address=begun.webhook_url)
    return _known(request, known, training_id)


def _known(request: TriggerRequest, known: TrainingView, training_id: str) -> _Subject:
    if known.user_id != request.user_id:
        raise Problem(f"{training_id} is a training of user {known.user_id}", then="--training with another id")
    return _Subject(
        id=training_id, destination=request.destination_name() or ModelName.parse(str(known.destination)), address=None
    )


async def _secret(settings: TriggerSettings) -> str:
    """Return the secret that the receiver expects: configured, or fetched from Replicate."""
    if settings.webhook_secrets:
        return settings.webhook_secrets[0].get_secret_value()
    if settings.replicate_api_token is None:
        raise Problem(
            "nothing to sign with: neither MODELSWAP_WEBHOOK_SECRETS nor MODELSWAP_REPLICATE_API_TOKEN is set",
            then="modelswap config show",
        )
    async with Replicate(settings.replicate_api_token.get_secret_value(), settings.replicate_api_url) as replicate:
        return await replicate.webhook_secret()


def _body(request: TriggerRequest, trigger: Trigger, subject: _Subject, moment: datetime) -> dict[str, JsonValue]:
    return training(
        trigger,
        subject.id,
        now=moment,
        output=_output(request, subject) if trigger is Trigger.SUCCEEDED else None,
        percent=request.percent,
        error=request.error,
        webhook=subject.address,
    )


def _output(request: TriggerRequest, subject: _Subject) -> JsonValue:
    if request.output is None:
        if subject.destination is None:
            raise Problem("the output of a success names a model", then="add --destination owner/name")
        return named_output(subject.destination, request.version or some_version(subject.id))
    try:
        output: JsonValue = json.loads(request.output)
    except ValueError as error:
        raise Problem(f"--output is not JSON: {error}", then="""--output '{"version": "owner/name:…"}'""") from error
    return output


def _made(request: TriggerRequest, subject: _Subject) -> str:
    """Return the version that the training made according to *request*; empty for none."""
    if Trigger.SUCCEEDED not in request.triggers:
        return ""
    if request.version is None and request.output is None:
        return some_version(subject.id)
    named = set(_VERSION.findall(request.version or request.output or ""))
    return named.pop() if len(named) == 1 else ""


def _own_destination(user_id: str) -> ModelName:
    """Return a destination for the trainings of a user, on the simulator, which takes any."""
    plain = re.sub(r"[^a-z0-9]+", "-", user_id.lower()).strip("-")[:60]
    own = plain if plain == user_id else f"{plain}-{sha256(user_id.encode()).hexdigest()[:12]}".strip("-")
    return ModelName("trigger", own)
