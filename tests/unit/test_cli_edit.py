"""What becomes of a letter that is edited by hand, and of the work that went into it?"""

from __future__ import annotations

import pytest
from typer.testing import CliRunner

from services.cli.main import app


@pytest.mark.parametrize(
    ("body", "typed", "said"), [("-", "{whole}", "this is no JSON"), ("no.json", "", "No such file")]
)
def test_a_body_is_read_from_a_file_or_from_standard_input(body, typed, said):
    settings = {"MODELSWAP_OPS_URL": "http://127.0.0.1:1", "MODELSWAP_OPS_TOKENS": "a-token"}

    result = CliRunner().invoke(
        app, ["dead-letters", "edit", "17", "--reason", "x", "--body", body], input=typed, env=settings
    )

    assert said in f"{result.exception} {result.stderr}"
