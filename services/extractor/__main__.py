"""Runs the extractor: ``python -m services.extractor``."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Sequence
from functools import partial
from typing import Final, Protocol
from uuid import UUID

import structlog

from services.extractor.api import create_api
from services.extractor.handler import Extractor, Trainings, Verify
from services.extractor.picture_process import find_flaw_apart
from services.extractor.verify import Gate, Models
from shared.contract.envelope import Envelope
from shared.contract.errors import DependencyDown, PermanentError
from shared.contract.events import Event, ModelReady
from shared.contract.identity import ModelRef
from shared.contract.topology import EXTRACTOR_QUEUE
from shared.replicate.client import Replicate
from shared.runtime import telemetry
from shared.runtime.broker import Consumer, Publisher, dependency_answered, one_by_one
from shared.runtime.health import reporter
from shared.runtime.http import create_app
from shared.runtime.lifecycle import main, serve, supervise
from shared.runtime.settings import ExtractorSettings
from shared.runtime.settings_base import reveal

log = structlog.get_logger()

#: Results of verifications, as counted in metrics.
_RESULTS: Final = ("passed", "refused", "unavailable", "undecided")


class Api(Trainings, Models, Protocol):
    """The calls to Replicate's API."""


async def run(settings: ExtractorSettings, stopping: asyncio.Event) -> None:
    """Consume until *stopping* is set."""
    token = settings.replicate_api_token.get_secret_value() if settings.replicate_api_token else ""
    async with Replicate(token, settings.replicate_api_url, observe=telemetry.count_replicate_requests()) as replicate:
        await consume(settings, stopping, replicate)


async def consume(settings: ExtractorSettings, stopping: asyncio.Event, replicate: Api) -> None:
    """Consume until *stopping* is set, asking *replicate*."""
    async with Publisher(
        settings.amqp_url.get_secret_value(),
        name="modelswap extractor",
        timeout_seconds=settings.publish_timeout_seconds,
    ) as publisher:
        gate = Gate(replicate, settings, find_flaw=find_flaw_apart, on_answer=dependency_answered)
        extractor = Extractor(replicate, partial(_verify, gate.verify), monotonic=time.monotonic)
        api = create_api(
            Extractor(replicate, gate.check_without_run, monotonic=time.monotonic),
            api_tokens=reveal(settings.api_tokens),
        )
        consumer = Consumer(
            settings,
            publisher,
            queue=EXTRACTOR_QUEUE,
            service="extractor",
            handle=one_by_one(partial(_handle, extractor)),
            on_dead_letter=extractor.on_dead_letter,
            is_answer=extractor.is_answer,
            workers=settings.extractor_concurrency,
            batch_size=1,
            prefetch=settings.extractor_concurrency,
        )

        for result in _RESULTS:
            telemetry.verify_seconds.labels(result)
        report = reporter({"consumer": consumer.check}, consumers={EXTRACTOR_QUEUE: consumer.check})
        app = create_app(api, report, below="")
        await supervise(
            stopping,
            consumer.run(stopping),
            serve(app, settings, port=settings.extractor_port, stopping=stopping),
        )


async def _handle(extractor: Extractor, envelope: Envelope) -> Sequence[Event]:
    """Handle one delivery, and log what was verified."""
    events = await extractor.handle(envelope)
    for event in events:
        if isinstance(event, ModelReady):
            log.info("model.verified", model=str(event.model), **event.evidence.model_dump(mode="json"))
    return events


async def _verify(verify: Verify, ref: ModelRef, *, request_id: UUID | None = None) -> tuple[str, ...]:
    """Verify a model, and count how long it took."""
    began, result = time.monotonic(), "undecided"
    try:
        checks = await verify(ref, request_id=request_id)
    except PermanentError:
        result = "refused"
        raise
    except DependencyDown:
        result = "unavailable"
        raise
    else:
        result = "passed"
        return checks
    finally:
        telemetry.verify_seconds.labels(result).observe(time.monotonic() - began, telemetry.exemplar())


if __name__ == "__main__":
    sys.exit(main("extractor", ExtractorSettings, run))
