"""One line for each item of a list, whatever the width of the terminal, and every field once."""

from __future__ import annotations

import importlib
import io
import json
import pkgutil
import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any
from uuid import UUID, uuid5

import pytest

import services.cli
from services.cli.backtest.outputs import print_judged
from services.cli.backtest.verdicts import Group, Judged, Past, Verdict
from services.cli.choices import Format
from services.cli.events.heard import Heard
from services.cli.local import config
from services.cli.operators.dead_letters import print_letter
from services.cli.operators.replay_text import print_replay
from services.cli.product import models
from services.cli.product.models import print_model
from services.cli.product.trainings import print_training
from services.cli.table import Column, fit, print_facts, print_list, print_table
from services.notifier.views import DeliveryStatus, DeliveryView, EndpointStatus, EndpointView
from services.ops.audit.views import AuditView
from services.ops.letters.views import GroupView, LetterLine, LetterStatus, LetterView
from services.ops.reconcile.views import RecoveryView
from services.ops.replays.plan import Outcome, Status
from services.ops.replays.views import ReplayedLetterView, ReplayView
from services.ops.subscriptions.views import SubscriptionView
from services.state.timeline import FactKind, FactView
from services.state.transitions import Stage
from services.state.views import ModelView, SwapView, TrainingView
from shared.contract.identity import ModelName, ModelRef
from shared.contract.topology import EVENTS_LOG
from shared.contract.values import Retries
from shared.runtime.broker.message import Delivery

NOW = datetime(2026, 11, 24, 12, tzinfo=UTC)
TRAINING = "zz4ibbonubfz7carwiefibzgga"
REF = uuid5(UUID(int=0), "ref")
REPLAY = uuid5(UUID(int=0), "replay")
USER = str(uuid5(UUID(int=0), "user"))
MODEL = ModelRef("acme-studio", "portraits-of-user-42", "5c" * 32)
EARLIER = ModelRef("acme-studio", "portraits-of-user-42", "0f" * 32)
TEXT = "the output names no version of acme-studio/portraits-of-user-42; Replicate may have deleted it since then"
AT = [NOW + timedelta(minutes=minutes) for minutes in range(6)]

FACT = FactView(
    kind=FactKind.VERIFIED,
    at=NOW,
    seconds_since_previous=0.4,
    event="model.ready.v1",
    event_id=str(REF),
    applied_at=NOW,
    retries=Retries(attempt=3, first_failed_at=NOW, last_error="not_there_yet"),
    stage=Stage.ACTIVE,
    replay=f"{REPLAY}:7",
    detail={
        "model": str(MODEL),
        "evidence": {"shape": "version_field/model_ref", "checks": ["exists"], "seconds": 0.3},
    },
)
LETTER = LetterLine(
    number=104_217,
    status=LetterStatus.OPEN,
    queue="modelswap.extractor",
    event_type="training.succeeded.v1",
    event_id=str(UUID(int=7)),
    training_id=TRAINING,
    user_id=USER,
    error_code="destination_mismatch",
    error_class="PermanentError",
    error_text=TEXT,
    attempts=8,
    returns=0,
    first_failed_at=AT[0],
    last_failed_at=AT[1],
    archived_at=AT[2],
    status_at=AT[3],
    fingerprint="3f9a0c51d2e47b68",
    replay_id=REPLAY,
    body_bytes=2_048,
)
WHOLE = LetterView(
    **LETTER.model_dump(),
    exchange="modelswap.training",
    routing_key="training.succeeded.v1",
    content_type="application/json",
    headers={"traceparent": f"00-{'a' * 32}-{'b' * 16}-01"},
    body_base64="",
    body_text=json.dumps({"output": str(MODEL), "logs": TEXT}),
    traceback=f"NoVersion: {TEXT}",
)
GROUP = GroupView(
    fingerprint="3f9a0c51d2e47b68",
    queue="modelswap.extractor",
    error_code="destination_mismatch",
    error_class="PermanentError",
    error_text=TEXT,
    open=21,
    replaying=22,
    resolved=23,
    dropped=24,
    last_hour=25,
    last_day=26,
    last_week=27,
    first_failed_at=AT[0],
    last_failed_at=AT[1],
    newest=28,
    oldest=29,
)
AUDIT = AuditView(
    number=1,
    at=NOW,
    actor="olga",
    action="training.retry_extraction",
    target=f"training {TRAINING}",
    reason=TEXT,
    outcome="1 is looked at again",
)
ACTIVE = TrainingView(
    ref=REF,
    training_id=TRAINING,
    user_id=USER,
    generation=7,
    activated_generation=8,
    stage=Stage.ACTIVE,
    current=True,
    destination=ModelName(MODEL.owner, MODEL.name),
    trainer=None,
    trigger_word="TOK",
    progress=100,
    progress_source=None,
    step=None,
    total_steps=None,
    eta_seconds=None,
    eta_low_seconds=None,
    eta_high_seconds=None,
    overdue_at=None,
    reference=MODEL,
    failure=None,
    requested_at=AT[0],
    started_at=AT[1],
    completed_at=AT[2],
    updated_at=AT[3],
)
SWAP = SwapView(
    generation=8,
    reference=MODEL,
    previous_reference=EARLIER,
    training_id=TRAINING,
    ref=REF,
    trigger_word="TOK",
    cause="rollback",
    actor="olga",
    reason="faces are too dark, said support after the third complaint of this week",
    at=NOW,
)
IN_USE = ModelView(
    user_id=USER,
    reference=MODEL,
    owner=MODEL.owner,
    name=MODEL.name,
    version=MODEL.version,
    generation=8,
    training_id=TRAINING,
    ref=REF,
    trigger_word="TOK",
    activated_at=NOW,
)
REPLAYED = ReplayView(
    id=REPLAY,
    status=Status.RUNNING,
    status_reason="",
    trouble="",
    reason="parser mended in 1.4.2, after a look at each of the shapes",
    actor="olga",
    selection={"letters": [1]},
    rate_per_second=1,
    steps=[1],
    stop_when_failed_share=0.2,
    outcomes={Outcome.SWAPPED: 20, Outcome.FAILED: 33, Outcome.WAITING: 8},
    predictions={},
    note="",
    arrived_since=0,
    created_at=NOW,
    started_at=NOW,
    ended_at=None,
    undo=None,
)
OF_REPLAY = ReplayedLetterView(
    letter=104_217,
    position=1,
    training_id=TRAINING,
    stage=Stage.ACTIVE,
    generation=8,
    model=str(MODEL),
    previous=None,
    user_id=USER,
    outcome=Outcome.SWAPPED,
    detail=f"{MODEL} is current, generation 8",
    predicted=None,
    predicted_detail="",
    edited=False,
    step=1,
    sent_at=NOW,
    ended_at=NOW,
    undo=None,
    undo_detail="",
)
OVERDUE = RecoveryView(
    ref=REF,
    training_id=None,
    user_id=USER,
    noticed_at=AT[0],
    looks=41,
    gets=42,
    look_at=AT[1],
    trouble=TEXT,
    outcome=None,
    settled_at=None,
)
JUDGED = Judged(
    Past(training_id=TRAINING, user_id=USER, model=EARLIER, letter=104_217), Verdict.DIFFERENT, MODEL, "version", TEXT
)
ENDPOINT = EndpointView(
    failed_attempts=14,
    number=7,
    id=REF,
    url=f"https://hooks.example.com/{'x' * 40}",
    events=["model.activated.v1", "model.withdrawn.v1"],
    description=TEXT,
    created_at=AT[0],
    status=EndpointStatus.FAILING,
    status_at=AT[1],
    failing_since=AT[2],
    last_success_at=AT[3],
    old_secret_until=None,
)
DELIVERY = DeliveryView(
    number=7,
    id=REPLAY,
    endpoint_id=REF,
    event_id=str(UUID(int=7)),
    event="model.activated.v1",
    status=DeliveryStatus.RETRYING,
    status_at=AT[1],
    created_at=AT[0],
    attempts=12,
    response_status=500,
    response=TEXT,
    took_ms=1234,
)
SETTING = config.Entry(
    "MODELSWAP_REPLICATE_VERIFICATION_PATIENCE_SECONDS",
    f"https://hooks.example.com/{'x' * 90}",
    "file /run/secrets/modelswap/setting",
    ("receiver", "extractor", "state", "ops"),
    None,
)
SUBSCRIPTION = SubscriptionView(
    name="generator",
    events=["model.activated.v1", "model.withdrawn.v1"],
    max_length=100_000,
    queue="modelswap.subscription.generator",
    user="modelswap-subscription-generator",
    waiting=31,
    consumers=32,
    oldest_at=AT[0],
    overflow_queue="modelswap.subscription.generator.overflow",
    overflowed=33,
    overflow_max_length=100_001,
)
LOGGED = Heard(
    Delivery(
        queue=EVENTS_LOG,
        tag=1,
        exchange="modelswap.events",
        routing_key="model.superseded.v1",
        headers={"ce-id": str(UUID(int=7)), "ce-subject": TRAINING, "x-stream-offset": 104_217},
        content_type="application/json",
        body=b"{}",
        published_at=NOW,
    ),
)
#: Of each list an item, and the columns that a next command, or the question, needs whole.
LISTS: dict[str, tuple[Any, set[str]]] = {
    "services.cli.product.trainings.TRAININGS": (ACTIVE, {"training"}),
    "services.cli.product.trainings.TIMELINE": (FACT, {"at", "what"}),
    "services.cli.product.models.HISTORY": (SWAP, {"generation", "model"}),
    "services.cli.operators.dead_letters.LETTERS": (LETTER, {"dead letter"}),
    "services.cli.operators.dead_letters.GROUPS": (GROUP, {"group"}),
    "services.cli.operators.audit.AUDIT": (AUDIT, {"what", "of"}),
    "services.cli.operators.replay_text.REPLAYS": (REPLAYED, {"replay"}),
    "services.cli.operators.replay_text.LETTERS": (OF_REPLAY, {"dead letter"}),
    "services.cli.operators.reconcile.TRAININGS": (OVERDUE, {"training"}),
    "services.cli.operators.subscriptions.SUBSCRIPTIONS": (SUBSCRIPTION, {"subscription"}),
    "services.cli.events.past.EVENTS": (LOGGED, {"id"}),
    "services.cli.webhooks.endpoints.ENDPOINTS": (ENDPOINT, {"endpoint"}),
    "services.cli.webhooks.endpoints.DELIVERIES": (DELIVERY, {"delivery"}),
    "services.cli.backtest.outputs.TRAININGS": (JUDGED, {"training"}),
    "services.cli.backtest.outputs.LETTERS": (JUDGED, {"dead letter", "training"}),
    "services.cli.backtest.outputs.GROUPS": (
        Group(Verdict.FAILS, "destination_mismatch", 22, TRAINING),
        {"today", "such as"},
    ),
    "services.cli.backtest.outputs.RETRIED": ((TRAINING, TEXT), {"training"}),
    "services.cli.local.servers.MIGRATIONS": (("state.0010_a_migration", NOW), {"migration", "applied"}),
    "services.cli.local.servers.DIFFERENCES": (f"queue modelswap.extractor.retry.1: {TEXT}", {"what"}),
    "services.cli.local.config.SETTINGS": (SETTING, {"setting"}),
    "services.cli.local.demo.MODELS": (IN_USE, {"user", "model"}),
}

#: How many rows of a narrow terminal a line takes whose ids alone are wider than one.
ROWS = {
    ("services.cli.product.models.HISTORY", 40): 3,
    ("services.cli.product.models.HISTORY", 80): 2,
    ("services.cli.operators.audit.AUDIT", 40): 2,
    ("services.cli.backtest.outputs.RETRIED", 40): 2,
    ("services.cli.local.servers.MIGRATIONS", 40): 2,
    ("services.cli.local.servers.DIFFERENCES", 40): 2,
    ("services.cli.local.config.SETTINGS", 40): 2,
    ("services.cli.local.demo.MODELS", 40): 4,
    ("services.cli.local.demo.MODELS", 80): 2,
    ("services.cli.local.demo.MODELS", 120): 2,
}


def columns_of(name: str) -> Sequence[Column[Any]]:
    module, _, constant = name.rpartition(".")
    columns: Sequence[Column[Any]] = getattr(importlib.import_module(module), constant)
    return columns


def text_of(value: object) -> str:
    if isinstance(value, datetime):
        return f"{value.astimezone():%Y-%m-%d %H:%M:%S}"
    return "-" if value in {None, ""} else str(value)


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def shown(name: str, output: Format, monkeypatch: pytest.MonkeyPatch, width: int | None) -> list[str]:
    """The lines that a list of two items has on a terminal that is so wide, or on none."""
    item, _ = LISTS[name]
    return printed(partial(print_table, [item, item], columns_of(name), output, empty=""), monkeypatch, width)


def printed(print_it: Callable[[], None], monkeypatch: pytest.MonkeyPatch, width: int | None) -> list[str]:
    """The lines that are printed to a terminal that is so wide, or to none."""
    out = io.StringIO() if width is None else Terminal()
    with monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", out)
        patch.setenv("COLUMNS", str(width))
        patch.setenv("TERM", "xterm")
        print_it()
    return re.sub(r"\x1b\[[\d;]*m", "", out.getvalue()).splitlines()


def test_of_every_list_its_width_is_tested():
    modules = [
        importlib.import_module(each.name)
        for each in pkgutil.walk_packages(services.cli.__path__, "services.cli.")
        if not each.name.endswith("__main__")
    ]
    found = {
        id(value)
        for module in modules
        for name, value in vars(module).items()
        if isinstance(value, tuple) and value and isinstance(value[0], Column) and not name.startswith("_")
    }

    assert found == {id(columns_of(name)) for name in LISTS}


@pytest.mark.parametrize("width", [40, 80, 120, 200])
@pytest.mark.parametrize("name", LISTS)
def test_one_item_is_one_line_and_its_id_is_whole(name: str, width: int, monkeypatch):
    item, whole = LISTS[name]
    columns = {column.name: column for column in columns_of(name)}

    header, line, again = shown(name, Format.TABLE, monkeypatch, width)

    assert line == again
    assert max(len(header), len(line)) <= width * ROWS.get((name, width), 1)
    there = re.split(r"  +", header)
    assert whole <= set(there)
    for column, cell in zip(there, re.split(r"  +", line), strict=True):
        assert columns[column].is_prose or "…" not in cell
        # Text is cut at its end, and so are the versions in it.
        assert re.fullmatch(".*".join(map(re.escape, cell.split("…"))), text_of(columns[column].value(item)))


@pytest.mark.parametrize("name", LISTS)
@pytest.mark.parametrize(("output", "width"), [(Format.WIDE, 40), (Format.TABLE, None)])
def test_wide_or_piped_every_column_is_there_and_none_is_cut(name: str, output: Format, width: int | None, monkeypatch):
    item, _ = LISTS[name]

    header, *rows = shown(name, output, monkeypatch, width)

    assert re.split(r"  +", header) == [column.name for column in columns_of(name)]
    texts = [
        str(column.value(item) or "-") for column in columns_of(name) if not isinstance(column.value(item), datetime)
    ]
    assert all(text in row for text in texts for row in rows)
    # No wider than what it says.
    assert all(line == line.rstrip() for line in (header, *rows))


@pytest.mark.parametrize("name", LISTS)
def test_no_list_shows_a_value_twice(name: str):
    item, _ = LISTS[name]

    values = [str(value) for value in (column.value(item) for column in columns_of(name)) if value not in (None, "")]

    assert len(values) == len(set(values))


@pytest.mark.parametrize(
    ("room", "names"),
    [
        (9, ["id"]),
        (10, ["id", "b"]),
        (14, ["id", "a", "b"]),
        (37, ["id", "a", "b", "text"]),
        (None, ["id", "a", "b", "text"]),
    ],
)
def test_the_least_important_columns_are_dropped(room: int | None, names: list[str]):
    columns: list[Column[str]] = [
        Column("id", str),
        Column("a", str, 2),
        Column("b", str, 1),
        Column("text", str, 3, is_prose=True),
    ]

    fitted = fit(columns, [6, 2, 2, 50], room)

    assert [columns[index].name for index in fitted] == names


def test_a_column_that_says_nothing_takes_no_room(monkeypatch):
    columns: list[Column[str]] = [
        Column("id", str),
        Column("retries", lambda _: None, 1),
        Column("text", lambda _: "why it failed", 2, is_prose=True),
    ]

    header, _ = printed(partial(print_table, ["17"], columns, Format.TABLE, empty=""), monkeypatch, 22)

    assert header.split() == ["id", "text"]


def test_of_a_text_without_room_the_versions_are_cut_first(monkeypatch):
    columns: list[Column[str]] = [Column("id", str), Column("text", lambda _: f"{EARLIER} → {MODEL}", 1, is_prose=True)]
    name = "acme-studio/portraits-of-user-42"

    for width, line in ((100, f"17  {name}:0f0f0f0f… → {name}:5c5c5c5c…"), (300, f"17  {EARLIER} → {MODEL}")):
        assert printed(partial(print_table, ["17"], columns, Format.TABLE, empty=""), monkeypatch, width)[1] == line


def test_a_narrow_column_takes_the_room_of_one_that_is_too_wide():
    columns: list[Column[str]] = [Column("id", str), Column("user", str, 1), Column("stage", str, 2)]

    assert fit(columns, [26, 36, 10], 40) == {0: 26, 2: 10}


def test_what_strangers_wrote_can_not_steer_a_terminal(capsys):
    print_table(["\x1b[2Jout of [bold]memory"], [Column("reason", str)], Format.TABLE, empty="")

    assert capsys.readouterr().out.splitlines()[1] == "\ufffd[2Jout of [bold]memory"


def test_a_list_says_when_there_may_be_more(capsys):
    print_list([SWAP, SWAP], models.HISTORY, Format.TABLE, empty="", limit=2)

    assert capsys.readouterr().err == "2 are shown; for more, --limit\n"


def test_a_fact_is_one_line_however_long(capsys):
    print_facts([("reference", MODEL), ("why", TEXT * 3)])

    assert capsys.readouterr().out == f"reference  {MODEL}\nwhy        {TEXT * 3}\n"


def test_the_current_model_is_shown_once_and_no_dry_run(capsys):
    print_model(IN_USE, Format.TABLE)

    facts = dict(line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines())
    assert facts.keys() == {"user_id", "reference", "generation", "training_id", "ref", "trigger_word", "activated_at"}


@pytest.mark.parametrize(("what", "letter"), [("letters", 104_217), ("trainings", None)])
def test_a_training_of_the_past_is_named_once(what: str, letter: int | None, capsys):
    judged = replace(JUDGED, past=replace(JUDGED.past, letter=letter))

    print_judged([judged], Format.JSON, empty="", what=what, limit=9)

    (row,) = json.loads(capsys.readouterr().out)[what]
    assert row.get("letter") == letter
    assert len(set(row.values())) == len(row)
    assert row["model_today"] == str(MODEL)


@pytest.mark.parametrize(
    ("shown", "left_out"), [(print_model, (IN_USE, "dry_run")), (print_training, (ACTIVE, "webhook_url"))]
)
def test_json_has_no_field_that_the_api_left_out(shown: Any, left_out: tuple[Any, str], capsys):
    view, name = left_out

    shown(view, Format.JSON)

    assert name in type(view).model_fields
    assert json.loads(capsys.readouterr().out) == view.model_dump(mode="json", exclude={name})


@pytest.mark.parametrize(
    "print_it",
    [
        partial(print_facts, [("reference", MODEL), ("why", TEXT)]),
        partial(print_letter, WHOLE, Format.TABLE),
        partial(print_replay, REPLAYED.model_copy(update={"reason": TEXT}), Format.TABLE),
        partial(print_training, ACTIVE, Format.TABLE),
    ],
)
def test_no_line_that_is_copied_is_broken(print_it: Callable[[], None], monkeypatch):
    narrow, piped = (printed(print_it, monkeypatch, width) for width in (40, None))

    assert narrow == piped


@pytest.mark.parametrize(("started_at", "said"), [(None, None), (AT[1], "0%")])
def test_progress_is_no_number_while_nothing_is_known(started_at: datetime | None, said: str | None, capsys):
    facts = {"stage": Stage.RUNNING, "progress": 0, "started_at": started_at}
    print_training(ACTIVE.model_copy(update=facts), Format.TABLE)

    assert dict(line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines()).get("progress") == said


def test_several_values_of_a_fact_are_separated_by_commas(capsys):
    print_facts([("events", ["model.activated.v1", "model.withdrawn.v1"]), ("none", [])])

    assert capsys.readouterr().out == "events  model.activated.v1, model.withdrawn.v1\nnone    -\n"
