"""Webhook endpoints: which addresses are called, how deliveries are signed, and what follows from an answer."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address, ip_network
from typing import Any
from uuid import UUID, uuid4

import pytest
from standardwebhooks import Webhook
from standardwebhooks.webhooks import WebhookVerificationError

from services.notifier.addresses import UnusableUrl, check_url, is_allowed, is_public, uses_tls
from services.notifier.attempts import (
    Answer,
    Attempts,
    End,
    EndpointBusy,
    GivenUp,
    NotAccepted,
    Sending,
    Slots,
    judge,
    retry_after,
    settled,
)
from services.notifier.message import StoredEvent, make_test, stored
from services.notifier.signing import MasterSecretMissing, Seeds, Signer
from services.notifier.views import DeliveryStatus, EndpointStatus
from shared.contract.envelope import decode, wrap
from shared.contract.events import DeliveryRequested
from shared.contract.retry import RetryIn, next_step
from shared.contract.values import Effect
from shared.runtime.clock import now
from tests.webhooks import activated

NOW = datetime(2026, 11, 28, 12, tzinfo=UTC)
LOOPBACK = (ip_network("127.0.0.0/8"),)
SIGNER = Signer(["master-1"])
SEED = SIGNER.new_seed(bytes(32))
THREE_DAYS = timedelta(days=3)


@pytest.mark.parametrize(
    "address",
    [
        *("0.0.0.0", "10.0.0.1", "100.64.0.1", "127.0.0.1", "169.254.169.254", "172.16.0.1", "192.168.0.1"),
        *("192.0.0.192", "192.0.2.1", "198.18.0.1", "224.0.0.1", "239.1.1.1", "240.0.0.1", "255.255.255.255"),
        *("100.100.100.200", "168.63.129.16", "192.88.99.1", "::", "::1", "fe80::1", "fe80::1%2", "fc00::1"),
        *("fd00:ec2::254", "ff02::1", "fec0::1", "::ffff:127.0.0.1", "::ffff:8.8.8.8", "::ffff:0:8.8.8.8"),
        *("::127.0.0.1", "64:ff9b::7f00:1", "64:ff9b::808:808", "64:ff9b:1::1", "2002:7f00:1::1", "2002:808:808::1"),
        *("2001:0:808:808::1", "2001:db8::1"),
    ],
)
def test_an_address_that_is_not_one_public_host_is_refused(address):
    assert not is_public(ip_address(address))


@pytest.mark.parametrize("address", ["8.8.8.8", "1.1.1.1", "2606:4700:4700::1111", "2a00:1450:4001:80e::200e"])
def test_a_public_address_is_called_with_tls_only(address):
    assert is_allowed(ip_address(address), (), is_tls=True)
    assert not is_allowed(ip_address(address), LOOPBACK, is_tls=False)


@pytest.mark.parametrize(
    "url",
    [
        "https://hooks.example.com/a?b=c",
        "https://hooks.example.com:8443/",
        "https://8.8.8.8",
        "HTTPS://hooks.example.com",
    ],
)
def test_an_https_url_is_usable(url):
    check_url(url, ())

    assert uses_tls(url)


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("http://hooks.example.com", "https://"),
        ("ftp://hooks.example.com", "https://"),
        ("https:///a", "no host"),
        ("https://user:password@hooks.example.com", "password"),
        ("https://@hooks.example.com", "password"),
        ("https://hooks.example.com/#a", "fragment"),
        ("https://hooks.example.com/#", "fragment"),
        ("https://hooks.example.com:25", "port"),
        ("https://hooks.example.com:0", "port"),
        ("https://hooks.example.com:99999", "URL"),
        ("https://[::1", "URL"),
        ("https://127.0.0.1/", "public"),
        ("https://[::ffff:10.0.0.1]/", "public"),
        ("https://exämple.com/", "ASCII"),
        ("https://example.com/a b", "ASCII"),
        ("https://example.com\\@127.0.0.1/", "ASCII"),
    ],
)
def test_an_unusable_url_is_refused_and_told_why(url, why):
    with pytest.raises(UnusableUrl, match=why):
        check_url(url, ())


def test_plain_http_is_for_networks_that_tests_allow():
    check_url("http://127.0.0.1:1234/", LOOPBACK)

    assert not uses_tls("http://127.0.0.1:1234/")
    with pytest.raises(UnusableUrl):
        check_url("https://10.0.0.1/", LOOPBACK)


def test_a_signature_is_what_standard_webhooks_verifies():
    body = b'{"a": 1}'

    headers = SIGNER.headers([SEED], "an-id", now(), body)

    secret = SIGNER.secret_of(SEED)
    assert len(base64.b64decode(secret.removeprefix("whsec_"))) * 8 >= 192
    assert Webhook(secret).verify(body, headers) == {"a": 1}
    with pytest.raises(WebhookVerificationError):
        Webhook(secret).verify(b'{"a": 2}', headers)


def test_after_a_rotation_both_secrets_verify_until_the_old_one_ends():
    new = SIGNER.new_seed(bytes([1]) * 32)
    seeds = Seeds(new, SEED, NOW + timedelta(days=1))

    during, afterwards = (seeds.at(moment) for moment in (NOW, NOW + timedelta(days=1)))

    headers = SIGNER.headers(during, "an-id", now(), b"{}")
    assert [Webhook(SIGNER.secret_of(seed)).verify(b"{}", headers) for seed in (new, SEED)] == [{}, {}]
    assert list(afterwards) == [new]


def test_a_new_master_secret_leaves_the_secrets_of_endpoints_as_they_are():
    assert Signer(["master-2", "master-1"]).secret_of(SEED) == SIGNER.secret_of(SEED)
    with pytest.raises(MasterSecretMissing):
        Signer(["master-2"]).secret_of(SEED)


def test_a_secret_that_was_rotated_for_its_lost_master_signs_at_once():
    signer = Signer(["master-2"])
    seeds = Seeds(signer.new_seed(bytes(32)), SEED, NOW + timedelta(days=1)).at(NOW)

    headers = signer.headers(seeds, "an-id", now(), b"{}")

    assert Webhook(signer.secret_of(seeds[0])).verify(b"{}", headers) == {}
    with pytest.raises(MasterSecretMissing):
        signer.headers([SEED], "an-id", now(), b"{}")


def test_a_webhook_is_the_event_in_structured_mode_and_nothing_else():
    parent = {"traceparent": f"00-{'1' * 32}-{'2' * 16}-01"}
    envelope = replace(wrap(activated("ann", 3), source="state", now=NOW, trace=parent), replay="a-mark")

    event = stored(envelope)

    body = json.loads(event.body)
    assert body.pop("data") == json.loads(envelope.body())
    assert body == {
        "specversion": "1.0",
        "id": envelope.id,
        "type": "dev.modelswap.model.activated.v1",
        "source": "/modelswap/state",
        "time": "2026-11-28T12:00:00Z",
        "subject": "ann",
        "datacontenttype": "application/json",
        **parent,
    }
    assert decode({}, "application/cloudevents+json", event.body.encode()).event == envelope.event


def test_a_test_is_no_public_event():
    event = make_test(uuid4(), uuid4(), NOW)

    assert json.loads(event.body)["type"] == "dev.modelswap.webhook.test.v1"


@pytest.mark.parametrize(
    ("status", "header", "age", "expected"),
    [
        (200, "", 0, (DeliveryStatus.DELIVERED, None, False)),
        (204, "5", 9, (DeliveryStatus.DELIVERED, None, False)),
        (302, "", 0, (DeliveryStatus.RETRYING, None, False)),
        (400, "", 0, (DeliveryStatus.RETRYING, None, False)),
        (500, "9", 0, (DeliveryStatus.RETRYING, None, False)),
        (None, "", 0, (DeliveryStatus.RETRYING, None, False)),
        (429, "60", 0, (DeliveryStatus.RETRYING, 60, False)),
        (503, "86400", 0, (DeliveryStatus.RETRYING, 3600, False)),
        (500, "", 3, (DeliveryStatus.FAILED, None, False)),
        (410, "", 0, (DeliveryStatus.FAILED, None, True)),
    ],
)
def test_what_follows_from_an_answer(status, header, age, expected):
    answer = Answer(status, "", 1, header)

    end = judge(answer, sent_at=NOW - timedelta(days=age), now=NOW, give_up_after=THREE_DAYS)

    wait = None if end.not_before is None else (end.not_before - NOW).total_seconds()
    assert (end.status, wait, end.is_gone) == expected


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        ("7", 7),
        ("9" * 5000, 3600),
        ("Sat, 28 Nov 2026 12:00:30 GMT", 30),
        ("Sat, 28 Nov 2026 11:00:00 GMT", None),
        *((text, None) for text in ("", "-1", "0", "soon", "1.5", "٣", "Sat, 99 Nov 2026 12:00:30 GMT")),
    ],
)
def test_retry_after_is_read_in_both_forms_and_bounded(header, seconds):
    expected = None if seconds is None else timedelta(seconds=seconds)

    assert retry_after(header, NOW) == expected


def asked(endpoint_id: UUID | None = None) -> DeliveryRequested:
    return DeliveryRequested(training_id="t1", delivery_id=uuid4(), endpoint_id=endpoint_id or uuid4(), sending=1)


class Stored:
    """One delivery, in memory."""

    def __init__(self, **changes: Any) -> None:
        known: dict[str, Any] = {
            "event_id": "an-id",
            "event": "model.activated.v1",
            "body": "{}",
            "sent_at": NOW,
            "url": "https://hooks.example.com",
            "endpoint": EndpointStatus.ENABLED,
            "is_failing": False,
            "not_before": None,
            "seeds": Seeds(SEED),
        }
        self.sending: Sending | None = Sending(**{**known, **changes})
        self.held: list[DeliveryRequested] = []
        self.ends: list[End] = []
        self.becomes: EndpointStatus | None = EndpointStatus.ENABLED
        self.added: list[StoredEvent] = []

    async def add(self, events: Sequence[StoredEvent]) -> None:
        self.added += events

    async def find(self, _: DeliveryRequested) -> Sending | None:
        return self.sending

    async def hold(self, asked: DeliveryRequested) -> None:
        self.held.append(asked)

    async def record(self, _: DeliveryRequested, end: End, *, url: str) -> EndpointStatus | None:
        assert self.sending is not None
        assert url == self.sending.url
        self.ends.append(end)
        return self.becomes


def attempts(store: Stored, answer: Answer, slots: Slots | None = None) -> Attempts:
    async def post(*_: object) -> Answer:
        return answer

    return Attempts(store, post, SIGNER, slots or Slots(2), now=lambda: NOW, give_up_after=THREE_DAYS)


def envelope_of(event: DeliveryRequested, replay: str | None = None) -> Any:
    return replace(wrap(event, source="notifier", now=NOW), replay=replay)


async def test_an_accepted_delivery_is_recorded_and_reports_a_replay():
    store, event = Stored(), asked()
    envelope = envelope_of(event, "a-mark")

    follow = await attempts(store, Answer(200, "ok", 3)).handle(envelope)

    assert [end.status for end in store.ends] == [DeliveryStatus.DELIVERED]
    assert list(follow) == list(settled(envelope, Effect.DELIVERED))


async def test_a_replayed_public_event_is_stored_for_its_endpoints():
    store, envelope = Stored(), replace(wrap(activated("ann", 3), source="state", now=NOW), replay="a-mark")

    follow = await attempts(store, Answer(200, "ok", 3)).handle(envelope)

    assert (store.added, list(follow)) == ([stored(envelope)], list(settled(envelope, Effect.DELIVERED)))


@pytest.mark.parametrize(
    ("status", "age", "error", "code"),
    [
        (500, 0, NotAccepted, "webhook_not_accepted"),
        (500, 4, GivenUp, "webhook_given_up"),
        (410, 0, GivenUp, "webhook_endpoint_gone"),
    ],
)
async def test_a_refused_delivery_is_retried_or_given_up(status, age, error, code):
    store = Stored(sent_at=NOW - timedelta(days=age))

    with pytest.raises(error) as caught:
        await attempts(store, Answer(status, "no", 3)).handle(envelope_of(asked()))

    assert caught.value.code == code
    assert len(store.ends) == 1


async def test_a_refusal_that_is_out_of_date_is_no_dead_letter():
    store = Stored()
    store.becomes = None

    with pytest.raises(NotAccepted):
        await attempts(store, Answer(410, "", 1)).handle(envelope_of(asked()))


async def test_an_endpoint_that_asked_for_a_pause_is_left_alone_until_then():
    store = Stored(not_before=NOW + timedelta(seconds=40))

    with pytest.raises(EndpointBusy) as caught:
        await attempts(store, Answer(200, "", 1)).handle(envelope_of(asked()))

    assert caught.value.retry_after_seconds == 40
    assert store.ends == []


async def test_the_delivery_of_a_disabled_endpoint_waits_for_it():
    store, event = Stored(endpoint=EndpointStatus.PAUSED), asked()

    await attempts(store, Answer(200, "", 1)).handle(envelope_of(event))

    assert (store.held, store.ends) == ([event], [])


async def test_a_delivery_that_finds_its_endpoint_paused_waits_no_longer_each_time():
    store, attempt, waits = Stored(not_before=NOW + timedelta(seconds=4)), 1, []

    for _ in range(10):
        with pytest.raises(EndpointBusy) as caught:
            await attempts(store, Answer(200, "", 1)).handle(envelope_of(asked()))
        step = next_step(caught.value, attempt=attempt)
        assert isinstance(step, RetryIn)
        attempt = step.attempt
        waits.append(step.delay.total_seconds())

    assert waits == [5] * 10


async def test_a_delivery_that_is_out_of_date_is_ignored():
    store = Stored()
    store.sending = None

    assert list(await attempts(store, Answer(200, "", 1)).handle(envelope_of(asked()))) == []


def test_one_endpoint_has_few_places_and_one_while_it_fails():
    slots, one, other = Slots(2), uuid4(), uuid4()

    with slots.taken(one, is_failing=False), slots.taken(other, is_failing=True):
        with pytest.raises(EndpointBusy), slots.taken(one, is_failing=True):
            pass
        with slots.taken(one, is_failing=False), pytest.raises(EndpointBusy), slots.taken(one, is_failing=False):
            pass
    with slots.taken(one, is_failing=True):
        pass


async def test_an_endpoint_that_fails_gets_one_request_at_a_time():
    store, answering = Stored(is_failing=True), asyncio.Event()

    async def post(*_: object) -> Answer:
        await answering.wait()
        return Answer(200, "", 1)

    handler = Attempts(store, post, SIGNER, Slots(2), now=lambda: NOW, give_up_after=THREE_DAYS)
    event = asked()
    first = asyncio.create_task(handler.handle(envelope_of(event)))
    await asyncio.sleep(0)
    with pytest.raises(EndpointBusy):
        await handler.handle(envelope_of(asked(event.endpoint_id)))
    answering.set()
    await first

    assert len(store.ends) == 1
