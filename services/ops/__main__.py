"""Runs the operators' service: ``python -m services.ops``."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Mapping
from contextlib import AsyncExitStack
from datetime import timedelta
from functools import partial
from importlib.metadata import version
from typing import Any, Final

from services.ops.api import create_api
from services.ops.audit.api import audit_router
from services.ops.audit.store import AuditStore
from services.ops.client import Services
from services.ops.console.app import create_console
from services.ops.console.client import Clients, in_process
from services.ops.console.console import Access, Console
from services.ops.endpoints.api import endpoints_router
from services.ops.letters.api import create_router as letter_routes
from services.ops.letters.archive import Archive
from services.ops.letters.housekeeping import closing, owners, purge
from services.ops.letters.store import Store as Letters
from services.ops.measures import Measures
from services.ops.migrate import MIGRATIONS, ROLE
from services.ops.processes.api import processes_router
from services.ops.processes.client import Running
from services.ops.reconcile.actions import Publish
from services.ops.reconcile.api import reconciliation_router
from services.ops.reconcile.reconciler import Look, Reconciler
from services.ops.reconcile.store import Store as Recoveries
from services.ops.reconcile.trainings import CallBudget, Limits
from services.ops.replays.api import create_router as replay_routes
from services.ops.replays.engine import Engine
from services.ops.replays.outcomes import Outcomes
from services.ops.replays.store import Store as Replays
from services.ops.replays.streams import ReplayStreams
from services.ops.replays.waiting import Waiting
from services.ops.sign_in.api import sign_in_router
from services.ops.sign_in.store import SignInCodes
from services.ops.subscriptions.api import subscription_router
from services.ops.subscriptions.client import Subscriptions
from services.ops.subscriptions.watcher import SubscriptionsWatch
from shared.contract.envelope import Envelope
from shared.contract.health import Seen
from shared.contract.topology import DEAD_QUEUE, OPS_QUEUE
from shared.replicate.client import Replicate
from shared.runtime.aside import SetAside
from shared.runtime.broker import Consumer, Publisher, RawConsumer, to_message
from shared.runtime.client import HttpClient
from shared.runtime.clock import now
from shared.runtime.database import check_database, opened_database
from shared.runtime.health import Check, Report, reporter
from shared.runtime.http import create_app
from shared.runtime.lifecycle import main, serve, supervise
from shared.runtime.management import Management, opened_management
from shared.runtime.periodic import keep_measuring
from shared.runtime.postgres import Pool, confirm_seconds
from shared.runtime.settings import OpsSettings
from shared.runtime.settings_base import reveal
from shared.runtime.telemetry import count_replicate_requests
from shared.runtime.tokens import read_token

#: Operators' pages that may follow replays at a time.
_STREAMS: Final = 200


async def run(settings: OpsSettings, stopping: asyncio.Event) -> None:
    """Archive, repair and serve until *stopping* is set."""
    async with opened_database(settings, service="ops", role=ROLE, migrations=MIGRATIONS, stopping=stopping) as pool:
        if pool is not None:
            await _run(settings, stopping, pool)


async def _run(settings: OpsSettings, stopping: asyncio.Event, pool: Pool) -> None:
    plan = settings.topology
    url = settings.amqp_url.get_secret_value()
    tokens = [read_token(entry) for entry in reveal(settings.api_tokens)]
    token = next((token for token in tokens if token.caller.may_speak_for_others), tokens[0])
    may_speak_for_others = token.caller.may_speak_for_others
    audit, replays, recoveries = AuditStore(pool), Replays(pool), Recoveries(pool)
    letters = Letters(pool, failed=replays.failed, notify=replays.notify)
    settled: SetAside[int] = SetAside("purge")
    replicate_token = settings.replicate_api_token.get_secret_value() if settings.replicate_api_token else ""
    async with (
        Publisher(
            url, name="modelswap ops", timeout_seconds=confirm_seconds(settings.publish_timeout_seconds)
        ) as publisher,
        HttpClient(f"{settings.api_url}/v1", token=token.secret) as state,
        HttpClient(f"{settings.notifier_url}/v1", token=token.secret) as notifier,
        HttpClient(settings.extractor_url, token=token.secret) as extractor,
        Replicate(replicate_token, settings.replicate_api_url, observe=count_replicate_requests()) as replicate,
        opened_management(settings.management_url, url) as management,
        AsyncExitStack() as open_with,
    ):

        async def publish(envelope: Envelope) -> None:
            await publisher.publish(to_message(envelope, plan))

        services = Services(state, extractor, may_speak_for_others=may_speak_for_others)
        keep = Archive(letters, now).keep
        archive = RawConsumer(settings, publisher, queue=DEAD_QUEUE, service="ops", keep=keep)
        owner_look_ups = owners(letters, services.find_trainings)
        closing_look_ups = closing(letters, services.find_trainings)

        async def seen() -> Mapping[str, Seen]:
            return await running.seen()

        reconciler = _reconciler(settings, services, replicate, recoveries, publish=publish, look=seen)
        engine = Engine(replays, publisher, services, plan)
        outcomes = Consumer(settings, publisher, queue=OPS_QUEUE, service="ops", handle=Outcomes(replays).handle)
        subscriptions = Subscriptions(management, url)
        subscribers = SubscriptionsWatch(subscriptions)
        ops_tokens = tuple(map(read_token, reveal(settings.ops_tokens)))
        codes = SignInCodes(pool, ops_tokens)
        checks: dict[str, Check] = {
            "database": partial(check_database, pool, MIGRATIONS),
            "archive": archive.check,
            "outcomes": outcomes.check,
            "reconciliation": reconciler.check,
        }
        optional: dict[str, Check] = {} if management is None else {"subscribers": subscribers.check}
        consumers: dict[str, Check] = {DEAD_QUEUE: archive.check, OPS_QUEUE: outcomes.check}
        aside: list[SetAside[Any]] = [
            reconciler.aside,
            services.aside,
            owner_look_ups.aside,
            closing_look_ups.aside,
            settled,
            archive.aside,
            *engine.aside,
        ]
        report = reporter(checks, aside, optional=optional, consumers=consumers)
        running = _running(settings, report, management)
        waiting = Waiting(running.seen)
        streams = ReplayStreams(replays, waiting, stopping, limit=_STREAMS)
        # What runs is looked at for its clients, and it is itself a part of that.
        aside.append(streams.aside)
        api = create_api(
            letter_routes(letters),
            audit_router(audit),
            replay_routes(replays, waiting, services, streams),
            reconciliation_router(recoveries, services, calls_per_minute=settings.reconcile_calls_per_minute),
            subscription_router(subscriptions, audit.audit),
            endpoints_router(notifier, audit.audit),
            processes_router(running),
            sign_in_router(codes),
            tokens=ops_tokens,
        )
        ops = await open_with.enter_async_context(in_process(api))
        clients = Clients(ops, state, notifier, audit.audit, may_speak_for_others=may_speak_for_others)
        access = Access(
            ops_tokens, trusted=settings.trusted_proxies, name_header=settings.console_name_header, redeem=codes.redeem
        )
        console = create_console(Console(clients, access))
        app = create_app(api, report, console=console)
        await supervise(
            stopping,
            archive.run(stopping),
            owner_look_ups.run(stopping),
            closing_look_ups.run(stopping),
            purge(letters, timedelta(days=settings.ops_keep_settled_days), stopping, settled),
            keep_measuring(Measures(letters, replays), stopping),
            outcomes.run(stopping),
            reconciler.run(stopping),
            engine.run(stopping),
            streams.run(),
            *([] if management is None else [subscribers.run(stopping), running.run(stopping)]),
            serve(app, settings, port=settings.ops_port, stopping=stopping),
        )


def _running(settings: OpsSettings, own: Report, management: Management | None) -> Running:
    return Running(
        {
            "receiver": settings.receiver_url,
            "extractor": settings.extractor_url,
            "state": settings.api_url,
            "notifier": settings.notifier_url,
        },
        own,
        version=version("modelswap"),
        amqp_url=settings.amqp_url.get_secret_value(),
        management=management,
        topology=settings.topology,
    )


def _reconciler(
    settings: OpsSettings,
    services: Services,
    replicate: Replicate,
    store: Recoveries,
    *,
    publish: Publish,
    look: Look,
) -> Reconciler:
    limits = Limits(
        after=timedelta(seconds=settings.reconcile_after_seconds),
        every=timedelta(seconds=settings.reconcile_every_seconds),
        give_up_after=timedelta(seconds=settings.reconcile_give_up_seconds),
        retries=sum(settings.retry_delays, timedelta()),
    )
    budget = CallBudget(settings.reconcile_calls_per_minute)
    secrets = reveal(settings.ref_secrets)
    return Reconciler(services, replicate, store, publish, look, limits=limits, budget=budget, ref_secrets=secrets)


if __name__ == "__main__":
    sys.exit(main("ops", OpsSettings, run))
