"""What the environment may say, and what is refused with a sentence that shows no secret."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from services.ops.replays.store.send import CLAIM_SECONDS
from shared.runtime import session_lock
from shared.runtime.postgres import CONFIRM_SECONDS, IDLE_IN_TRANSACTION_SECONDS, confirm_seconds
from shared.runtime.settings import PROCESSES, NotifierSettings, OpsSettings, ReceiverSettings, StateSettings
from shared.runtime.settings_base import SettingsError, guessable

ROOT = Path(__file__).parents[2]
#: What every process does with settings, whichever process it is.
COMMON = "".join(
    (ROOT / "shared/runtime" / file).read_text()
    for file in ("settings.py", "settings_base.py", "lifecycle.py", "database.py", "broker/subscription.py")
)

RANDOM = "9f2c41d07be83a65"
GIVEN = {
    "MODELSWAP_AMQP_URL": "amqp://guest:guest@127.0.0.1/",
    "MODELSWAP_DATABASE_URL": "postgresql://postgres@127.0.0.1/postgres",
    "MODELSWAP_PUBLIC_URL": "https://hooks.example.com",
    "MODELSWAP_REF_SECRETS": RANDOM,
    "MODELSWAP_API_TOKENS": RANDOM,
}


@pytest.mark.parametrize("process", PROCESSES)
def test_each_process_uses_each_of_its_settings(process):
    code = COMMON + "".join(file.read_text() for file in (ROOT / "services" / process).rglob("*.py"))

    used = set(re.findall(r"(?:settings|self|policy)\.([a-z]\w*)", code))

    unused = PROCESSES[process].model_fields.keys() - used
    assert unused == set(), f"services/{process} reads no settings.… of these names"


@pytest.mark.parametrize("name", ["MODELSWAP_API_TOKENS", "MODELSWAP_REF_SECRETS"])
@pytest.mark.parametrize("secret", ["x", RANDOM[:-1], f"{RANDOM},x"])
def test_a_secret_under_128_bits_is_refused_and_not_shown(name, secret):
    with pytest.raises(SettingsError, match="shorter than 16 characters") as caught:
        StateSettings.load(GIVEN | {name: secret})

    assert name in str(caught.value)
    assert RANDOM[:-1] not in str(caught.value)


def test_a_webhook_secret_under_128_bits_is_refused():
    with pytest.raises(SettingsError, match="at least 16 bytes; this one has 15"):
        ReceiverSettings.load(GIVEN | {"MODELSWAP_WEBHOOK_SECRETS": "whsec_" + "AAAA" * 5})


@pytest.mark.parametrize("name", ["MODELSWAP_PUBLIC_URL", "MODELSWAP_REPLICATE_API_URL"])
@pytest.mark.parametrize("userinfo", ["user:s3cret", "s3cret", ":s3cret", ""])
def test_an_http_address_with_a_user_is_refused_and_not_shown(name, userinfo):
    with pytest.raises(SettingsError, match="holds a user or a password") as caught:
        StateSettings.load(GIVEN | {name: f"https://{userinfo}@example.com"})

    assert name in str(caught.value)
    assert "s3cret" not in str(caught.value)


@pytest.mark.parametrize(
    "address", ["http://h:15672", "http://:s3cret@h", "http://u@h", "amqp://u:s3cret@h", "http://u:s3cret@h/api"]
)
def test_a_management_address_needs_a_login_and_no_path(address):
    with pytest.raises(SettingsError, match="MODELSWAP_MANAGEMENT_URL") as caught:
        OpsSettings.load(GIVEN | {"MODELSWAP_OPS_TOKENS": RANDOM, "MODELSWAP_MANAGEMENT_URL": address})

    assert "s3cret" not in str(caught.value)


@pytest.mark.parametrize(
    ("secret", "names"),
    [
        (RANDOM, []),
        ("a" * 40, ["MODELSWAP_API_TOKENS"]),
        ("abcabcabcabcabcabcabc", ["MODELSWAP_API_TOKENS"]),
        (f"{RANDOM},{'12' * 10}", ["MODELSWAP_API_TOKENS"]),
        ("service/console:1111111111111111", ["MODELSWAP_API_TOKENS"]),
    ],
)
def test_a_secret_of_few_different_characters_is_warned_of(secret, names):
    settings = StateSettings.load(GIVEN | {"MODELSWAP_API_TOKENS": secret})

    assert names == guessable(settings)


def test_a_master_secret_of_few_different_characters_is_warned_of():
    settings = NotifierSettings.load(
        GIVEN | {"MODELSWAP_API_TOKENS": RANDOM, "MODELSWAP_WEBHOOK_MASTER_SECRETS": f"{RANDOM},{'a' * 32}"}
    )

    assert guessable(settings) == ["MODELSWAP_WEBHOOK_MASTER_SECRETS"]


def test_another_process_takes_over_within_the_ten_seconds_of_the_runbook():
    assert session_lock._SILENT_SECONDS + session_lock.STAND_BY_SECONDS < 10
    assert CLAIM_SECONDS < 10


def test_confirms_come_before_what_waits_for_them_is_ended():
    assert [confirm_seconds(5), confirm_seconds(600)] == [5, CONFIRM_SECONDS]
    assert CONFIRM_SECONDS + 1 <= IDLE_IN_TRANSACTION_SECONDS
    assert CONFIRM_SECONDS + 1 <= CLAIM_SECONDS
