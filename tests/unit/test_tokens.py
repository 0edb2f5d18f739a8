"""What stands in a list of tokens, and what a request with one of them may do."""

import httpx
import pytest

from shared.runtime.health import reporter
from shared.runtime.http import Asker, create_app, new_api
from shared.runtime.settings import ClientSettings, OpsClientSettings
from shared.runtime.settings_base import SettingsError
from shared.runtime.tokens import ON_BEHALF_OF, Caller, from_header, read_token, to_header


@pytest.mark.parametrize(
    ("entry", "secret", "caller"),
    [
        ("s3cret", "s3cret", Caller("operator", may_write=True)),
        ("reader:s3cret", "s3cret", Caller("reader", may_write=False)),
        ("operator/olga:s3cret", "s3cret", Caller("olga", may_write=True)),
        ("reader/rita@acme.com:s3cret", "s3cret", Caller("rita@acme.com", may_write=False)),
        ("service/ops:s3cret", "s3cret", Caller("ops", may_write=True, may_speak_for_others=True)),
    ],
)
def test_an_entry_says_whose_a_token_is_and_what_it_may(entry, secret, caller):
    token = read_token(entry)

    assert (token.secret, token.caller) == (secret, caller)
    assert secret not in repr(token)


@pytest.mark.parametrize("entry", ["", "reader:", "writer:s3cret", "reader/:s3cret", "a:b:c", "s3 cret"])
@pytest.mark.parametrize(
    ("settings", "name"), [(OpsClientSettings, "MODELSWAP_OPS_TOKENS"), (ClientSettings, "MODELSWAP_API_TOKENS")]
)
def test_an_invalid_entry_is_refused_and_shows_no_secret(settings, name, entry):
    with pytest.raises(SettingsError) as caught:
        settings.load({name: f"a-token-that-is-good,{entry or ':'}"})

    assert name in str(caught.value)
    assert "cret" not in str(caught.value).replace("SECRET", "")


def test_one_token_can_not_be_a_readers_and_an_operators():
    with pytest.raises(SettingsError, match="there twice"):
        OpsClientSettings.load({"MODELSWAP_OPS_TOKENS": "reader:the-same-token-twice,the-same-token-twice"})


@pytest.mark.parametrize(
    ("token", "method", "status"),
    [
        ("of-olga", "GET", 200),
        ("of-olga", "POST", 200),
        ("of-rita", "GET", 200),
        ("of-rita", "HEAD", 405),
        ("of-rita", "POST", 403),
        ("of-rita", "DELETE", 403),
        ("of-nobody", "GET", 401),
        ("", "POST", 401),
    ],
)
async def test_a_reader_changes_nothing_and_a_stranger_sees_nothing(token, method, status):
    answer = await asked(token, method)

    assert answer.status_code == status
    if status == 200:
        assert answer.json() == {"of-olga": "olga", "of-rita": "reader"}[token]


@pytest.mark.parametrize(
    ("token", "said", "status", "answer"),
    [
        ("of-ops", "olga", 200, "olga"),
        ("of-ops", to_header("ölga+1@acme.com"), 200, "ölga+1@acme.com"),
        ("of-ops", "", 400, "is no name"),
        ("of-ops", "olga, bob", 400, "is no name"),
        ("of-ops", "%00", 400, "is no name"),
        ("of-ops", "x" * 101, 400, "is no name"),
        ("of-olga", "bob", 403, "may not speak for others"),
        ("of-olga", "olga", 403, "may not speak for others"),
        ("of-rita", "olga", 403, "may not speak for others"),
        ("of-nobody", "olga", 401, "bearer token"),
    ],
)
async def test_only_a_service_says_for_whom_it_asks(token, said, status, answer):
    got = await asked(token, "POST", {ON_BEHALF_OF: said})

    assert got.status_code == status
    assert answer in (got.json() if status == 200 else got.json()["detail"])


async def test_a_service_that_asks_for_nobody_has_its_own_name():
    assert (await asked("of-ops", "POST")).json() == "ops"


@pytest.mark.parametrize("name", ["olga", "rita@acme.com", "a.b+c-d_e", "ölga", "é" * 100])
def test_whatever_name_a_token_has_can_be_said(name):
    assert from_header(to_header(name)) == name


async def asked(token: str, method: str, headers: dict[str, str] | None = None) -> httpx.Response:
    """What an API that says the caller's name answers; it knows olga, the reader rita and the service ops."""
    entries = ("operator/olga:of-olga", "reader:of-rita", "service/ops:of-ops")
    api = new_api(tags={}, title="t", summary="s", tokens=[read_token(entry) for entry in entries], statuses={})

    @api.api_route("/name", methods=["GET", "POST"])
    async def name(asker: Asker) -> str:
        return asker.name

    transport = httpx.ASGITransport(create_app(api, reporter({})))
    async with httpx.AsyncClient(transport=transport, base_url="http://ops") as client:
        return await client.request(method, "/v1/name", headers={"Authorization": f"Bearer {token}", **(headers or {})})
