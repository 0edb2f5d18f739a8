"""The command against a product that runs: what it shows is so, and what it asks for happens."""

from __future__ import annotations

import asyncio
import json
import re

import pytest

from tests.end_to_end.conftest import RECORDED, SELF_STARTED
from tests.end_to_end.test_doctor import LATE
from tests.shell import Shell
from tests.stack import Stack

_OF_U = "modelswap models history U, or modelswap trainings list --user U"


async def trigger(shell: Shell, stack: Stack, event: str, training: str, user: str, *more: str) -> None:
    about = ("--training", training, "--user", user, "--destination", f"acme/{user}")
    code, _, err = await shell.run("trigger", event, *about, "--url", stack.url("receiver"), *more)
    assert (code, err) == (0, "")


async def test_a_triggered_success_is_the_users_model_in_every_view(shell, stack, user):
    training = f"t-{user}"

    await trigger(shell, stack, "training.succeeded", training, user, "--version", RECORDED)
    code, watched, _ = await shell.run("trainings", "watch", training)

    assert code == 0
    assert f"{user} {training}  100%  active" in watched
    reference = f"acme/{user}:{RECORDED}"
    model, (swap,), (listed,) = await asyncio.gather(
        shell.json("models", "current", user),
        shell.json("models", "history", user),
        shell.json("trainings", "list", "--user", user, "--stage", "active"),
    )
    assert (model["reference"], model["training_id"]) == (reference, training)
    assert (swap["reference"], swap["cause"]) == (reference, "training")
    assert listed == await shell.json("trainings", "show", training)
    assert (listed["stage"], listed["current"]) == ("active", True)


async def test_watching_a_training_that_fails_is_exit_code_1(shell, stack, user):
    await trigger(shell, stack, "training.failed", f"t-{user}", user, "--error", "out of memory")

    code, out, err = await shell.run("trainings", "watch", f"t-{user}")

    assert (code, err) == (1, "")
    assert "failed: out of memory" in out


async def test_watching_goes_on_when_the_api_is_restarted(shell, stack, user):
    training = f"t-{user}"
    await trigger(shell, stack, "training.started", training, user)

    async with shell.started("trainings", "watch", training) as process, asyncio.timeout(240):
        begun = await process.stdout.readline()
        stack.processes["state"].kill()
        told = await process.stderr.readline()
        stack.processes["state"].start()
        await stack.until_ready("state")
        await trigger(shell, stack, "training.succeeded", training, user, "--version", RECORDED)
        ended, complaints = await process.communicate()

    assert f"{user} {training}" in begun.decode()
    # How it does not, depends on whether it was killed over an answer.
    assert re.search(r" does not answer \(\w+\); waiting for it\n$", told.decode())
    assert ended.decode().endswith("100%  active\n")
    assert (process.returncode, complaints) == (0, b"")


async def test_a_healthy_product_passes_every_check(shell):
    # A busy machine may be examined again; what is broken stays so.
    async with asyncio.timeout(240):
        while True:
            code, out, err = await shell.run("doctor", "-o", "json")
            wrong = [finding for finding in json.loads(out) if finding["status"] != "ok"]
            if not any(re.search(LATE, finding["detail"]) for finding in wrong):
                break

    assert (code, err, wrong) == (0, "", [])
    assert await shell.json("topology", "diff") == []
    assert all(migration["applied_at"] for migration in await shell.json("db", "status"))


@pytest.mark.parametrize(
    ("typed", "problem"),
    [
        ("models current nobody", "user nobody has no model"),
        ("trainings show nothing", "training nothing is not registered"),
        ("trainings list --stage nope", "stage: must be one of requested, running"),
        ("replays show nope", "no replay has an id that begins with nope"),
        (
            "dead-letters drop 1 --group 3f9a0c51d2e47b68 --reason x",
            "say which dead letters: either by their numbers or by what",
        ),
    ],
)
async def test_what_is_not_there_is_said_in_one_line(typed, problem, shell):
    code, out, err = await shell.run(*typed.split())

    assert (code, out) == (1, "")
    said, then = err.splitlines()
    assert said.startswith(f"modelswap: {problem}")
    assert then.startswith("Next: ")


@pytest.mark.parametrize(
    ("typed", "empty"),
    [
        ("trainings list --user nobody", "no training fits"),
        ("dead-letters list --user nobody", "no dead letter fits"),
        ("events list --user nobody --since 2026-11-24", "no such event since 2026-11-24 00:00:00+0000: --since looks"),
    ],
)
async def test_an_empty_list_says_what_was_looked_for(typed, empty, shell):
    code, out, err = await shell.run(*typed.split())

    assert (code, err) == (0, "")
    assert out.startswith(empty)


async def test_a_token_that_does_not_fit_is_said(settings):
    code, _, err = await Shell({**settings, "MODELSWAP_API_TOKENS": "a-token-of-nobody"}).run("trainings", "list")

    assert code == 1
    said = (
        f"the product's API at {settings['MODELSWAP_API_URL']} does not accept the first token of MODELSWAP_API_TOKENS"
    )
    assert said in err


async def test_without_a_configured_secret_it_is_fetched(settings, stack, user):
    own = Shell({**settings, "MODELSWAP_WEBHOOK_SECRETS": "", "MODELSWAP_RECEIVER_URL": stack.url("receiver")})

    about = ("--training", f"t-{user}", "--user", user, "--destination", f"acme/{user}")

    code, out, err = await own.run("trigger", "training.started", *about)

    assert (code, err) == (0, "")
    assert out.startswith("202: training.started")


async def test_a_secret_that_does_not_fit_is_said(settings, stack):
    stranger = Shell({**settings, "MODELSWAP_WEBHOOK_SECRETS": "whsec_" + "A" * 32})
    about = ("--training", "t1", "--url", stack.url("receiver"))

    code, _, err = await stranger.run("trigger", "training.started", *about)

    assert code == 1
    assert "answered 401" in err


async def test_a_rollback_is_shown_tried_and_done(shell, stack, user):
    for number, version in enumerate((RECORDED, SELF_STARTED)):
        await trigger(shell, stack, "training.succeeded", f"t{number}-{user}", user, "--version", version)
        await stack.until_stage(f"t{number}-{user}", "active")
    rollback = ("models", "rollback", user, "--reason", "too dark")

    code, shown, _ = await shell.run(*rollback, "--dry-run")
    alone, _, refused = await shell.run(*rollback)
    before = await shell.json("models", "current", user)
    done = await shell.json(*rollback, "--yes")

    assert code == 0
    assert f"acme/{user}:{SELF_STARTED}" in shown
    assert f"acme/{user}:{RECORDED}" in shown
    assert "no, this is a dry run" in shown
    assert alone == 1
    assert refused.splitlines()[-1] == "Next: the same command with --yes"
    assert before["training_id"] == f"t1-{user}"
    assert (done["training_id"], done["generation"]) == (f"t0-{user}", 3)
    assert done == await shell.json("models", "current", user)
    (swap, *_) = await shell.json("models", "history", user)
    assert (swap["cause"], swap["actor"], swap["reason"]) == ("rollback", "api", "too dark")


async def test_a_first_model_is_withdrawn_and_used_again_by_name(shell, stack, user):
    await trigger(shell, stack, "training.succeeded", f"t-{user}", user, "--version", RECORDED)
    await stack.until_stage(f"t-{user}", "active")
    withdraw = ("models", "withdraw", user, "--reason", "not hers")

    _, shown, _ = await shell.run(*withdraw, "--dry-run")
    alone, _, refused = await shell.run(*withdraw)
    before = await shell.json("models", "current", user)
    done = await shell.json(*withdraw, "--yes")
    none, _, said = await shell.run("models", "current", user)
    _, history, _ = await shell.run("models", "history", user)
    back = await shell.json(
        "models", "rollback", user, "--to", before["reference"], "--reason", "hers after all", "--yes"
    )

    assert "no, this is a dry run" in shown
    assert (alone, refused.splitlines()[-1]) == (1, "Next: the same command with --yes")
    assert (done["generation"], done["reference"], done["previous_reference"]) == (2, None, before["reference"])
    assert (none, f"user {user} has no model" in said) == (1, True)
    assert "withdrawal" in history
    assert (back["generation"], back["reference"]) == (3, before["reference"])


async def test_a_second_look_is_asked_for_by_training_and_by_user(shell, stack, user):
    training = f"t-{user}"
    await trigger(shell, stack, "training.succeeded", training, user, "--output", '{"weights": "w.tar"}')

    for asked in ((training,), ("--user", user)):
        await stack.until_stage(training, "unverified")
        answer = await shell.json("trainings", "retry-extraction", *asked)
        assert (answer["training_id"], answer["stage"]) == (training, "verifying")


@pytest.mark.parametrize(
    "texts",
    [
        ("trainings cancel T", "cancel training T: 404", "modelswap trainings show T"),
        ("trainings retry-extraction T", "training T has not ended", "modelswap trainings show T"),
        ("trainings retry-extraction --user U", "user U has no training", _OF_U),
        ("models rollback U --reason x", "user U has no model", _OF_U),
    ],
)
async def test_what_can_not_be_done_is_said_with_what_to_type_next(texts, shell, stack, simulator, user):
    await trigger(shell, stack, "training.started", f"t-{user}", user)
    await stack.until_stage(f"t-{user}", "running")
    simulator.world.remove(f"t-{user}")
    typed, problem, then = (text.replace("T", f"t-{user}").replace("U", user) for text in texts)

    code, out, err = await shell.run(*typed.split())

    assert (code, out) == (1, "")
    first, last = err.splitlines()
    assert first.startswith(f"modelswap: {problem}")
    assert last == f"Next: {then}"
