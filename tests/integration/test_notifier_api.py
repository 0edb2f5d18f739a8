"""The API of webhook endpoints, on a real database, without a broker."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any
from uuid import UUID

import httpx
import pytest

from services.notifier.api import create_api
from services.notifier.attempts import Answer, End
from services.notifier.message import stored
from services.notifier.migrate import ROLE
from services.notifier.signing import Signer
from services.notifier.store import Store
from services.notifier.store.relay import MARK_QUEUED
from services.notifier.views import DeliveryStatus, EndpointStatus
from shared.contract.envelope import Envelope, wrap
from shared.contract.events import DeliveryRequested
from shared.runtime.clock import now
from shared.runtime.http import Api
from shared.runtime.tokens import read_token
from tests.databases import opened_pool, plan_on_empty_tables
from tests.described import DescribedTransport
from tests.state import connected
from tests.webhooks import activated

PATH = "/webhook-endpoints"
URL = "https://hooks.example.com/modelswap"
BODY = {"url": URL, "events": ["model.activated.v1"], "description": "the mailer's"}
SIGNER = Signer(["a-master-secret-for-tests"])
AT_ONCE = 2


@contextlib.asynccontextmanager
async def opened_notifier(database_url: str) -> AsyncIterator[tuple[Store, Api]]:
    """The store, in the role that may do little, and the API."""
    async with opened_pool(database_url, role=ROLE) as pool:
        store = Store(pool, at_once=AT_ONCE)
        tokens = [read_token("token-of-the-product"), read_token("reader:token-of-a-reader")]
        yield store, create_api(store, SIGNER, allowed=(), tokens=tokens)


@dataclass
class Notifier:
    """The notifier without a broker: what it would publish is in a list."""

    store: Store
    api: httpx.AsyncClient

    async def ask(self, method: str, path: str, status: int = 200, **options: Any) -> Any:
        answer = await self.api.request(method, f"{PATH}{path}", **options)
        assert answer.status_code == status, answer.text
        return answer.json()

    async def add(self, **changes: Any) -> str:
        return str((await self.ask("POST", "", 201, json={**BODY, **changes}))["id"])

    async def deliver(self, *numbers: int) -> None:
        """Store an event for each of these generations."""
        await self.store.add([stored(wrap(activated("ann", each), source="state", now=now())) for each in numbers])

    async def relay(self) -> list[DeliveryRequested]:
        """What one round of the relay publishes."""
        published: list[DeliveryRequested] = []

        async def publish(envelopes: Sequence[Envelope]) -> Sequence[BaseException | None]:
            for envelope in envelopes:
                assert isinstance(envelope.event, DeliveryRequested)
                published.append(envelope.event)
            return [None] * len(envelopes)

        await self.store.relay(publish)
        return published

    async def end(
        self, asked: DeliveryRequested, status: int, *, ago: timedelta = timedelta(), url: str = URL
    ) -> EndpointStatus | None:
        """An attempt at *url* ends with this *status*."""
        ends = {200: DeliveryStatus.DELIVERED, 410: DeliveryStatus.FAILED}
        end = End(ends.get(status, DeliveryStatus.RETRYING), Answer(status, "", 1), now() - ago, is_gone=status == 410)
        return await self.store.record(asked, end, url=url)

    async def statuses(self, endpoint_id: str) -> list[str]:
        return [each["status"] for each in (await self.ask("GET", f"/{endpoint_id}/deliveries"))["items"]]


@pytest.fixture
async def notifier(database_url: str) -> AsyncIterator[Notifier]:
    async with opened_notifier(database_url) as (store, api):
        headers = {"Authorization": "Bearer token-of-the-product"}
        transport = DescribedTransport(api)
        async with httpx.AsyncClient(transport=transport, base_url="http://notifier/v1", headers=headers) as client:
            yield Notifier(store, client)


async def test_a_secret_is_shown_when_it_is_made_and_never_again(notifier):
    key = {"Idempotency-Key": "k1"}

    made = await notifier.ask("POST", "", 201, json=BODY, headers=key)
    again = await notifier.ask("POST", "", 201, json=BODY, headers=key)
    refused = await notifier.ask("POST", "", 422, json={**BODY, "description": ""}, headers=key)
    rotated = await notifier.ask("POST", f"/{made['id']}/rotate-secret", headers={"Idempotency-Key": "k2"})
    repeated = await notifier.ask("POST", f"/{made['id']}/rotate-secret", headers={"Idempotency-Key": "k2"})
    shown = await notifier.ask("GET", f"/{made['id']}")
    (listed,) = (await notifier.ask("GET", ""))["items"]

    assert made == again
    assert refused["type"].endswith("idempotency-key-reused")
    assert rotated == repeated
    assert made["secret"].startswith("whsec_")
    assert rotated["secret"] != made["secret"]
    assert rotated["old_secret_until"] is not None
    assert shown == listed == {name: value for name, value in rotated.items() if name != "secret"}


async def test_a_change_with_a_key_is_made_once(notifier):
    """An older request that is sent again must not undo what came after it."""
    endpoint, key = f"/{await notifier.add()}", {"Idempotency-Key": "k1"}

    await notifier.ask("PATCH", endpoint, json={"status": "paused"}, headers=key)
    await notifier.ask("PATCH", endpoint, json={"status": "enabled"})
    again = await notifier.ask("PATCH", endpoint, json={"status": "paused"}, headers=key)
    refused = await notifier.ask("PATCH", endpoint, 422, json={"url": "https://other.example.com"}, headers=key)

    assert (again["status"], again["url"]) == ("enabled", BODY["url"])
    assert refused["type"].endswith("idempotency-key-reused")


@pytest.mark.parametrize(
    ("change", "pointer"),
    [
        ({"url": "http://hooks.example.com"}, "#/url"),
        ({"url": "https://127.0.0.1"}, "#/url"),
        ({"events": []}, "#/events"),
        ({"events": ["training.started.v1"]}, "#/events/0"),
        ({"description": "a\nb"}, "#/description"),
    ],
)
async def test_what_can_not_be_an_endpoint_is_refused_and_told_why(notifier, change, pointer):
    refused = await notifier.ask("POST", "", 422, json={**BODY, **change})

    assert refused["errors"][0]["pointer"] == pointer


async def test_an_endpoint_is_edited_listed_in_pages_and_removed(notifier):
    ids = [await notifier.add(description=str(number)) for number in range(3)]

    edited = await notifier.ask("PATCH", f"/{ids[0]}", json={"status": "paused", "events": ["model.withdrawn.v1"]})
    same = await notifier.ask("PATCH", f"/{ids[0]}", json={})
    first = await notifier.ask("GET", "", params={"limit": 2})
    second = await notifier.ask("GET", "", params={"limit": 2, "cursor": first["next_cursor"]})
    await notifier.ask("DELETE", f"/{ids[1]}")

    assert (edited["status"], edited["events"], edited["url"]) == ("paused", ["model.withdrawn.v1"], URL)
    assert same == edited
    assert [each["id"] for each in (*first["items"], *second["items"])] == [*reversed(ids)]
    for method, path in (("GET", ""), ("PATCH", ""), ("DELETE", ""), ("POST", "/test"), ("GET", "/deliveries")):
        body: dict[str, Any] = {"json": {}} if method == "PATCH" else {}
        gone = await notifier.ask(method, f"/{ids[1]}{path}", 404, **body)
        assert gone["type"].endswith("no-endpoint")


async def test_of_each_endpoint_only_a_few_deliveries_are_handed_over_at_once(notifier):
    one, other = await notifier.add(), await notifier.add()
    await notifier.deliver(1, 2, 3, 4)

    first = await notifier.relay()
    nothing = await notifier.relay()
    await notifier.end(first[0], 200)
    then = await notifier.relay()

    assert sorted(str(each.endpoint_id) for each in first) == sorted([one, one, other, other])
    assert nothing == []
    assert [each.endpoint_id for each in then] == [first[0].endpoint_id]


async def test_an_event_that_comes_again_is_delivered_once(notifier):
    endpoint = await notifier.add()

    await notifier.deliver(1)
    await notifier.deliver(1)

    assert await notifier.statuses(endpoint) == ["waiting"]


async def test_five_days_of_failures_disable_an_endpoint_and_a_success_forgets_them(notifier):
    endpoint = await notifier.add()
    await notifier.deliver(1, 2)
    one, other = await notifier.relay()

    first = await notifier.end(one, 500, ago=timedelta(days=6))
    await notifier.end(other, 200, ago=timedelta(days=5))
    after_success = await notifier.end(one, 500, ago=timedelta(days=4))
    later = await notifier.end(one, 500, ago=-timedelta(days=1))

    assert (first, after_success, later) == ("enabled", "enabled", "failing")
    assert (await notifier.ask("GET", f"/{endpoint}"))["status"] == "failing"


async def test_an_endpoint_that_fails_fills_no_delays(notifier):
    endpoint = await notifier.add()
    await notifier.deliver(*range(1, 201))
    handed_over = 0
    while batch := await notifier.relay():
        handed_over += len(batch)
        for asked in batch:
            await notifier.end(asked, 500)

    assert handed_over < 100 + AT_ONCE
    assert (await notifier.statuses(endpoint)).count("waiting") > 0


async def test_published_deliveries_are_found_by_number_however_many_wait(migrated_database):
    plan = await plan_on_empty_tables(migrated_database, ROLE, MARK_QUEUED, 1)

    assert "Index Cond: (number = ANY ($1))" in plan
    assert "deliveries_waiting" not in plan


async def test_an_answer_of_the_address_before_says_nothing_of_an_endpoint(notifier):
    endpoint = await notifier.add()
    await notifier.deliver(1, 2)
    refused, accepted = await notifier.relay()
    url = "https://hooks.example.com/new"
    await notifier.ask("PATCH", f"/{endpoint}", json={"url": url})

    ends = [await notifier.end(refused, 410), await notifier.end(accepted, 200)]

    shown = await notifier.ask("GET", f"/{endpoint}")
    assert ends == [None, EndpointStatus.ENABLED]
    assert (shown["status"], shown["failing_since"], shown["last_success_at"]) == ("enabled", None, None)
    assert await notifier.statuses(endpoint) == ["delivered", "queued"]
    sending = await notifier.store.find(refused)
    assert (sending and sending.url) == url


async def test_a_refusal_of_what_was_sent_again_meanwhile_changes_nothing(notifier):
    endpoint = await notifier.add()
    await notifier.deliver(1)
    (asked,) = await notifier.relay()
    await notifier.ask("POST", f"/{endpoint}/deliveries/{asked.delivery_id}/resend", 202)

    end = await notifier.end(asked, 410)

    assert (end, (await notifier.ask("GET", f"/{endpoint}"))["status"]) == (None, "enabled")
    assert await notifier.statuses(endpoint) == ["waiting"]


async def test_deliveries_are_sent_again_one_by_one_or_since_a_time(notifier):
    endpoint = await notifier.add()
    await notifier.deliver(1, 2)
    delivered, failed = await notifier.relay()
    await notifier.end(delivered, 200)
    await notifier.end(failed, 410)
    await notifier.ask("PATCH", f"/{endpoint}", json={"status": "enabled"})
    since = (now() - timedelta(hours=1)).isoformat()
    path, key = f"/{endpoint}/resend", {"Idempotency-Key": "k"}

    some = await notifier.ask("POST", path, 202, json={"since": since, "dry_run": True})
    both = await notifier.ask("POST", path, 202, json={"since": since, "all": True, "dry_run": True})
    done = [await notifier.ask("POST", path, 202, json={"since": since}, headers=key) for _ in range(2)]
    one = f"/{endpoint}/deliveries/{delivered.delivery_id}/resend"
    await notifier.ask("POST", one, 202)
    other = await notifier.add()
    missing = await notifier.ask("POST", one.replace(endpoint, other), 404)

    assert [each["deliveries"] for each in (some, both, *done)] == [1, 2, 1, 1]
    assert await notifier.statuses(endpoint) == ["waiting", "waiting"]
    assert {each.sending for each in await notifier.relay()} == {2}
    assert await notifier.store.find(failed) is None  # the message before is out of date
    assert missing["type"].endswith("no-delivery")


@pytest.mark.parametrize(("every", "milliseconds"), [(False, 1), (True, 1), (True, -1)], ids=["failed", "all", "back"])
async def test_more_than_are_sent_at_a_time_name_their_rest(notifier, database_url, every, milliseconds):
    """Also where times go back with each number, as after a failover to a server whose clock is behind."""
    endpoint = await notifier.add()
    await notifier.deliver(1)
    (first,) = await notifier.relay()
    await notifier.end(first, 200)
    async with connected(database_url) as connection:
        await connection.execute(
            """WITH others AS (
                   INSERT INTO notifier.events (id, type, training_id, trace, body)
                   SELECT 'e' || n, type, training_id, trace, body FROM notifier.events, generate_series(1, 10003) n
                   RETURNING id)
               INSERT INTO notifier.deliveries (endpoint_id, event_id, status, created_at)
               SELECT $1, id, $2, clock_timestamp() + row_number() OVER () * $3::interval FROM others""",
            UUID(endpoint),
            "delivered" if every else "failed",
            timedelta(milliseconds=milliseconds),
        )
    wanted = {"since": (now() - timedelta(hours=1)).isoformat(), "all": every}

    async def resend(**more: Any) -> Any:
        return await notifier.ask("POST", f"/{endpoint}/resend", 202, json={**wanted, **more})

    planned, sent = await resend(dry_run=True), await resend()
    rest = await resend(since=sent["next_since"])

    assert [each["deliveries"] for each in (planned, sent, rest)] == [10_000, 10_000, 3 + every]
    assert planned["next_since"] == sent["next_since"] is not None
    assert rest["next_since"] is None


async def test_what_fails_after_a_dry_run_is_not_sent_with_what_it_counted(notifier):
    endpoint = await notifier.add()
    path, since = f"/{endpoint}/resend", (now() - timedelta(hours=1)).isoformat()

    async def fail(number: int) -> None:
        await notifier.deliver(number)
        (asked,) = await notifier.relay()
        await notifier.end(asked, 410)
        await notifier.ask("PATCH", f"/{endpoint}", json={"status": "enabled"})

    await fail(1)
    planned = await notifier.ask("POST", path, 202, json={"since": since, "dry_run": True})
    await fail(2)
    just_those = {"since": since, "up_to": planned["newest"]}
    again, sent = [
        await notifier.ask("POST", path, 202, json={**just_those, "dry_run": dry_run}) for dry_run in (True, False)
    ]
    none = await notifier.ask("POST", path, 202, json={**just_those, "dry_run": True})

    assert [each["deliveries"] for each in (planned, again, sent, none)] == [1, 1, 1, 0]
    assert (again["newest"], none["newest"]) == (planned["newest"], None)
    assert await notifier.statuses(endpoint) == ["failed", "waiting"]


async def test_a_delivery_is_given_up_also_if_its_relay_was_killed(notifier):
    """After its message was published, and before that was stored."""
    await notifier.add()
    await notifier.deliver(1)
    published: list[Envelope] = []

    async def publish(envelopes: Sequence[Envelope]) -> Sequence[BaseException | None]:
        published.extend(envelopes)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        await notifier.store.relay(publish)
    (asked,) = (each.event for each in published)
    assert isinstance(asked, DeliveryRequested)
    began = now()
    await notifier.end(asked, 500)

    sending = await notifier.store.find(asked)
    assert sending is not None
    assert sending.sent_at is not None
    assert sending.sent_at >= began


async def test_a_message_that_was_lost_is_replaced(notifier):
    await notifier.add()
    await notifier.deliver(1)
    (lost,) = await notifier.relay()

    await notifier.store.keep_in_order(lost_before=now() - timedelta(hours=1), limit=10)
    assert await notifier.relay() == []
    await notifier.store.keep_in_order(lost_before=now() + timedelta(hours=1), limit=10)

    (again,) = await notifier.relay()
    assert (again.delivery_id, again.sending) == (lost.delivery_id, 2)


async def test_an_idempotency_key_is_kept_for_a_day(notifier, database_url):
    made = [await notifier.ask("POST", "", 201, json=BODY, headers={"Idempotency-Key": key}) for key in ("old", "new")]
    async with connected(database_url) as connection:
        await connection.execute(
            "UPDATE notifier.idempotency_keys SET created_at = now() - interval '25 hours' WHERE key = 'old'"
        )

    await notifier.store.keep_in_order(lost_before=now() - timedelta(hours=1), limit=10)

    again = [await notifier.ask("POST", "", 201, json=BODY, headers={"Idempotency-Key": key}) for key in ("old", "new")]
    assert [one["id"] == other["id"] for one, other in zip(made, again, strict=True)] == [False, True]


async def test_a_reader_may_look_only(notifier):
    notifier.api.headers["Authorization"] = "Bearer token-of-a-reader"

    await notifier.ask("GET", "")
    await notifier.ask("POST", "", 403, json=BODY)


async def test_the_deliveries_of_one_event_name_their_endpoints(notifier):
    urls = ["https://hooks.example.com/a", "https://hooks.example.com/b"]
    ids = [await notifier.add(url=url) for url in urls]
    await notifier.deliver(7, 8)
    (sent, *_) = (await notifier.ask("GET", f"/{ids[0]}/deliveries"))["items"]

    found = await notifier.api.get("/deliveries", params={"event_id": sent["event_id"]})
    none = await notifier.api.get("/deliveries", params={"event_id": "nothing"})

    assert sorted(each["url"] for each in found.json()["items"]) == urls
    assert {each["event_id"] for each in found.json()["items"]} == {sent["event_id"]}
    assert (none.status_code, none.json()) == (200, {"items": [], "next_cursor": None})
