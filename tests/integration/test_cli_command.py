"""The command as a shell runs it: what it imports, prints and returns."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from services.cli.local.doctor import _REPLICATE_AWAY
from services.cli.main import main
from shared.contract.health import how_to_start

ROOT = Path(__file__).parent.parent.parent
HEAVY = ("rich", "pydantic", "httpx", "fastapi", "starlette", "uvicorn", "aio_pika", "asyncpg", "asyncio")


def modelswap(*arguments: str, given: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [sys.executable, "-m", "services.cli", *arguments],
        input=given,
        capture_output=True,
        cwd=ROOT,
        timeout=180,
        check=False,
    )


def test_help_imports_nothing_that_is_slow():
    code = f"""
import sys
sys.argv = ["modelswap", "--help"]
from services.cli.main import main
try:
    main()
finally:
    sys.stderr.write(",".join(name for name in {HEAVY!r} if name in sys.modules))
"""

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, cwd=ROOT, check=False)

    assert done.returncode == 0
    assert done.stdout.startswith(b"Usage: modelswap")
    assert done.stderr == b""


@pytest.mark.parametrize("name", ["extract", "progress"])
def test_a_filter_survives_every_line(name):
    given = b'\xff\n\n{"id": "a", "training": {"id": "t", "status": "failed"}, "logs": null}'

    done = modelswap(name, given=given)

    assert [json.loads(line)["id"] for line in done.stdout.splitlines()] == [None, None, "a"]
    assert (done.returncode, done.stderr) == (0, b"")


def test_serving_a_process_is_running_its_module():
    done = modelswap("serve", "state")

    assert done.returncode == 2
    assert done.stderr.startswith(b"state: these settings need your attention:\n")


def test_a_filter_ends_well_when_nobody_reads_on():
    command = f'yes "{{}}" | (timeout 50 {sys.executable} -m services.cli progress; echo "code $?" >&2) | head -n 1'

    done = subprocess.run(["sh", "-c", command], capture_output=True, cwd=ROOT, timeout=180, check=False)

    assert json.loads(done.stdout) == {"id": None, "progress": None, "step": None, "total": None}
    assert done.stderr == b"code 0\n"


@pytest.mark.parametrize("closed", ["<&-", ">&-", "<&- >&-"])
@pytest.mark.parametrize("name", ["extract", "progress"])
def test_a_filter_without_standard_input_or_output_ends(name, closed):
    command = f"{sys.executable} -m services.cli {name} {closed}"

    done = subprocess.run(["sh", "-c", command], input=b"{}\n", capture_output=True, cwd=ROOT, timeout=180, check=False)

    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")


@pytest.mark.parametrize(
    ("typed", "code"),
    [
        ("dead-letters edit 1 --reason x --body - <&-", 2),
        ("config show >&-", 0),
        ("config show -o json >&-", 0),
        ("trainings list 2>&-", 2),
    ],
)
def test_a_command_does_without_a_stream_that_is_closed(typed, code):
    done = subprocess.run(
        ["sh", "-c", f"{sys.executable} -m services.cli {typed}"],
        capture_output=True,
        cwd=ROOT,
        timeout=180,
        check=False,
    )

    assert done.returncode == code
    assert b"Traceback" not in done.stderr


def written_to(out: int, typed: str) -> subprocess.CompletedProcess[bytes]:
    """The end of a command whose standard output is the file descriptor *out*."""
    command = [sys.executable, "-m", "services.cli", *typed.split()]
    return subprocess.run(command, stdout=out, stderr=subprocess.PIPE, cwd=ROOT, timeout=180, check=False)


@pytest.mark.parametrize("typed", ["config show", "config show -o json", "--version", "--help"])
def test_a_closed_pipe_ends_a_command_without_a_word(typed):
    reading, writing = os.pipe()
    os.close(reading)

    done = written_to(writing, typed)
    os.close(writing)

    assert (done.returncode, done.stderr) == (1, b"")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="it stands for a full disk")
@pytest.mark.parametrize("typed", ["config show", "config show -o json", "--version"])
def test_a_full_disk_is_one_line_and_what_to_do(typed):
    with Path("/dev/full").open("wb") as full:
        done = written_to(full.fileno(), typed)

    problem, then = done.stderr.decode().splitlines()
    assert done.returncode == 1
    assert problem.startswith("modelswap: ")
    assert "No space left on device" in problem
    assert then.startswith("Next: ")


def test_a_folder_that_cannot_be_made_is_named(tmp_path, capsys):
    (tmp_path / "file").touch()

    code = main(["docs", "asyncapi", "--folder", str(tmp_path / "file/folder")])

    problem, then = capsys.readouterr().err.splitlines()
    assert code == 1
    assert str(tmp_path / "file") in problem
    assert then == "Next: correct that, and the same command again"


@pytest.fixture(autouse=True)
def nothing_set(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in os.environ:
        if name.startswith("MODELSWAP_"):
            monkeypatch.delenv(name)


@pytest.mark.parametrize("typed", ["db status", "topology diff", "trainings list", "listen", "up"])
def test_missing_settings_are_named_and_the_exit_code_is_2(typed, capsys):
    code = main(typed.split())

    lines = capsys.readouterr().err.splitlines()
    assert code == 2
    assert lines[1].endswith("is missing")
    assert lines[-1] == "Next: modelswap config show, or modelswap up --embedded, which needs no settings"


def test_up_names_a_port_that_is_taken_before_it_starts_servers(monkeypatch, capsys):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        monkeypatch.setenv("MODELSWAP_RECEIVER_PORT", str(port))
        code = main(["up", "--embedded"])

    said = capsys.readouterr()
    why = f"receiver cannot listen on 127.0.0.1:{port} (Address already in use): set MODELSWAP_RECEIVER_PORT"
    assert (code, said.out) == (1, "")
    assert why in said.err
    assert "Next: the same command with other ports" in said.err


def test_a_webhook_that_nothing_can_sign_is_not_sent(capsys):
    code = main(["trigger", "training.started", "--training", "t1"])

    problem, then = capsys.readouterr().err.splitlines()
    assert code == 1
    assert "neither MODELSWAP_WEBHOOK_SECRETS nor MODELSWAP_REPLICATE_API_TOKEN is set" in problem
    assert then == "Next: modelswap config show"


@pytest.mark.parametrize(
    ("typed", "seen"),
    [
        ("db roles", "Postgres"),
        ("db migrate", "Postgres"),
        ("db status", "Postgres"),
        ("topology apply", "RabbitMQ does not answer"),
        ("topology diff", "RabbitMQ does not answer"),
        ("listen", "RabbitMQ does not answer"),
        ("trainings list", "does not answer"),
        ("trainings watch t1", "does not answer"),
        ("models current ann", "does not answer"),
        ("trigger training.started --training t1 --url http://127.0.0.1:1", "nothing answers"),
    ],
)
def test_an_unreachable_api_is_two_lines_why_and_what_to_do(typed, seen, monkeypatch, capsys):
    monkeypatch.setenv("MODELSWAP_AMQP_URL", "amqp://127.0.0.1:1")
    monkeypatch.setenv("MODELSWAP_DATABASE_URL", "postgresql://127.0.0.1:1/x")
    for login in ("OWNER", "STATE", "OPS", "NOTIFIER"):
        monkeypatch.setenv(f"POSTGRES_{login}_PASSWORD", "a-password")
    monkeypatch.setenv("MODELSWAP_API_URL", "http://127.0.0.1:1")
    monkeypatch.setenv("MODELSWAP_API_TOKENS", "t" * 16)
    monkeypatch.setenv("MODELSWAP_WEBHOOK_SECRETS", "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")

    code = main(typed.split())

    problem, then = capsys.readouterr().err.splitlines()
    assert code == 1
    assert seen in problem
    assert then.startswith("Next: ")
    assert "modelswap doctor" in then


@pytest.mark.parametrize("typed", ["topology diff", "listen"])
def test_when_the_broker_is_away_only_we_say_so(typed, monkeypatch):
    monkeypatch.setenv("MODELSWAP_AMQP_URL", "amqp://127.0.0.1:1")

    done = modelswap(*typed.split())

    # Under pytest, whatever libraries log is caught before it is seen.
    assert [line.split(b":")[0] for line in done.stderr.splitlines()] == [b"modelswap", b"Next"]


@pytest.mark.parametrize(
    ("typed", "option", "seen"),
    [
        ("listen", "--type", "model.activate"),
        ("listen", "--forward-to", "localhost:9000"),
        ("listen", "--forward-to", "http://localhost:99999"),
        ("listen", "--forward-to", "http:///path"),
        ("trigger training.started --training t1", "--url", "http://localhost:99999"),
        ("trigger training.started --training t1", "--url", "http://[::1"),
    ],
)
def test_types_and_addresses_that_make_no_sense_are_refused(typed, option, seen, capsys):
    code = main([*typed.split(), option, seen])

    problem, then = capsys.readouterr().err.splitlines()
    assert code == 1
    assert repr(seen) in problem
    assert then.startswith(f"Next: {option} ")


@pytest.mark.parametrize("content", [None, "{cut off", "né".encode("latin-1")])
def test_a_body_that_can_not_be_read_is_named(content, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("MODELSWAP_OPS_TOKENS", "t" * 16)
    file = tmp_path / "body.json"
    if content is not None:
        file.write_bytes(content if isinstance(content, bytes) else content.encode())

    main(["dead-letters", "edit", "1", "--reason", "x", "--body", str(file)])

    said = capsys.readouterr().err
    assert "is no JSON" in said or "No such file" in said


def test_what_is_piped_has_no_colour_and_is_not_cut(monkeypatch):
    url = f"https://hooks.example/{'x' * 200}"
    monkeypatch.setenv("MODELSWAP_PUBLIC_URL", url)

    done = modelswap("config", "show")

    assert url.encode() in done.stdout
    assert b"\x1b" not in done.stdout


@pytest.mark.parametrize(
    ("file", "then"), [(None, "modelswap up --embedded"), (".env", "docker compose run --rm cli doctor")]
)
def test_the_doctor_says_once_that_nothing_is_configured(file, then, monkeypatch, tmp_path, capsys):
    monkeypatch.chdir(tmp_path)
    if file is not None:
        (tmp_path / file).touch()

    code = main(["doctor", "-o", "json"])

    (finding,) = json.loads(capsys.readouterr().out)
    assert code == 1
    assert finding["detail"].startswith("nothing is configured")
    assert then in finding["then"]


def test_the_doctor_says_of_each_missing_thing_what_to_do(monkeypatch, capsys):
    monkeypatch.setenv("MODELSWAP_LOG_LEVEL", "info")
    code = main(["doctor", "-o", "json"])

    findings = json.loads(capsys.readouterr().out)
    assert code == 1
    assert {finding["check"] for finding in findings} >= {"broker", "database", "replicate", "webhook secret"}
    assert all(finding["then"] for finding in findings if finding["status"] == "wrong")


def test_the_doctor_names_the_cause_and_not_what_waits_for_it(monkeypatch, capsys):
    names = ("OPS", "NOTIFIER", "REPLICATE_API", "API", "EXTRACTOR", "RECEIVER", "PUBLIC")
    for name, url in {"AMQP": "amqp", "DATABASE": "postgresql", **dict.fromkeys(names, "http")}.items():
        monkeypatch.setenv(f"MODELSWAP_{name}_URL", f"{url}://127.0.0.1:1")
    monkeypatch.setenv("MODELSWAP_OPS_TOKENS", "t" * 16)
    monkeypatch.setenv("MODELSWAP_REPLICATE_API_TOKEN", "r8_t")

    main(["doctor", "-o", "json"])

    findings = {each["check"]: (each["status"], each["then"]) for each in json.loads(capsys.readouterr().out)}
    assert {check: found for check, found in findings.items() if not check.startswith("settings")} == {
        "broker": ("wrong", "start RabbitMQ, or correct MODELSWAP_AMQP_URL"),
        "broker nodes": ("ok", ""),
        "topology": ("warning", "fix the broker first"),
        "database": ("wrong", "start Postgres, or correct MODELSWAP_DATABASE_URL"),
        "migrations": ("warning", "fix the database first"),
        **{name: ("warning", how_to_start(name)) for name in ("receiver", "extractor", "state", "ops", "notifier")},
        "queues": ("warning", "fix the broker first"),
        "outbox": ("warning", "fix the database first"),
        "dead letters": ("warning", how_to_start("ops")),
        "replicate": ("wrong", _REPLICATE_AWAY),
        "public address": ("warning", "from this machine it may be out of reach: try it from another, such as a phone"),
        "webhooks": ("warning", how_to_start("ops")),
        "webhook secret": ("warning", "fix Replicate first"),
    }


@pytest.mark.skipif(shutil.which("bash") is None, reason="no bash")
def test_bash_completes_a_command_once_it_is_installed(tmp_path):
    launcher = tmp_path / "modelswap"
    launcher.write_text(f'#!/bin/sh\nexec {sys.executable} -m services.cli "$@"\n')
    launcher.chmod(0o755)
    script = """
        modelswap --install-completion >/dev/null
        source ~/.bashrc
        complete -p modelswap
        COMP_WORDS=(modelswap dead-letters re) COMP_CWORD=2
        _modelswap_completion modelswap
        echo "${COMPREPLY[@]}"
    """
    environment = {**os.environ, "HOME": str(tmp_path), "PATH": f"{tmp_path}:{os.environ['PATH']}"}

    done = subprocess.run(
        ["bash", "--norc", "-c", script], capture_output=True, cwd=ROOT, env=environment, timeout=180, check=False
    )

    assert done.stderr == b""
    assert done.stdout.decode().splitlines() == [
        "complete -o default -F _modelswap_completion modelswap",
        "restore replay",
    ]


def test_ctrl_c_ends_a_question_at_once():
    code = """
import asyncio, sys
from services.cli import options, output
from services.cli.main import app, main

async def ask():
    await asyncio.sleep(0)
    output.confirm("2 models are rolled back", "Roll back?", then="")

app.command("ask")(lambda: options.run_async(ask()))
sys.exit(main(["ask"]))
"""
    ours, terminal = os.openpty()

    process = subprocess.Popen(
        [sys.executable, "-c", code],
        stdin=terminal,
        stdout=terminal,
        stderr=subprocess.PIPE,
        cwd=ROOT,
        start_new_session=True,
    )
    try:
        assert process.stderr is not None
        seen = b""
        # A space follows, and may come with it or later.
        while b"[y/N]:" not in seen:
            more = os.read(process.stderr.fileno(), 1000)
            assert more, seen
            seen += more
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=60)
    finally:
        process.kill()
        process.communicate()
        os.close(ours)
        os.close(terminal)

    assert (process.returncode, said.strip()) == (1, b"modelswap: aborted")


def test_a_character_that_the_terminal_does_not_have_is_escaped():
    code = """
import sys
from services.cli.main import app, main
from services.cli.output import console, print_json

def say():
    print("a → b")
    console().print("a → b")
    print_json({"name": "é → \\N{GRINNING FACE}"})

app.command("say")(say)
sys.exit(main(["say"]))
"""

    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONIOENCODING": "iso-8859-1"},
        capture_output=True,
        cwd=ROOT,
        check=False,
    )

    first, second, *shown = done.stdout.decode("iso-8859-1").splitlines()
    assert (done.returncode, done.stderr) == (0, b"")
    assert first == second == "a \\u2192 b"
    assert json.loads("".join(shown)) == {"name": "é → \N{GRINNING FACE}"}
