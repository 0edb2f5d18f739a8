"""The console's screens of trainings and users, as a browser without scripts sees them, on a real Postgres."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

import pytest
from starlette.types import Receive, Scope, Send

from services.notifier.api import create_api as notifier_api
from services.notifier.message import stored
from services.notifier.store import Store as Webhooks
from services.notifier.views import AddEndpoint
from services.ops.api import create_api as ops_api
from services.ops.audit.views import AuditFilter
from services.state.api import WebhookAddress, create_api
from services.state.store import Store
from services.state.store.outbox import StoredEvent
from services.state.streams import Watcher
from shared.contract.errors import DependencyDown
from shared.contract.identity import ModelName
from shared.contract.topology import topology
from shared.runtime.health import reporter
from shared.runtime.http import create_app
from shared.runtime.tokens import read_token
from tests.console import HOSTILE, TOKENS, Browser, signed_in
from tests.integration.test_notifier_api import SIGNER, opened_notifier
from tests.integration.test_state_api import Replicate
from tests.ops import OPERATOR, READER, Letters, archived, dead, opened_letters, routers_of
from tests.state import (
    decoded,
    failed,
    model_of,
    not_verified,
    opened_store,
    ready,
    registration,
    replayed,
    started,
    succeeded,
)


@dataclass
class Desk:
    """An operator's browser, and what is behind the console."""

    browser: Browser
    state: Store
    letters: Letters
    webhooks: Webhooks
    replicate: Replicate
    is_audit_away: bool = False

    async def page(self, path: str, status: int = 200) -> str:
        answer = await self.browser.get(path)
        assert answer.status_code == status, answer.text
        return answer.text

    async def audit(self) -> list[tuple[str, str, str]]:
        found = await self.letters.list_audit(AuditFilter(), limit=9)
        return [(each.actor, each.action, each.target) for each in found]

    async def swap(self, user: str, training: str, **fields: Any) -> None:
        await self.state.adopt(registration(user, training, **fields))
        assert await self.state.apply([succeeded(training), ready(training)]) == [None, None]


@pytest.fixture
async def stores(database_url: str) -> AsyncIterator[tuple[Store, Letters, Webhooks]]:
    async with (
        opened_store(database_url) as state,
        opened_letters(database_url) as letters,
        opened_notifier(database_url) as (webhooks, _),
    ):
        yield state, letters, webhooks


@pytest.fixture
async def desk(stores: tuple[Store, Letters, Webhooks], request: pytest.FixtureRequest) -> AsyncIterator[Desk]:
    state, letters, webhooks = stores
    replicate = Replicate()
    api = create_api(
        state,
        replicate,
        Watcher(state, asyncio.Event(), limit=1),
        webhook=WebhookAddress("https://hooks.example.com", ("a secret that signs our addresses",)),
        api_tokens=("service/ops:token-of-ops",),
    )
    service = read_token("service/ops:token-of-ops")
    apps = {
        b"state": create_app(api, reporter({})),
        b"notifier": create_app(notifier_api(webhooks, SIGNER, allowed=(), tokens=[service]), reporter({})),
    }

    async def others(scope: Scope, receive: Receive, send: Send) -> None:
        await apps[dict(scope["headers"])[b"host"]](scope, receive, send)

    async def audit(*entry: str, key: str | None = None, refused: str | None = None) -> None:
        if here.is_audit_away:
            raise DependencyDown("Postgres does not answer")
        await letters.audit(*entry, key=key, refused=refused)

    token = getattr(request, "param", OPERATOR)
    ops = ops_api(*routers_of(letters), tokens=TOKENS)
    async with signed_in(ops, others, token=token, audit=audit) as browser:
        here = Desk(browser, state, letters, webhooks, replicate)
        yield here


as_reader = pytest.mark.parametrize("desk", [READER], indirect=True)


# Trainings


async def test_trainings_are_listed_and_filtered(desk):
    await desk.swap("ada", "t1")
    await desk.state.adopt(registration("bob", "t2"))
    await desk.state.apply([started("t2")])

    every, running, of_ada = [
        await desk.page(path) for path in ("/trainings", "/trainings?stage=running", "/trainings?user_id=ada&stage=")
    ]

    assert ["/trainings/t1" in page for page in (every, running, of_ada)] == [True, False, True]
    assert ["/trainings/t2" in page for page in (every, running, of_ada)] == [True, True, False]
    assert '<option value="running" selected>' in running


async def test_a_list_without_trainings_says_what_to_type(desk):
    assert "modelswap demo" in await desk.page("/trainings")
    assert "No training is like that." in await desk.page("/trainings?stage=failed")


async def test_an_unknown_stage_is_a_problem_and_no_fault(desk):
    assert "stage" in await desk.page("/trainings?stage=nonsense", 422)


async def test_pages_of_trainings_keep_the_filters(desk):
    for number in range(51):
        await desk.state.adopt(registration("ada", f"t{number}"))

    first = await desk.page("/trainings?user_id=ada")
    following = first.partition('rel="next"')[0].rpartition('href="')[2].partition('"')[0].replace("&amp;", "&")
    second = await desk.page(following)

    assert following.startswith("/trainings?user_id=ada&cursor=")
    assert ("/trainings/t50" in first, "/trainings/t0" in first, "/trainings/t0" in second) == (True, False, True)


async def test_changes_of_models_are_found_by_time(desk):
    await desk.swap("ada", "t1")

    assert "t1" in await desk.page("/trainings?show=changes")
    assert "t1" in await desk.page("/trainings?show=changes&since=2026-01-01T14:05&until=")
    assert "No user&#39;s model changed then." in await desk.page("/trainings?show=changes&until=2026-01-01T14:05")
    assert "since" in await desk.page("/trainings?show=changes&since=yesterday", 422)


# One training


async def test_a_training_shows_its_walk_and_its_dead_letters(desk):
    await desk.state.adopt(registration("ada", "t1"))
    await archived(desk.letters, dead("t1", topology()))
    await desk.state.apply([started("t1"), succeeded("t1"), not_verified("t1")])
    await desk.state.apply([replayed(ready("t1"), "5b0f6d52-3c1e-4f0e-9a55-6d6f64737770:1")])

    page = await desk.page("/trainings/t1")

    for word in (
        "Requested",
        "Webhook: succeeded",
        "No usable model: short_version",
        "Model found and verified",
        "checks passed",
        "Swapped in",
        "Not published yet: model.activated",
        "Dead letter: no_version",
        "/replays/5b0f6d52-3c1e-4f0e-9a55-6d6f64737770",
        str(model_of("t1")),
    ):
        assert word in page, word
    assert "hx-get" not in page


async def test_an_output_of_too_many_parts_is_shown_as_text(desk):
    await desk.state.adopt(registration("ada", "t1"))
    await desk.state.apply([succeeded("t1", output=[[0] * 100] * 100)])

    page = await desk.page("/trainings/t1")

    assert 'class="leaf"' not in page
    assert "[[0, 0, 0" in page
    assert len(page) < 100_000


async def test_a_training_shows_which_endpoint_got_its_event(desk):
    wanted = AddEndpoint(url="https://hooks.example.com/?a&b", events=("model.activated.v1",))
    await desk.webhooks.add_endpoint(wanted, SIGNER.new_seed(b"s" * 32), None)
    await desk.swap("ada", "t1")
    sent: list[StoredEvent] = []

    async def publish(events: Sequence[StoredEvent]) -> Sequence[None]:
        sent.extend(events)
        return [None] * len(events)

    await desk.state.relay(publish, limit=10)
    await desk.webhooks.add([stored(decoded(each)) for each in sent])

    page = await desk.page("/trainings/t1")

    assert "Waits to be delivered: model.activated" in page
    assert "https://hooks.example.com/?a&amp;b" in page


async def test_a_running_training_is_asked_about_again(desk):
    await desk.state.adopt(registration("ada", "t1"))
    await desk.state.apply([started("t1")])

    page = await desk.page("/trainings/t1")

    assert 'hx-get="/trainings/t1" hx-trigger="every 3s"' in page
    # What a person has opened, such as the question whether to cancel, is not closed by that.
    assert '"morphIgnore": ["data-htmx-powered", "open"]' in page


async def test_a_training_is_shown_by_its_ref_too(desk):
    record, _ = await desk.state.register(registration("ada"))

    page = await desk.page(f"/trainings/{record.ref}")

    assert "Requested" in page
    assert "Replicate has sent none." in page


async def test_an_unknown_training_is_not_found(desk):
    assert "not registered" in await desk.page("/trainings/nothing", 404)


async def test_the_extraction_is_retried_with_a_button(desk):
    await desk.state.adopt(registration("ada", "t1"))
    await desk.state.apply([succeeded("t1"), not_verified("t1")])

    answer = await desk.browser.post("/trainings/t1/retry-extraction", page="/trainings/t1", key="once")
    page = await desk.page("/trainings/t1")

    assert (answer.status_code, answer.headers["location"]) == (303, "/trainings/t1")
    assert "Extraction requested again" in page
    assert "The extraction was requested." in page
    assert await desk.audit() == [("olga", "training.retry_extraction", "training t1")]


async def test_what_can_not_be_retried_is_told_beside_the_training(desk):
    await desk.swap("ada", "t1")

    answer = await desk.browser.post("/trainings/t1/retry-extraction", page="/trainings/t1", key="once")

    assert answer.status_code == 409
    assert await desk.audit() == [("olga", "training.retry_extraction", "training t1")] * 2
    entry, _ = await desk.letters.list_audit(AuditFilter(), limit=2)
    assert entry.outcome.startswith("refused: training t1 has its model already")
    assert "has its model already" in answer.text
    assert "From request to subscriber" in answer.text


async def test_a_training_is_canceled_with_a_button(desk):
    await desk.state.adopt(registration("ada", "t1"))
    await desk.state.apply([started("t1")])

    answer = await desk.browser.post("/trainings/t1/cancel", page="/trainings/t1", key="k1")

    assert answer.status_code == 303
    assert desk.replicate.canceled == ["t1"]
    assert await desk.audit() == [("olga", "training.cancel", "training t1")]


async def test_a_form_that_is_sent_twice_is_audited_once(desk):
    await desk.state.adopt(registration("ada", "t1"))
    await desk.state.apply([started("t1")])

    for key in ("k1", "k1", "k2"):
        await desk.browser.post("/trainings/t1/cancel", page="/trainings/t1", key=key)

    assert await desk.audit() == [("olga", "training.cancel", "training t1")] * 2


async def test_what_was_refused_and_then_done_is_audited_as_asked_again(desk):
    """With the same key: the entries must not end with a refusal of what was done."""
    await desk.state.adopt(registration("ada", "t1"))

    refused = await desk.browser.post("/trainings/t1/retry-extraction", page="/trainings/t1", key="k1")
    await desk.state.apply([succeeded("t1"), not_verified("t1")])
    done = await desk.browser.post("/trainings/t1/retry-extraction", page="/trainings/t1", key="k1")

    entries = await desk.letters.list_audit(AuditFilter(), limit=9)
    assert (refused.status_code, done.status_code) == (409, 303)
    assert [entry.outcome.partition(":")[0] for entry in reversed(entries)] == ["asked", "refused", "asked"]


async def test_nothing_is_asked_of_state_that_cannot_be_audited(desk):
    await desk.state.adopt(registration("ada", "t1"))
    await desk.state.apply([started("t1")])
    await desk.state.adopt(registration("bob", "t2"))
    await desk.state.apply([succeeded("t2"), not_verified("t2")])

    desk.is_audit_away = True
    answers = [
        await desk.browser.post(path, page="/trainings/t1", key="k1")
        for path in ("/trainings/t1/cancel", "/trainings/t2/retry-extraction")
    ]

    assert [answer.status_code for answer in answers] == [503] * 2
    assert desk.replicate.canceled == []
    assert "Extraction requested again" not in await desk.page("/trainings/t2")


# Users


async def test_a_user_shows_the_model_and_the_reason_of_each_change(desk):
    await desk.swap("ada", "t1")
    await desk.swap("ada", "t2")
    answer = await desk.browser.post(
        "/users/ada/rollback", page="/users/ada?rollback=", to=str(model_of("t1")), reason="too dark", key="once"
    )
    page = await desk.page("/users/ada")

    assert (answer.status_code, answer.headers["location"]) == (303, "/users/ada")
    assert "“too dark”" in page
    assert "By olga." in page
    model = await desk.state.find_model("ada")
    assert model is not None
    assert (str(model.reference), model.generation) == (str(model_of("t1")), 3)


async def test_a_rollback_is_previewed_and_changes_nothing_yet(desk):
    await desk.swap("ada", "t1")
    await desk.swap("ada", "t2")

    page = await desk.page("/users/ada?rollback=")

    before, _, after = page.partition("Roll back this user")[2].partition("</tbody>")[0].partition("Afterwards")
    assert (str(model_of("t2")) in before, str(model_of("t1")) in after) == (True, True)
    assert 'name="generation" value="2"' in page
    model = await desk.state.find_model("ada")
    assert model is not None
    assert model.generation == 2


async def test_a_rollback_of_another_model_than_was_shown_is_refused(desk):
    await desk.swap("ada", "t1")
    await desk.swap("ada", "t2")

    answer = await desk.browser.post(
        "/users/ada/rollback", page="/users/ada", to=str(model_of("t1")), reason="too dark", generation="1", key="once"
    )

    assert answer.status_code == 412
    assert "Changed meanwhile" in answer.text
    # The reason is not lost, and the plan is that of the present model.
    assert ">too dark</textarea>" in answer.text
    assert 'name="generation" value="2"' in answer.text


async def test_a_page_without_an_earlier_model_asks_to_choose(desk):
    await desk.swap("ada", "t1")

    assert "Choose a model in the history." in await desk.page("/users/ada?rollback=")


async def test_a_model_is_withdrawn_after_a_preview(desk):
    await desk.swap("ada", "t1")

    preview = await desk.page("/users/ada?withdraw=")
    answer = await desk.browser.post(
        "/users/ada/withdraw", page="/users/ada", reason="not ada", generation="1", key="once"
    )
    page = await desk.page("/users/ada")

    assert "Withdraw this user" in preview
    assert answer.status_code == 303
    assert "The user has no model" in page
    assert f"rollback={str(model_of('t1')).replace('/', '%2F').replace(':', '%3A')}" in page


async def test_a_user_s_newest_extraction_can_be_retried(desk):
    await desk.state.adopt(registration("ada", "t1"))
    await desk.state.apply([succeeded("t1"), not_verified("t1")])

    page = await desk.page("/users/ada")

    assert 'action="/trainings/t1/retry-extraction"' in page


async def test_an_unknown_user_is_told_what_to_look_for(desk):
    assert "No training of this user is known." in await desk.page("/users/nobody", 404)


async def test_a_user_without_a_model_is_told_so(desk):
    await desk.state.adopt(registration("ada", "t1"))

    assert "no model yet" in await desk.page("/users/ada")


# Readers, outages, hostile strings


@as_reader
async def test_a_reader_sees_everything_and_no_button(desk):
    await desk.swap("ada", "t1")
    await desk.state.adopt(registration("ada", "t2"))
    await desk.state.apply([succeeded("t2"), not_verified("t2")])

    pages = [await desk.page(path) for path in ("/users/ada", "/users/ada?rollback=", "/trainings/t2", "/trainings")]

    for page in pages:
        assert page.count("<form") == page.count("/sign-out") + page.count('role="search"') + page.count(
            'class="filters"'
        ) + page.count('method="dialog"')
        assert "Roll back" not in page
        assert "Retry" not in page


@as_reader
@pytest.mark.parametrize(
    "path", ["/users/ada/rollback", "/users/ada/withdraw", "/trainings/t1/cancel", "/trainings/t1/retry-extraction"]
)
async def test_a_forged_write_of_a_reader_is_refused(desk, path):
    await desk.swap("ada", "t1")

    answer = await desk.browser.post(path, page="/", reason="mine")

    assert answer.status_code == 403
    model = await desk.state.find_model("ada")
    assert model is not None
    assert model.generation == 1


async def test_whatever_users_control_is_shown_as_it_is(desk):
    user = "".join(each for each in HOSTILE if each.isprintable())
    await desk.state.adopt(registration(user, "t1", trigger_word=user, destination=ModelName("acme", "x")))
    await desk.state.apply([succeeded("t1", output={HOSTILE: [HOSTILE, None]}), not_verified("t1", error=user)])
    await desk.state.adopt(registration(user, "t2"))
    await desk.state.apply([failed("t2", HOSTILE)])
    await archived(desk.letters, dead("t1", topology(), text=HOSTILE))

    paths = ["/trainings", "/trainings/t1", "/trainings/t2", "/trainings?user_id=%3Cscript%3E"]
    pages = [await desk.page(path) for path in paths]
    answer = await desk.browser.http.get("/users/" + "".join(f"%{byte:02x}" for byte in user.encode()))

    assert answer.status_code == 200
    for page in (*pages, answer.text):
        assert "<script>alert" not in page
        assert "49'" not in page
    assert str(escape(user)).replace("&#x27;", "&#39;").replace("&quot;", "&#34;") in pages[1]


async def test_a_user_id_may_hold_slashes_and_the_end_of_a_path(desk):
    await desk.swap("a/b/rollback", "t1")

    page = await desk.page("/users/a%2Fb%2Frollback")
    answer = await desk.browser.post(
        "/users/a%2Fb%2Frollback/withdraw", page="/users/a%2Fb%2Frollback", reason="not hers", key="once"
    )

    assert 'action="/users/a%2Fb%2Frollback' not in page  # only a preview has the form
    assert str(model_of("t1")) in page
    assert answer.status_code == 303
    assert await desk.state.find_model("a/b/rollback") is None


async def test_a_page_without_state_says_what_is_away(stores):
    _, letters, _ = stores
    async with signed_in(ops_api(*routers_of(letters), tokens=TOKENS)) as browser:
        answers = [await browser.get(path) for path in ("/trainings", "/trainings/t1", "/users/ada")]

    assert [answer.status_code for answer in answers] == [503] * 3
    assert all("Not reachable now" in answer.text for answer in answers)
