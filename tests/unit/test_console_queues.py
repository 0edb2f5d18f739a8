"""The screen of queues and processes: its states, what needs an operator, and what users control shown as it is."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
from collections.abc import AsyncIterator, Mapping
from datetime import UTC, datetime
from html import escape, unescape
from typing import Any
from uuid import UUID

import httpx
import pytest
from fastapi import FastAPI, HTTPException, Request

from services.ops.api import create_api
from services.ops.console.client import Parts
from services.ops.console.views.formats import NOTHING, kind
from services.ops.console.views.queues import Concern, DeliveryAnswer, EndpointAnswer, health_concerns, queue_badge
from services.ops.endpoints.api import endpoints_router
from services.ops.endpoints.views import DeliveriesResent
from services.ops.processes.views import Processes, ProcessView, QueueKind, Queues, QueueView, Source
from services.ops.reconcile.views import WHILE_AWAY, Reconciliation, RecoveryCounts, RecoveryView, RoundView
from services.ops.subscriptions.views import NoManagement, SubscriptionView
from shared.contract.answers import Page
from shared.contract.errors import DependencyDown
from shared.contract.health import ProcessState, how_to_start
from shared.runtime.client import HttpClient
from shared.runtime.description import raises
from shared.runtime.http import Api, Router
from tests.console import TOKENS, Browser, signed_in
from tests.ops import OPERATOR, READER

NOON = datetime(2026, 11, 29, 12, tzinfo=UTC)
HOSTILE = "<script>alert(1)</script>{{ 7*7 }}\"'&"
LATER = datetime(2026, 11, 29, 11, 30, 0, 123456, tzinfo=UTC)
ID = UUID(int=7)
#: A delivery that the notifier does not have.
GONE = UUID(int=8)


def process(state: ProcessState = ProcessState.READY, **other: Any) -> ProcessView:
    facts: dict[str, Any] = {
        "name": "state",
        "address": "http://state:8081",
        "detail": "ready, version 1",
        "then": "",
        "version": "1",
        "checks": {"database": "ok"},
        "set_aside": {},
    }
    return ProcessView(state=state, **{**facts, **other})


def queue(**other: Any) -> QueueView:
    facts: dict[str, Any] = {
        "name": "modelswap.state",
        "kind": QueueKind.WORK,
        "process": "state",
        "ready": 0,
        "unacked": 0,
        "consumers": 1,
        "oldest_seconds": None,
        "publish_rate": 0.0,
        "ack_rate": 0.0,
        "paused": None,
        "problem": None,
    }
    return QueueView(**{**facts, **other})


def subscription(**other: Any) -> SubscriptionView:
    facts: dict[str, Any] = {
        "name": "generator",
        "events": ["model.activated.v1"],
        "max_length": 100,
        "queue": "q",
        "user": "u",
        "waiting": 0,
        "consumers": 1,
        "overflow_queue": "q.overflow",
        "overflowed": 0,
        "overflow_max_length": 100,
    }
    return SubscriptionView(**{**facts, **other})


def endpoint(**other: Any) -> EndpointAnswer:
    facts: dict[str, Any] = {
        "id": ID,
        "url": "https://app.example/hook",
        "events": ["model.activated.v1"],
        "description": "",
        "status": "enabled",
        "status_at": NOON,
        "failing_since": None,
        "failed_attempts": 0,
        "last_success_at": None,
    }
    return EndpointAnswer(**{**facts, **other})


def delivery(**other: Any) -> DeliveryAnswer:
    facts: dict[str, Any] = {
        "id": ID,
        "event": "model.activated.v1",
        "event_id": "e1",
        "status": "failed",
        "status_at": NOON,
        "attempts": 2,
        "response_status": 500,
        "response": "no",
        "took_ms": 12,
    }
    return DeliveryAnswer(**{**facts, **other})


def reconciliation(*, lost: bool = False, trouble: str = "", user: str = "ada") -> Reconciliation:
    overdue = RecoveryView(
        ref=ID,
        training_id="t1",
        user_id=user,
        noticed_at=NOON,
        looks=2,
        gets=1,
        look_at=NOON,
        trouble=trouble,
        outcome=None,
        settled_at=None,
    )
    return Reconciliation(
        webhooks_seem_lost=lost,
        recovered=RecoveryCounts(last_hour=4, last_day=9),
        given_up=RecoveryCounts(),
        never_started=RecoveryCounts(),
        last_round=RoundView(at=NOON, last_success_at=NOON, overdue=1, calls_left=59, trouble=trouble),
        calls_per_minute=60,
        set_aside=0,
        trainings=[overdue],
    )


def concerns(
    *, processes: Any = (), queues: Any = (), found: Any = None, subscriptions: Any = (), endpoints: Any = ()
) -> list[Concern]:
    return health_concerns(
        Processes(at=NOON, version="1", processes=processes),
        Queues(at=NOON, source=Source.MANAGEMENT, trouble="", queues=queues),
        found,
        subscriptions,
        endpoints,
    )


@pytest.mark.parametrize(
    ("facts", "word", "kind"),
    [
        ({}, "empty", "good"),
        ({"ready": 3}, "working", "info"),
        ({"unacked": 3}, "working", "info"),
        ({"ready": None, "consumers": None}, "not known", "quiet"),
        ({"consumers": 0}, "no consumer", "quiet"),
        ({"consumers": 0, "problem": "3 wait"}, "no consumer", "bad"),
        ({"problem": "the oldest is stuck"}, "stuck", "warn"),
        ({"paused": "Postgres is away", "problem": "3 wait"}, "paused", "bad"),
    ],
)
def test_a_queue_has_one_state_in_a_word(facts, word, kind):
    assert queue_badge(queue(**facts)) == (kind, word)


def test_when_all_is_well_nothing_needs_an_operator():
    found = concerns(
        processes=[process()],
        queues=[queue(ready=5)],
        found=reconciliation(),
        subscriptions=[subscription(waiting=3)],
        endpoints=[endpoint(), endpoint(status="paused")],
    )

    assert found == []


def test_what_needs_an_operator_is_said_with_what_to_do_the_worst_first():
    found = concerns(
        processes=[
            process(ProcessState.LIMITED, detail="is version 2", then="restart state"),
            process(ProcessState.AWAY, name="ops", detail="nothing listens", then=how_to_start("ops")),
        ],
        queues=[queue(consumers=0, problem="3 wait"), queue(paused="Postgres is away")],
        found=reconciliation(lost=True),
        subscriptions=[subscription(overflowed=2), subscription(consumers=0, waiting=2)],
        endpoints=[endpoint(status="failing")],
    )

    assert [each.kind for each in found] == ["bad"] * 6 + ["warn"] * 2
    assert [each.then for each in found] == [
        how_to_start("ops"),
        how_to_start("state"),
        '"A consumer waits" in deploy/runbook.md',
        f'"Webhooks do not arrive" in deploy/runbook.md; {WHILE_AWAY}',
        "modelswap subscriptions show generator",
        "",
        "restart state",
        "modelswap subscriptions show generator",
    ]


def test_a_failed_round_of_the_reconciler_leads_to_the_runbook():
    (found,) = concerns(found=reconciliation(trouble="Replicate refuses the token"))

    assert (found.what, found.then) == ("The reconciler's last round failed", '"A loop fails" in deploy/runbook.md')


def test_an_endpoint_with_errors_is_marked_before_it_is_disabled():
    found = endpoint(failing_since=NOON)

    assert (kind(found.state, "endpoint"), found.state) == ("warn", "errors")
    assert concerns(endpoints=[found]) == []


async def test_delays_and_the_log_are_no_rows_of_work():
    async with signed_in(ops_api(), notifier()) as browser:
        shown = (await browser.get("/queues")).text

    assert re.findall(r'title="(modelswap\.[^"]+)"', shown) == ["modelswap.state", "modelswap.state"]
    assert '<dt>after 30s</dt><dd class="figure"><strong>4</strong></dd>' in shown
    assert "The events log keeps 1,000 events." in shown


@pytest.mark.parametrize(
    ("facts", "said"),
    [
        ({}, "answered 500 after 12 ms"),
        ({"response_status": None}, "no response after 12 ms"),
        ({"attempts": 0}, "no attempt yet"),
    ],
)
def test_the_last_attempt_of_a_delivery_is_said_in_words(facts, said):
    assert delivery(**facts).last_attempt == said


class Told:
    """What the notifier was asked to do, and what the audit says of it."""

    def __init__(self) -> None:
        self.requests: list[tuple[str, str, Any]] = []
        self.audited: list[tuple[str, ...]] = []
        self.keys: list[str | None] = []
        self.is_audit_away = False

    async def audit(self, *entry: str, key: str | None = None, refused: str | None = None) -> None:
        assert refused is None or refused.startswith("asked: ")
        if self.is_audit_away:
            raise DependencyDown("Postgres does not answer")
        self.audited.append(entry)
        self.keys.append(key)


@contextlib.asynccontextmanager
async def at_endpoint(told: Told, *, token: str = OPERATOR) -> AsyncIterator[Browser]:
    """A browser of the screen of an endpoint, with the real routes between it and the notifier."""
    app = notifier(told=told)
    async with HttpClient("http://notifier/v1", transport=httpx.ASGITransport(app)) as http:
        api = create_api(endpoints_router(http, told.audit), tokens=TOKENS)
        async with signed_in(api, app, token=token) as browser:
            yield browser


def ops_api(text: str = "state", *, subscriptions_away: bool = False) -> Api:
    """An operators' API whose every text is *text*."""
    router = Router()

    @router.get("/processes")
    async def processes() -> Processes:
        away = process(ProcessState.AWAY, name=text, address=f"http://{text}", detail=text, then=text, version=text)
        return Processes(at=NOON, version="1", processes=[process(), away])

    @router.get("/queues")
    async def queues() -> Queues:
        named = queue(name=f"modelswap.{text}", paused=text, process=text)
        delay = queue(name="modelswap.delay.30s", kind=QueueKind.DELAY, process=None, ready=4)
        log = queue(name="modelswap.events.log", kind=QueueKind.LOG, process=None, ready=1000)
        return Queues(at=NOON, source=Source.AMQP, trouble=text, queues=[queue(), named, delay, log])

    @router.get("/reconciliation")
    async def reconcile(limit: int) -> Reconciliation:
        assert limit >= 0
        return reconciliation(lost=True, trouble=text, user=text)

    @router.get("/subscriptions")
    @raises(NoManagement)
    async def subscriptions(limit: int) -> Page[SubscriptionView]:
        assert limit
        if subscriptions_away:
            raise NoManagement(f"MODELSWAP_MANAGEMENT_URL of ops is not set {text}")
        return Page(items=[subscription(name=text, events=[text], overflowed=1)], next_cursor=None)

    return create_api(router, tokens=TOKENS)


def notifier(text: str = "hook", told: Told | None = None, facts: Mapping[str, Any] | None = None) -> FastAPI:
    app = FastAPI()
    one = "/v1/webhook-endpoints/{endpoint}"
    named = {"url": f"https://{text}", "description": text, "status": "failing", "events": [text]}
    shown = endpoint(**named | dict(facts or {}))

    async def note(request: Request) -> Any:
        body = await request.body()
        if told is not None:
            key = request.headers.get("idempotency-key", "")
            told.requests.append((request.method, f"{request.url.path} {key}".strip(), body.decode()))

    @app.get("/v1/webhook-endpoints")
    async def endpoints() -> Page[EndpointAnswer]:
        return Page(items=[shown], next_cursor=None)

    @app.get(one)
    async def one_endpoint() -> EndpointAnswer:
        return shown

    @app.patch(one)
    async def edit(request: Request) -> EndpointAnswer:
        await note(request)
        return shown

    @app.get(f"{one}/deliveries")
    async def deliveries() -> Page[DeliveryAnswer]:
        return Page(items=[delivery(event_id=text, response=text)], next_cursor="AAAAAAAAAAA")

    @app.post(f"{one}/deliveries/{{each}}/resend")
    async def resend_one(request: Request, each: UUID) -> DeliveryAnswer:
        if each == GONE:
            raise HTTPException(404, "no such delivery")
        await note(request)
        return delivery()

    @app.post(f"{one}/resend")
    async def resend(request: Request) -> DeliveriesResent:
        await note(request)
        return DeliveriesResent(deliveries=3, next_since=LATER, newest=17)

    return app


async def test_hostile_names_are_shown_as_they_are():
    async with signed_in(ops_api(HOSTILE), notifier(HOSTILE)) as browser:
        pages = [await browser.get("/queues"), await browser.get(f"/queues/webhooks/{ID}")]

    for answer in pages:
        assert answer.status_code == 200
        assert "<script>alert" not in answer.text
        assert answer.text.count(escape(HOSTILE).replace("&#x27;", "&#39;").replace("&quot;", "&#34;")) >= 3


async def test_the_first_page_shows_what_needs_an_operator_here():
    async with signed_in(ops_api(), notifier()) as browser:
        first, queues = await browser.get("/"), await browser.get("/queues")

    wanted = ["subscription state", "webhooks to https://hook", "state: away", "Webhooks do not arrive"]
    for what in wanted[:2]:
        assert what in first.text, what
    for what in wanted:
        assert f"<strong>{what}" in queues.text, what
    assert "Something needs you." in first.text
    # What does not answer is named once.
    assert "services.state cannot answer" in first.text
    assert "state: away" not in first.text


async def test_what_nobody_knows_is_a_dash_and_no_zero():
    async with signed_in(ops_api()) as browser:
        shown = (await browser.get("/")).text

    walk = shown.partition("The walk of all trainings")[2].partition("</section>")[0]
    figures = re.findall(r'<span class="figure">(.*?)</span>|<strong>(.*?)</strong>', walk)
    assert len(figures) == 10
    assert {one or other for one, other in figures} == {NOTHING}


async def test_without_notifier_and_management_the_page_says_so():
    async with signed_in(ops_api(subscriptions_away=True)) as browser:
        answer = await browser.get("/queues")

    assert answer.status_code == 200
    assert "The subscriptions cannot be shown now." in answer.text
    assert "MODELSWAP_MANAGEMENT_URL of ops is not set" in answer.text
    assert "The webhook endpoints cannot be shown now." in answer.text


async def test_a_part_that_hangs_does_not_hold_up_the_page():
    parts = Parts()

    assert await parts.soon("events", asyncio.Event().wait(), seconds=0.01) is None
    assert parts.away == {"events": "There is no answer within 0.01 seconds."}


async def test_a_delivery_is_sent_again_for_a_reason():
    told = Told()
    async with at_endpoint(told) as browser:
        path = f"/queues/webhooks/{ID}"
        answer = await browser.post(f"{path}/deliveries/{ID}/resend", page=path, key="k1", reason="their bug is fixed")
        shown = await browser.get(path)

    assert (answer.status_code, answer.headers["location"]) == (303, path)
    assert [(method, where) for method, where, _ in told.requests] == [
        ("POST", f"/v1/webhook-endpoints/{ID}/deliveries/{ID}/resend k1")
    ]
    entry = ("olga", "webhook_endpoint.resent", f"webhook endpoint {ID}", "their bug is fixed")
    assert told.audited == [(*entry, f"asked: delivery {ID}"), (*entry, "model.activated.v1 e1 sent again")]
    assert told.keys == ["k1", "k1"]
    assert "is sent again" in shown.text


async def test_an_endpoint_with_errors_is_so_on_its_own_page():
    app = notifier(facts={"status": "enabled", "failing_since": NOON})
    async with signed_in(ops_api(), app) as browser:
        shown = await browser.get(f"/queues/webhooks/{ID}")

    assert '<span class="badge warn">errors</span>' in shown.text


async def test_many_are_previewed_before_they_are_sent_again():
    told = Told()
    since = "2026-11-29T11:00:00+00:00"
    async with at_endpoint(told) as browser:
        path = f"/queues/webhooks/{ID}"
        preview = await browser.post(f"{path}/preview", page=path, period="the last hour", all="on")
        up_to = re.findall(r'name="up_to" value="(.*?)"', preview.text)
        sent = await browser.post(
            f"{path}/resend", page=path, since=since, all="on", up_to=up_to, key="k1", reason="is fixed"
        )
        shown = await browser.get(path)

    assert "3 deliveries" in preview.text
    assert "as many as are sent at a time" in preview.text
    command = f"modelswap webhooks resend {ID} --since {LATER.isoformat()} --all --reason 'is fixed'"
    assert command in unescape(shown.text)
    assert (preview.status_code, sent.status_code) == (200, 303)
    wanted = [json.loads(body) for _, _, body in told.requests]
    assert [(each["dry_run"], each.get("up_to")) for each in wanted] == [(True, None), (False, 17)]
    assert [entry[3:] for entry in told.audited] == [
        ("is fixed", f"asked: deliveries since {since}"),
        ("is fixed", f"3 deliveries since {since} sent again; not those since {LATER.isoformat()}"),
    ]


async def test_an_endpoint_is_enabled_for_a_reason():
    told = Told()
    async with at_endpoint(told) as browser:
        path = f"/queues/webhooks/{ID}"
        without = await browser.post(f"{path}/enable", page=path)
        answer = await browser.post(f"{path}/enable", page=path, key="k1", reason="they answer again")

    assert (without.status_code, answer.status_code) == (422, 303)
    assert told.keys == ["k1"]
    assert [(method, where) for method, where, _ in told.requests] == [("PATCH", f"/v1/webhook-endpoints/{ID} k1")]
    assert [entry[1:] for entry in told.audited] == [
        ("webhook_endpoint.enabled", f"webhook endpoint {ID}", "they answer again", "asked: enabled")
    ]


async def test_a_form_whose_key_is_no_header_is_refused():
    told = Told()
    async with at_endpoint(told) as browser:
        path = f"/queues/webhooks/{ID}"
        answer = await browser.post(f"{path}/deliveries/{ID}/resend", page=path, reason="x", key="k\u00e9")

    assert answer.status_code == 400
    assert told.requests == []


async def test_nothing_is_asked_of_the_notifier_that_cannot_be_audited():
    told = Told()
    async with at_endpoint(told) as browser:
        path = f"/queues/webhooks/{ID}"
        told.is_audit_away = True
        answers = [
            await browser.post(f"{path}/{what}", page=path, key="k1", reason="x", since="2026-11-29T11:00:00Z")
            for what in ("enable", "resend", f"deliveries/{ID}/resend")
        ]

    assert [answer.status_code for answer in answers] == [503] * 3
    assert told.requests == []


async def test_what_the_notifier_refuses_is_said_and_audited():
    told = Told()
    async with at_endpoint(told) as browser:
        path = f"/queues/webhooks/{ID}"
        answer = await browser.post(f"{path}/deliveries/{GONE}/resend", page=path, key="k1", reason="try")

    assert answer.status_code == 409
    assert "The notifier refuses it" in answer.text
    assert [entry[4] for entry in told.audited] == [
        f"asked: delivery {GONE}",
        "refused: the notifier refuses it: no such delivery",
    ]


async def test_a_reader_sees_no_button_and_may_send_nothing():
    told = Told()
    async with at_endpoint(told, token=READER) as browser:
        path = f"/queues/webhooks/{ID}"
        shown = await browser.get(path)
        refused = [
            await browser.post(f"{path}/{what}", page=path, reason="x") for what in ("enable", "resend", "preview")
        ]

    main = shown.text.partition("<main")[2].partition("</main>")[0]
    assert "<button" not in main
    assert [answer.status_code for answer in refused] == [403, 403, 403]
    assert told.requests == []


async def test_the_chosen_status_is_marked_and_each_has_an_address():
    path = f"/queues/webhooks/{ID}"
    async with signed_in(ops_api(), notifier()) as browser:
        every, failed = [(await browser.get(each)).text for each in (path, f"{path}?status=failed")]

    assert f'<a href="{path}" aria-current="page">all</a><a href="{path}?status=failed">failed</a>' in every
    assert f'<a href="{path}">all</a><a href="{path}?status=failed" aria-current="page">failed</a>' in failed


@pytest.mark.parametrize("path", ["?status=lost", "/other"])
async def test_what_does_not_exist_is_not_found(path):
    async with signed_in(ops_api(), notifier()) as browser:
        assert (await browser.get(f"/queues/webhooks/{ID}{path}")).status_code == 404
