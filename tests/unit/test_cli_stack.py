"""Which processes run on one machine, and what they share."""

import shlex

import pytest

from services.cli.local.private import keep_secrets
from services.cli.local.stack import completed, exports, overridden, plan, without_settings
from shared.runtime.settings import PROCESSES, ReceiverSettings
from shared.runtime.settings_base import SettingsError

PRIVATE = {
    "MODELSWAP_AMQP_URL": "amqp://mq",
    "MODELSWAP_DATABASE_URL": "postgresql://db",
    **{f"MODELSWAP_{name}": text for name, text in keep_secrets(None).items()},
}


def test_every_process_can_run_with_the_generated_secrets():
    environment = plan(PRIVATE, simulator=True).environment

    loaded = [PROCESSES[name].load(environment) for name in PROCESSES]

    assert len(loaded) == len(PROCESSES)


def test_each_process_is_given_its_own_logins_and_no_other():
    private = {**PRIVATE, "MODELSWAP_MANAGEMENT_URL": "http://u:p@mq"}
    logins = {"state": {"DATABASE_URL": "postgresql://s@db", "AMQP_URL": "amqp://s@mq"}, "ops": {"MANAGEMENT_URL": "m"}}

    everything = plan(private, simulator=True, logins=logins)

    names = ("AMQP_URL", "DATABASE_URL", "MANAGEMENT_URL")
    given = {
        process: [everything.environment_of(process)[f"MODELSWAP_{name}"] for name in names]
        for process in everything.services
    }
    assert given == {
        **{process: ["", "", ""] for process in ("simulator", "receiver", "extractor", "notifier")},
        "state": ["amqp://s@mq", "postgresql://s@db", ""],
        "ops": ["", "", "m"],
    }


def test_without_logins_all_processes_share_the_given_one():
    everything = plan(PRIVATE, simulator=True)

    assert everything.environment_of("state") == everything.environment


def test_generated_secrets_all_differ():
    made = keep_secrets(None)

    assert len(set(made.values())) == len(made) > 5


def test_the_simulator_takes_replicates_place_and_runs_first():
    planned = plan({**PRIVATE, "MODELSWAP_REPLICATE_API_TOKEN": "r8_real"}, simulator=True)

    receiver = ReceiverSettings.load(planned.environment)
    assert planned.services == ("simulator", "receiver", "extractor", "state", "ops", "notifier")
    assert receiver.replicate_api_url == planned.urls["simulator"] == "http://127.0.0.1:8090"
    assert receiver.replicate_api_token is not None
    assert receiver.replicate_api_token.get_secret_value() == "r8_simulator"
    assert [secret.get_secret_value() for secret in receiver.webhook_secrets] == [
        PRIVATE["MODELSWAP_SIMULATOR_WEBHOOK_SECRET"]
    ]


def test_without_it_replicate_is_asked():
    planned = plan({**PRIVATE, "MODELSWAP_REPLICATE_API_TOKEN": "r8_real"}, simulator=False)

    assert planned.services == ("receiver", "extractor", "state", "ops", "notifier")
    assert "MODELSWAP_REPLICATE_API_URL" not in planned.environment
    assert planned.environment["MODELSWAP_REPLICATE_API_TOKEN"] == "r8_real"


def test_what_was_given_stays():
    given = {"MODELSWAP_PUBLIC_URL": "https://example.com", "MODELSWAP_LOG_FORMAT": "json", "PATH": "/bin"}

    environment = plan({**PRIVATE, **given}, simulator=True).environment

    assert given.items() <= environment.items()


@pytest.mark.parametrize(
    ("host", "reached"), [("0.0.0.0", "127.0.0.1"), ("::", "[::1]"), ("::1", "[::1]"), ("127.0.0.2", "127.0.0.2")]
)
def test_replicate_posts_to_the_receiver_where_it_listens(host, reached):
    environment = {**PRIVATE, "MODELSWAP_HOST": host, "MODELSWAP_RECEIVER_PORT": "9000"}

    planned = plan(environment, simulator=True)

    assert planned.urls["receiver"] == planned.environment["MODELSWAP_PUBLIC_URL"] == f"http://{reached}:9000"


def test_all_mistakes_of_all_processes_are_named_once():
    with pytest.raises(SettingsError) as caught:
        plan({"MODELSWAP_STATE_PORT": "x"}, simulator=False)

    lines = str(caught.value).splitlines()
    assert len(lines) == len(set(lines))
    assert [line.split()[0].rstrip(":") for line in lines[1:]] == [
        *("MODELSWAP_AMQP_URL", "MODELSWAP_REF_SECRETS"),
        *("MODELSWAP_DATABASE_URL", "MODELSWAP_STATE_PORT", "MODELSWAP_API_TOKENS", "MODELSWAP_OPS_TOKENS"),
        "MODELSWAP_WEBHOOK_MASTER_SECRETS",
    ]


def test_an_override_counts_whatever_form_the_setting_had():
    environment = {"MODELSWAP_AMQP_URL_FILE": "/run/secret", "MODELSWAP_HOST": "h"}

    assert overridden(environment, {"AMQP_URL": "amqp://x"}) == {
        "MODELSWAP_AMQP_URL": "amqp://x",
        "MODELSWAP_HOST": "h",
    }


@pytest.mark.parametrize("given", [{"MODELSWAP_API_TOKENS": "mine"}, {"MODELSWAP_API_TOKENS_FILE": "/run/secret"}])
def test_a_default_does_not_touch_what_was_given(given):
    assert completed(given, {"API_TOKENS": "made"}) == given


def test_the_demo_ignores_the_settings_around_it():
    environment = {"MODELSWAP_AMQP_URL": "x", "MODELSWAP_API_TOKENS_FILE": "x", "MODELSWAP_CACHE_DIR": "c", "PATH": "p"}

    assert without_settings(environment) == {"MODELSWAP_CACHE_DIR": "c", "PATH": "p"}


def test_another_terminal_gets_every_setting_quoted():
    environment = {"MODELSWAP_API_TOKENS": "it's $HOME", "PATH": "/bin"}

    lines = [shlex.split(line) for line in exports(environment).splitlines()]

    assert lines == [
        ["export", "MODELSWAP_API_TOKENS=it's $HOME"],
        ["export", "MODELSWAP_API_URL=http://127.0.0.1:8081"],
        ["export", "MODELSWAP_EXTRACTOR_URL=http://127.0.0.1:8082"],
        ["export", "MODELSWAP_NOTIFIER_URL=http://127.0.0.1:8084"],
        ["export", "MODELSWAP_RECEIVER_URL=http://127.0.0.1:8080"],
        ["export", "MODELSWAP_OPS_URL=http://127.0.0.1:8083"],
    ]
