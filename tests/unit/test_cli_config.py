"""What `modelswap config show` says of the environment."""

import json

import pytest

from services.cli.choices import Format
from services.cli.local.config import Entry, entries, show
from shared.runtime.settings import all_settings

SECRET = "hunter2-hunter2-hunter2"


def entry(name: str, environment: dict[str, str]) -> Entry:
    return {each.name: each for each in entries(environment)}[name]


def test_every_setting_is_listed():
    assert [each.name for each in entries({})] == sorted(all_settings())


@pytest.mark.parametrize(
    ("name", "environment", "value", "source"),
    [
        ("MODELSWAP_STATE_PORT", {}, 8081, "default"),
        ("MODELSWAP_STATE_PORT", {"MODELSWAP_STATE_PORT": "9"}, 9, "environment"),
        ("MODELSWAP_RETRY_DELAYS", {"MODELSWAP_RETRY_DELAYS": "500ms,2m"}, ["0.5s", "120s"], "environment"),
        ("MODELSWAP_PUBLIC_URL", {}, None, "nowhere"),
    ],
)
def test_a_setting_is_shown_as_it_counts_and_where_it_is_from(name, environment, value, source):
    shown = entry(name, environment)

    assert (shown.value, shown.source) == (value, source)


def test_a_setting_can_come_from_a_file(tmp_path):
    file = tmp_path / "port"
    file.write_text("9\n")

    shown = entry("MODELSWAP_STATE_PORT", {"MODELSWAP_STATE_PORT_FILE": str(file)})

    assert (shown.value, shown.source) == (9, f"file {file}")


@pytest.mark.parametrize(
    ("environment", "problem"),
    [
        ({}, "is missing"),
        ({"MODELSWAP_PUBLIC_URL": "nowhere"}, "is not an address like https://example.com"),
        ({"MODELSWAP_PUBLIC_URL_FILE": "/no/such"}, "_FILE: FileNotFoundError while reading /no/such"),
    ],
)
def test_what_is_wrong_with_a_setting_is_said_beside_it(environment, problem):
    assert entry("MODELSWAP_PUBLIC_URL", environment).problem == problem


@pytest.mark.parametrize(
    "address", ["nonsense", "http://mq:5672", "amqp://", "amqp://[mq", "amqp://mq:a", "amqp://mq:99999"]
)
def test_an_invalid_broker_address_shows_no_secret(address):
    address = address.replace("mq", f"me:{SECRET}@mq")

    problem = entry("MODELSWAP_AMQP_URL", {"MODELSWAP_AMQP_URL": address}).problem

    assert problem == "is not an address like amqp://user:password@host:5672/vhost"


@pytest.mark.parametrize("address", ["nowhere", "ftp://api", "http://api:99999", "http://[api", "http://api:a/v1"])
def test_an_address_of_an_api_that_is_none_is_a_mistake(address):
    assert entry("MODELSWAP_API_URL", {"MODELSWAP_API_URL": address}).problem == (
        "is not an address like https://example.com"
    )


@pytest.mark.parametrize("address", ["nonsense", "mysql://db/x", "postgresql://[db/x", "postgresql://db:a/x"])
def test_an_address_of_a_database_that_is_none_is_a_mistake(address):
    problem = entry("MODELSWAP_DATABASE_URL", {"MODELSWAP_DATABASE_URL": address}).problem

    assert problem == "is not an address like postgresql://user:password@host:5432/database"


@pytest.mark.parametrize(
    "address",
    [
        "postgres://db",
        "postgresql:///x?host=/run/postgresql",
        "postgresql://me@a:5432,b:5433/x",
        "postgresql://[::1]/x",
    ],
)
def test_every_form_of_an_address_that_postgres_knows_is_taken(address):
    assert entry("MODELSWAP_DATABASE_URL", {"MODELSWAP_DATABASE_URL": address}).problem is None


def test_who_heeds_a_setting_is_said():
    assert entry("MODELSWAP_HOST", {}).processes == ("all",)
    assert entry("MODELSWAP_REF_SECRETS", {}).processes == ("receiver", "state", "ops")
    assert entry("MODELSWAP_API_TOKENS", {}).processes == ("extractor", "state", "ops", "notifier", "cli")


@pytest.mark.parametrize(
    ("name", "text", "shown"),
    [
        ("MODELSWAP_API_TOKENS", f"{SECRET},service/ops:{SECRET}-2", ["********", "********"]),
        ("MODELSWAP_REPLICATE_API_TOKEN", SECRET, "********"),
        ("MODELSWAP_AMQP_URL", f"amqp://me:{SECRET}@{SECRET}@mq:5672/v?x={SECRET}", "amqp://********@mq:5672/v"),
        ("MODELSWAP_AMQP_URL", f"amqp://me:{SECRET}@a/v,amqps://b/v?x={SECRET}", "amqp://********@a/v,amqps://b/v"),
        ("MODELSWAP_DATABASE_URL", f"postgresql://db/x?password={SECRET}", "postgresql://db/x"),
    ],
)
def test_of_a_secret_address_only_harmless_parts_are_shown(name, text, shown):
    assert entry(name, {name: text}).value == shown


@pytest.mark.parametrize("output", list(Format))
def test_printed_settings_hold_no_secret_and_name_unknown_ones(output, capsys):
    secrets = {
        name: f"x://{SECRET}@h"
        for name in all_settings()
        if name.endswith(("_TOKEN", "_TOKENS", "_SECRET", "_SECRETS"))
    }

    show({**secrets, "MODELSWAP_DATABSE_URL": "x"}, output)

    said = capsys.readouterr()
    assert SECRET not in said.out + said.err
    assert said.err == "warning: no process reads MODELSWAP_DATABSE_URL; a typing mistake?\n"


def test_json_can_be_read_by_programs(capsys):
    show({}, Format.JSON)

    document = json.loads(capsys.readouterr().out)
    assert {each["name"] for each in document["settings"]} == set(all_settings())
    assert document["unknown"] == []
