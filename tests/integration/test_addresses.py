"""Whatever the settings take, the library that gets it can use; where nobody listens, it says so and nothing else."""

from __future__ import annotations

from string import printable
from typing import Any

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shared.contract.errors import DependencyDown
from shared.runtime.addresses import amqp_urls, http_url, postgres_url, with_login, without_parameters
from shared.runtime.broker.link import Link
from shared.runtime.broker.link_errors import LINK_ERRORS
from shared.runtime.postgres import connect
from shared.runtime.postgres_errors import UnusableAddress
from shared.runtime.settings import ExtractorSettings, OpsSettings, StateSettings
from shared.runtime.settings_base import SettingsError

#: Nobody listens there.
SERVER = "127.0.0.1:1"
SECRET = "9f2c41d07be83a65"
GIVEN = {
    "MODELSWAP_AMQP_URL": "amqp://guest:guest@127.0.0.1/",
    "MODELSWAP_DATABASE_URL": "postgresql://postgres@127.0.0.1/postgres",
    "MODELSWAP_PUBLIC_URL": "https://hooks.example.com",
    "MODELSWAP_REF_SECRETS": SECRET,
    "MODELSWAP_API_TOKENS": SECRET,
    "MODELSWAP_OPS_TOKENS": SECRET,
}

PART = st.one_of(
    st.text(printable, max_size=12),
    st.text("%/:@?#[],a0 \n", max_size=6),
    st.sampled_from(["", "%zz", "%00", "%2f", "v" * 300, "\u00e4", "a%20b", "\ud800", "\\"]),
)
HOST = st.one_of(
    st.sampled_from(
        [
            *("127.0.0.1:1", "127.0.0.1:1,127.0.0.1:2", "[::1]:1", "", ":1", ",127.0.0.1:1", "127.0.0.1:1,", "xn--:1"),
            *("a..b:1", ".h:1", "a" * 300 + ":1", "127.0.0.1:0", "127.0.0.1:99999", "127.0.0.1:x", "[::1", "[v1.x]:1"),
        ]
    ),
    st.text("[]:.,@-_a%0 ", max_size=8),
)


def is_taken(check: Any, address: str) -> bool:
    try:
        check(address)
    except ValueError as refusal:
        says_why(refusal)
        return False
    return True


def says_why(refusal: ValueError) -> None:
    assert type(refusal) is ValueError
    assert str(refusal).startswith(("is ", "its ", "names ", "holds "))


def is_on_this_machine(host: str) -> bool:
    """The others would be looked for in the network."""
    return host.startswith(("127.0.0.1:1", "[::1]:1"))


@settings(max_examples=60)
@given(user=PART, host=HOST, vhost=PART, query=PART)
async def test_a_brokers_address_that_is_taken_can_be_used(user: str, host: str, vhost: str, query: str):
    address = f"amqp://{user}@{host}/{vhost}" + (f"?{query}" if query else "")

    if is_taken(amqp_urls, address) and is_on_this_machine(host):
        with pytest.raises(LINK_ERRORS):
            await Link.open(address, name="test")


@settings(max_examples=60)
@given(user=PART, host=HOST, database=PART, query=PART)
async def test_a_databases_address_that_is_taken_can_be_used(user: str, host: str, database: str, query: str):
    address = f"postgresql://{user}@{host}/{database}" + (f"?{query}" if query else "")

    if is_taken(postgres_url, address) and is_on_this_machine(host):
        with pytest.raises(DependencyDown):
            await connect(address, application_name="test")


@given(host=HOST, path=PART)
def test_an_apis_address_that_is_taken_can_be_used(host: str, path: str):
    address = f"http://{host}/{path}"

    if is_taken(http_url, address):
        assert httpx.Request("GET", f"{http_url(address)}/v1").url.host


@pytest.mark.parametrize(
    ("address", "said"),
    [
        ("amqp://guest:guest@mq-1:5672,mq-2:5672/", "names several hosts in one address"),
        ("amqp://mq-1,mq-2/", "names several hosts in one address"),
        ("amqp://mq-1/a,amqp://mq-2/b", "names another vhost in address 2 than in address 1"),
        ("amqp://mq-1/a,http://mq-2/a", "vhost (address 2 of 2)"),
        ("amqp://mq-1/a,amqp://mq-2/a,amqp://u:p@/a", "vhost (address 3 of 3)"),
        ("amqp://@/", "is not an address like amqp://"),
        ("amqp://mq/" + "v" * 256, "more than 255 bytes"),
        ("amqp://mq/50%", "% itself as %25"),
        ("amqp://u:pass\\word@mq/", "a backslash in it must be written as %5C"),
        ("amqps://mq/?cafile=/no/such", "its cafile names a file that is not there"),
        ("amqps://mq/?cacertfile=/ca.pem", "its cacertfile is called cafile here"),
        ("amqp://mq/?auth=magic", "its auth is none of plain, external"),
    ],
)
def test_an_invalid_broker_address_is_refused_with_a_sentence(address: str, said: str):
    with pytest.raises(SettingsError) as refused:
        ExtractorSettings.load(GIVEN | {"MODELSWAP_AMQP_URL": address})

    (line,) = str(refused.value).splitlines()[1:]
    assert line.startswith("  MODELSWAP_AMQP_URL: ")
    assert said in line


@pytest.mark.parametrize("address", ["amqp://u:a,b@mq/c,d", "amqp://one/v,amqps://two:5671/v, amqp://three/v"])
def test_one_and_several_broker_addresses_are_taken(address: str):
    taken = ExtractorSettings.load(GIVEN | {"MODELSWAP_AMQP_URL": address}).amqp_url

    assert taken.get_secret_value() == address


@pytest.mark.parametrize(
    ("address", "said"),
    [
        ("postgresql://db,/x", "is not an address like postgresql://"),
        ("postgresql://db/x?sslmode", "not like ?name=value"),
        ("postgresql://db/x?sslmode=on", "its sslmode is none of disable, allow"),
        ("postgresql://db/x?sslrootcert=/no/such", "its sslrootcert names a file that is not there"),
        ("postgresql:///x?port=a", "its port is not a number"),
        ("postgresql://u:p w@db/x", "written as %20"),
        (
            "postgresql://a,b/x?target_session_attrs=read-only",
            "target_session_attrs is none of any, primary",
        ),
    ],
)
def test_an_invalid_database_address_is_refused_with_a_sentence(address: str, said: str):
    with pytest.raises(SettingsError, match="MODELSWAP_DATABASE_URL: ") as refused:
        StateSettings.load(GIVEN | {"MODELSWAP_DATABASE_URL": address})

    assert said in str(refused.value)


def test_each_of_several_addresses_gets_the_login_of_another_user():
    ours = "amqps://modelswap:sesame@one:5671/v?cafile=/ca.pem,amqps://modelswap:sesame@two/v"

    assert without_parameters(with_login(ours, "mailer", "a,b")) == (
        "amqps://mailer:a%2Cb@one:5671/v,amqps://mailer:a%2Cb@two/v"
    )


async def test_what_only_the_library_knows_to_be_wrong_is_no_outage():
    with pytest.raises(UnusableAddress, match="MODELSWAP_DATABASE_URL can not be used: No such TLS version"):
        await connect(f"postgresql://u@{SERVER}/x?ssl_min_protocol_version=9", application_name="test")


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("MODELSWAP_RETRY_DELAYS", "0s"),
        ("MODELSWAP_RETRY_DELAYS", "0.1ms"),
        ("MODELSWAP_RETRY_DELAYS", "9" * 400 + "h"),
        ("MODELSWAP_RETRY_DELAYS", "1200h"),
        ("MODELSWAP_DRAIN_SECONDS", "inf"),
        ("MODELSWAP_RECONCILE_GIVE_UP_SECONDS", "1e300"),
        ("MODELSWAP_DATABASE_POOL_SIZE", "1000000000"),
        ("MODELSWAP_HOST", "a..b"),
        ("MODELSWAP_REPLICATE_API_TOKEN", "r8_\u00e4"),
        ("MODELSWAP_API_TOKENS", SECRET + "\u00e4"),
        ("MODELSWAP_OPS_TOKENS", f"reader:{SECRET}\u00e4"),
        ("MODELSWAP_API_URL", "http://a..b"),
    ],
)
def test_a_value_that_ends_in_a_librarys_error_is_refused(name: str, text: str):
    with pytest.raises(SettingsError, match=name):
        OpsSettings.load(GIVEN | {name: text})


def test_a_concurrency_beyond_amqps_limit_is_refused():
    with pytest.raises(SettingsError, match="MODELSWAP_EXTRACTOR_CONCURRENCY"):
        ExtractorSettings.load(GIVEN | {"MODELSWAP_EXTRACTOR_CONCURRENCY": "65536"})
