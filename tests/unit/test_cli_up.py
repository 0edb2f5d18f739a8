"""`modelswap up` says which Replicate it uses, and settings left over in a terminal do not decide in silence."""

import pytest

from services.cli.local.stack import choose_replicate
from services.cli.local.supervisor import next_delay

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


def test_a_password_in_replicates_address_is_not_said():
    choice = choose_replicate({**THEIRS, **TOKEN}, embedded=True, simulator=None)

    assert choice.why.startswith("https://replicate.example, ")


def test_a_process_that_ends_at_once_is_started_ever_later():
    assert [next_delay(ends) for ends in (1, 2, 3, 7, 1_000_000)] == [0.5, 1, 2, 30, 30]
