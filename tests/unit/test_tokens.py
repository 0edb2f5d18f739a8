"""What stands in a list of tokens, and what a request with one of them may do."""

import httpx
import pytest

from shared.runtime.http import Asker, create_app, new_api
from shared.runtime.settings import OpsClientSettings, SettingsError
from shared.runtime.tokens import Caller, read_token


@pytest.mark.parametrize(
    ("entry", "secret", "caller"),
    [
        ("s3cret", "s3cret", Caller("operator", may_write=True)),
        ("reader:s3cret", "s3cret", Caller("reader", may_write=False)),
        ("operator/olga:s3cret", "s3cret", Caller("olga", may_write=True)),
        ("reader/rita@acme.com:s3cret", "s3cret", Caller("rita@acme.com", may_write=False)),
    ],
)
def test_an_entry_says_whose_a_token_is_and_what_it_may(entry, secret, caller):
    token = read_token(entry)

    assert (token.secret, token.caller) == (secret, caller)
    assert secret not in repr(token)


@pytest.mark.parametrize("entry", ["", "reader:", "writer:s3cret", "reader/:s3cret", "a:b:c", "s3 cret"])
def test_an_entry_that_means_nothing_is_a_mistake_that_shows_no_secret(entry):
    with pytest.raises(SettingsError) as caught:
        OpsClientSettings.load({"MODELSWAP_OPS_TOKENS": f"a-token-that-is-good,{entry or ':'}"})

    assert "MODELSWAP_OPS_TOKENS" in str(caught.value)
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
    api = new_api(
        title="t", summary="s", tokens=[read_token("operator/olga:of-olga"), read_token("reader:of-rita")], statuses={}
    )

    @api.api_route("/name", methods=["GET", "POST"])
    async def name(asker: Asker) -> str:
        return asker.name

    transport = httpx.ASGITransport(create_app(api, {}))
    async with httpx.AsyncClient(transport=transport, base_url="http://ops") as client:
        answer = await client.request(method, "/v1/name", headers={"Authorization": f"Bearer {token}"})

    assert answer.status_code == status
    if status == 200:
        assert answer.json() == {"of-olga": "olga", "of-rita": "reader"}[token]
