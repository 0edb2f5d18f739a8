"""`modelswap up` says which Replicate it uses, and settings left over in a terminal do not decide in silence."""

import json
import stat

import pytest

from services.cli.local.private import keep_secrets
from services.cli.local.stack import choose_replicate
from services.cli.local.supervisor import next_delay
from services.cli.problem import Problem

TOKEN = {"MODELSWAP_REPLICATE_API_TOKEN": "r8_real"}
OURS = {"MODELSWAP_REPLICATE_API_URL": "http://127.0.0.1:8090"}
THEIRS = {"MODELSWAP_REPLICATE_API_URL": "https://me:secret@replicate.example"}


@pytest.mark.parametrize(
    ("environment", "embedded", "typed", "is_simulated", "reason"),
    [
        ({}, True, None, True, "MODELSWAP_REPLICATE_API_TOKEN is not set"),
        (TOKEN, True, None, False, "MODELSWAP_REPLICATE_API_TOKEN is set"),
        ({"MODELSWAP_REPLICATE_API_TOKEN_FILE": "/run/x"}, True, None, False, "MODELSWAP_REPLICATE_API_TOKEN is set"),
        # Exported by an earlier run with the simulator.
        ({**TOKEN, **OURS}, True, None, True, "MODELSWAP_REPLICATE_API_URL is its address"),
        ({**OURS, "MODELSWAP_SIMULATOR_PORT": "1234", **TOKEN}, True, None, False, "API_TOKEN is set"),
        (THEIRS, True, None, True, "MODELSWAP_REPLICATE_API_URL is not used"),
        (TOKEN, True, True, True, "--simulator"),
        ({}, True, False, False, "--no-simulator"),
        ({}, False, None, False, "--embedded is not given"),
        ({}, False, True, True, "--simulator"),
    ],
)
def test_it_says_which_replicate_it_uses_and_why(environment, embedded, typed, is_simulated, reason):
    choice = choose_replicate(environment, embedded=embedded, simulator=typed)

    assert choice.is_simulated is is_simulated
    assert choice.why.startswith("the simulator at http://127.0.0.1:" if is_simulated else "http")
    assert reason in choice.why
    assert ("--no-simulator" if is_simulated else "add --simulator") in choice.why


def test_secrets_are_made_once_and_kept_whole(tmp_path):
    file = tmp_path / "secrets.json"
    made = keep_secrets(tmp_path)
    written = file.stat().st_ino

    assert keep_secrets(tmp_path) == made
    assert file.stat().st_ino == written
    assert [each.name for each in tmp_path.iterdir()] == ["secrets.json"]


def test_a_new_secret_is_added_to_those_that_are_kept(tmp_path):
    file = tmp_path / "secrets.json"
    made = keep_secrets(tmp_path)
    rest = dict(list(made.items())[1:])
    file.write_text(json.dumps(rest))

    again = keep_secrets(tmp_path)

    assert again.keys() == made.keys()
    assert again.items() >= rest.items()
    assert json.loads(file.read_text()) == again
    assert stat.S_IMODE(file.stat().st_mode) == 0o600


@pytest.mark.parametrize("content", ["", '{"API_TOKENS": "a', "[]"])
def test_secrets_that_cannot_be_read_are_not_replaced(tmp_path, content):
    file = tmp_path / "secrets.json"
    file.write_text(content)

    with pytest.raises(Problem, match=r"secrets\.json, the secrets of all that is stored there, cannot be read"):
        keep_secrets(tmp_path)

    assert file.read_text() == content


def test_a_password_in_replicates_address_is_not_said():
    choice = choose_replicate({**THEIRS, **TOKEN}, embedded=True, simulator=None)

    assert choice.why.startswith("https://replicate.example, ")


def test_a_process_that_ends_at_once_is_started_ever_later():
    assert [next_delay(ends) for ends in (1, 2, 3, 7, 1_000_000)] == [0.5, 1, 2, 30, 30]
