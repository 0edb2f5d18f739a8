"""`modelswap trigger` refuses what makes no sense before it registers a training or asks anybody."""

from __future__ import annotations

import pytest

from services.cli.main import main


@pytest.mark.parametrize(
    ("typed", "why", "then"),
    [
        (["--version", "zz"], "'zz' is not a version", "--version with 64 lower-case hexadecimal digits"),
        (["--output", "{bad"], "--output cannot be sent: it is no JSON", "--output '{"),
        (["--output", ""], "--output cannot be sent: it is no JSON", "--output '{"),
        (["--output", '{"loss": NaN}'], "--output cannot be sent: it holds", "--output '{"),
        (["--output", "[" * 100_000], "--output cannot be sent: it is nested", "--output '{"),
        (["--url", "nonsense"], "'nonsense' is not an address to post to", "--url http://HOST:PORT"),
    ],
)
def test_nonsense_is_refused_without_any_setting(typed, why, then, monkeypatch, capsys):
    monkeypatch.setenv("MODELSWAP_API_URL", "not needed")

    code = main(["trigger", "training.succeeded", "--user", "bob", *typed])

    said, following = capsys.readouterr().err.splitlines()
    assert code == 1
    assert said.startswith(f"modelswap: {why}")
    assert following.startswith(f"Next: {then}")
