"""Post webhooks to the receiver, signed as Replicate signs them. Edge."""

from __future__ import annotations

import asyncio
import os
import re
from contextlib import suppress
from dataclasses import dataclass
from hashlib import sha256
from typing import Final
from uuid import uuid4

from pydantic import JsonValue

from services.cli.choices import Trigger
from services.cli.client import Body, NotThere
from services.cli.events.request import VERSION, TriggerRequest
from services.cli.events.simulator import change_simulator, is_simulator
from services.cli.events.webhook import Webhook, named_output, signed, some_version, training
from services.cli.options import check_address
from services.cli.output import tell
from services.cli.problem import Problem
from services.cli.product.client import product
from shared.contract.answers import said_in
from shared.contract.identity import ModelName
from shared.replicate.client import Replicate
from shared.runtime.client import HttpClient, Unanswered
from shared.runtime.clock import now
from shared.runtime.settings import TriggerSettings

_KNOWN_SECONDS: Final = 10.0
_POLL_SECONDS: Final = 0.05


@dataclass(frozen=True, slots=True)
class _Subject:
    """The training that the webhooks are about."""

    id: str
    destination: ModelName | None
    #: The webhook URL of a training that is registered here; None otherwise.
    address: str | None = None


async def trigger(request: TriggerRequest, url: str | None) -> str:
    """Post the webhooks of *request* to the receiver (default: as configured); return a line for each."""
    if url is not None:
        check_address(url, then="--url http://HOST:PORT")
    settings = TriggerSettings.load(os.environ)
    secret = await _secret(settings)
    simulated = await is_simulator(settings.replicate_api_url)
    if Trigger.SUCCEEDED in request.triggers and not simulated:
        _warn_of_the_version(request, settings.replicate_api_url)
    subject = await _subject(request, simulated=simulated)
    moment = now()
    target = f"{(url or settings.receiver_url).rstrip('/')}/webhooks/replicate"

    def body_of(event: Trigger) -> dict[str, JsonValue]:
        return training(
            event,
            subject.id,
            now=moment,
            output=_output(request, subject) if event is Trigger.SUCCEEDED else None,
            percent=request.percent,
            error=request.error,
            webhook=subject.address,
        )

    async def post(event: Trigger, body: Body, message_id: str) -> str:
        status = await _post(target, signed(body, secret, message_id=message_id, now=now()))
        return f"{status}: {event} of {subject.id} is confirmed"

    # However often a webhook is sent, it has the same id.
    webhooks = [(event, body_of(event), f"msg_{uuid4().hex}") for event in request.triggers]
    if simulated:
        told = {"destination": str(subject.destination or ""), "makes": _made(request, subject)}
        path = f"trainings/{subject.id}"
        await change_simulator(settings.replicate_api_url, "PUT", path, {**webhooks[-1][1], **told})
    lines = []
    is_unstarted = Trigger.PROGRESSED in request.triggers and Trigger.STARTED not in request.triggers
    if subject.address is not None and is_unstarted:
        # Progress may be lost, so it registers no training id. Replicate also says first that the training runs.
        lines.append(await post(Trigger.STARTED, body_of(Trigger.STARTED), f"msg_{uuid4().hex}"))
        await _until_known(subject.id)
    lines += [await post(*each) for each in request.arranged(webhooks)]
    return "\n".join(lines)


async def _until_known(training_id: str) -> None:
    """Wait until the product knows the training by Replicate's id."""
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


async def _post(target: str, webhook: Webhook) -> int:
    try:
        async with HttpClient(target) as http:
            response = await http.request("POST", content=webhook.body, headers=webhook.headers)
    except Unanswered as error:
        raise Problem(f"nothing answers at {target} ({error.why})", then="is it running? modelswap doctor") from error
    if not response.is_success:
        said = f"{response.status_code}: {said_in(response.content)}"
        raise Problem(f"{target} answered {said}", then="modelswap config show")
    return response.status_code


def _warn_of_the_version(request: TriggerRequest, replicate_url: str) -> None:
    """Warn that the real Replicate must have the version of a success."""
    if request.version is None and request.output is None:
        raise Problem(
            f"{replicate_url} is not the simulated Replicate and has no made-up version: the training would end as "
            "unverified",
            then="--version with one that exists at the --destination, or --output",
        )
    tell(f"unless {replicate_url} has the version at the destination, the training ends as unverified")


async def _subject(request: TriggerRequest, *, simulated: bool) -> _Subject:
    destination = request.destination_name()
    if request.user_id is None:
        if request.training_id is None:
            raise Problem("which training?", then="add --user for a new one, or --training")
        return _Subject(request.training_id, destination)
    training_id = request.training_id or request.own_id
    async with product() as api:
        try:
            known = await api.get_training(training_id)
        except NotThere:
            destination = destination or (_own_destination(request.user_id) if simulated else None)
            if destination is None:
                raise Problem("a new training needs a model to train", then="add --destination owner/name") from None
            body: Body = {"user_id": request.user_id, "destination": str(destination), "start": False}
            # Triggered again before its first webhook is handled, it is the same training.
            registered = await api.start_training(body, key=f"trigger-{training_id}")
            return _Subject(training_id, destination, registered.webhook_url)
    if known.user_id != request.user_id:
        raise Problem(f"{training_id} is a training of user {known.user_id}", then="--training with another id")
    return _Subject(training_id, destination or ModelName.parse(str(known.destination)))


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


def _output(request: TriggerRequest, subject: _Subject) -> JsonValue:
    if request.output is None:
        if subject.destination is None:
            raise Problem("the output of a success names a model", then="add --destination owner/name")
        return named_output(subject.destination, request.version or some_version(subject.id))
    return request.read_output()


def _made(request: TriggerRequest, subject: _Subject) -> str:
    """Return the version that the training made according to *request*; empty for none."""
    if Trigger.SUCCEEDED not in request.triggers:
        return ""
    if request.version is None and request.output is None:
        return some_version(subject.id)
    named = set(VERSION.findall(request.version or request.output or ""))
    return named.pop() if len(named) == 1 else ""


def _own_destination(user_id: str) -> ModelName:
    """Return a destination for the trainings of a user, on the simulator, which takes any."""
    plain = re.sub(r"[^a-z0-9]+", "-", user_id.lower()).strip("-")[:60]
    own = plain if plain == user_id else f"{plain}-{sha256(user_id.encode()).hexdigest()[:12]}".strip("-")
    return ModelName("trigger", own)
