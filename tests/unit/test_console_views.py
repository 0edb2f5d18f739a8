"""What the console's pages are made of: the views of its own screens, charts, times, forms."""

from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest
from markupsafe import Markup

from services.notifier.views import DeliveryStatus, EndpointStatus
from services.ops.console.console import section_of
from services.ops.console.forms import BadForm, is_same_origin, local_path, read_form
from services.ops.console.views import charts, formats, now, search
from services.ops.console.views.now import HourStatistics, StageCount, StatisticsAnswer, SwapStatistics
from services.ops.console.views.problems import problem_view
from services.ops.console.views.queues import Concern, WebhooksAnswer
from services.ops.console.views.search import Hit, SearchAnswer
from services.ops.console.views.trainings import TrainingAnswer
from services.ops.letters.views import LetterCounts, LetterStatus
from services.ops.reconcile.views import Reconciliation, RecoveryCounts, RoundView
from services.ops.replays.plan import Outcome, Status
from services.state import overview
from services.state import views as state_views
from services.state.transitions import Stage
from shared.contract.answers import KIND_PREFIX, Problem
from shared.contract.text import plural

NOON = datetime(2026, 11, 29, 12, tzinfo=UTC)
HOSTILE = "\"><script>alert('x')</script>{{7*7}}"
CALM = RoundView(at=NOON, last_success_at=NOON, overdue=0, calls_left=60, trouble="")


def a_training(**facts: Any) -> TrainingAnswer:
    return TrainingAnswer.model_validate(
        {
            **dict.fromkeys(TrainingAnswer.model_fields),
            "ref": UUID(int=1),
            "training_id": "t1",
            "user_id": "u1",
            "generation": 1,
            "current": False,
            "trigger_word": "TOK",
            "updated_at": NOON,
            "stage": "running",
            "destination": "acme/u1",
            "progress": 34,
            "progress_source": "log",
            "step": 340,
            "total_steps": 1000,
            "eta_seconds": 400,
            "eta_low_seconds": 300,
            "eta_high_seconds": 500,
            "overdue_at": None,
            "requested_at": NOON - timedelta(minutes=9),
            "started_at": None,
            **facts,
        }
    )


def a_reconciliation(last: RoundView = CALM) -> Reconciliation:
    return Reconciliation(
        webhooks_seem_lost=False,
        recovered=RecoveryCounts(),
        given_up=RecoveryCounts(),
        never_started=RecoveryCounts(),
        last_round=last,
        calls_per_minute=60,
        set_aside=0,
        trainings=(),
    )


def webhooks(missed: int = 0, ended: int = 0) -> WebhooksAnswer:
    facts = {"ended": ended, "missed": missed, "missed_share": missed / ended if ended else None}
    return WebhooksAnswer.model_validate({"total": facts, "items": [{**facts, "hour": NOON}]})


def concerns(*health: Concern, **known: Any) -> list[Concern]:
    nothing = {
        "letters": LetterCounts(),
        "groups": [],
        "reconciliation": a_reconciliation(),
        "webhooks": webhooks(),
        "away": {},
    }
    return now.concerns(health, **{**nothing, **known})


# Now


def test_when_nothing_is_wrong_the_page_says_so():
    kind, sentence = now.verdict(concerns(), 3, None)

    assert (kind, sentence) == ("good", "All is well. 3 trainings on the way, and nothing waits for you.")


@pytest.mark.parametrize(
    ("known", "kind", "text"),
    [
        ({"letters": LetterCounts(open=1)}, "warn", "1 open dead letter"),
        ({"letters": LetterCounts(replaying=2)}, "info", "2 dead letters are being replayed"),
        ({"away": {"state": "http://state does not answer"}}, "bad", "services.state cannot answer"),
    ],
)
def test_what_is_wrong_is_named_with_its_urgency(known, kind, text):
    found = concerns(**known)

    assert [(each.kind, each.what) for each in found] == [(kind, text)]


def test_missed_webhooks_are_news_with_their_share():
    found = concerns(webhooks=webhooks(missed=3, ended=40))

    assert [(each.kind, each.what) for each in found] == [("info", "7.5 % of the webhooks from Replicate were missed")]
    assert found[0].text.startswith("In 1 hour, 3 of 40 trainings ended")
    assert not concerns(webhooks=webhooks(ended=40))


def test_missed_webhooks_have_a_chart_only_if_there_are_any():
    some, none, nothing = (webhooks(*counts) for counts in ((1, 4000), (0, 9), (0, 0)))

    assert (some.share, some.chart is None) == ("under 0.1 %", False)
    assert (none.share, none.chart) == ("0 %", None)
    assert (nothing.share, nothing.sentence) == (formats.NOTHING, "In 1 hour, no training ended.")


def test_an_overdue_training_is_news_but_no_alarm():
    found = concerns(reconciliation=a_reconciliation(last=CALM.model_copy(update={"overdue": 2})))

    assert [(each.kind, each.what) for each in found] == [("info", "2 trainings are overdue")]
    assert now.verdict(found, 0, None)[0] == "good"


def test_the_worst_stands_first():
    found = concerns(Concern("bad", "a queue"), letters=LetterCounts(open=1, replaying=1), away={"ops": "away"})

    assert [each.kind for each in found] == ["bad", "bad", "warn", "info"]


def test_what_follows_from_one_outage_is_one_concern():
    said = "RabbitMQ does not answer: refused"
    found = concerns(
        Concern("bad", "state: not ready", f"is not ready: events: modelswap.state waits: {said}; a: b"),
        Concern("bad", "modelswap.state: paused", f"modelswap.state is not being consumed: {said}"),
        Concern("bad", "subscription mailer", "full"),
        Concern("warn", "The reconciler's last round failed", f"no receipt: {said}"),
    )

    assert [each.what for each in found] == ["RabbitMQ does not answer", "subscription mailer"]
    assert found[0].text == (
        f"{said}. From that follows: state: not ready, modelswap.state: paused, The reconciler's last round failed."
    )
    assert found[0].then == 'start it; "A consumer waits" in deploy/runbook.md'


def test_an_api_without_its_database_is_no_other_concern():
    found = concerns(
        Concern("bad", "notifier: not ready", "is not ready: database: Postgres is away: refused"),
        away={"state": "http://state/v1/trainings answered 503: not now (database_down): try again in a moment"},
    )

    assert [each.what for each in found] == ["Postgres is away"]
    assert found[0].text.endswith("From that follows: services.state cannot answer, notifier: not ready.")


def test_what_queues_shows_is_not_called_well():
    found = concerns(Concern("bad", "subscription mailer"), reconciliation=None)

    assert now.verdict(found, 0, None) == ("bad", "Something needs you.")


def test_the_records_of_state_are_those_that_it_answers():
    for ours, theirs in (
        (TrainingAnswer, state_views.TrainingView),
        (StageCount, overview.StageCount),
        (SwapStatistics, overview.SwapStatistics),
        (HourStatistics, overview.HourStatistics),
        (StatisticsAnswer, overview.SwapStatisticsView),
        (Hit, overview.SearchHit),
        (SearchAnswer, overview.SearchResults),
    ):
        assert set(ours.model_fields) <= set(theirs.model_fields)


def test_an_estimated_count_is_marked_and_rounded():
    assert StageCount(stage="active", count=48_211, is_exact=False).said == "~48,000"


def test_hours_without_a_swap_are_a_gap_and_no_zero_seconds():
    hours = [HourStatistics(hour=NOON, swaps=n, p50_seconds=s, p99_seconds=s) for n, s in ((2, 1.0), (0, None), (1, 3))]

    shown = StatisticsAnswer(total=SwapStatistics(swaps=3, p50_seconds=1, p99_seconds=3), items=hours)

    assert shown.seconds_chart is not None
    assert shown.seconds_chart.count("<circle") == 4
    assert 'aria-label="From webhook to swap: half within 1.0 s, 99 of 100 within 3.0 s."' in shown.seconds_chart


def test_one_hour_alone_makes_no_line():
    hour = HourStatistics(hour=NOON, swaps=2, p50_seconds=1, p99_seconds=2)

    shown = StatisticsAnswer(total=SwapStatistics(swaps=2, p50_seconds=1, p99_seconds=2), items=[hour])

    assert shown.seconds_chart is None
    assert (shown.total.median, shown.total.slowest) == ("1.0 s", "2.0 s")


# Search


def hit(kind: str, name: str, user: str | None = "u1", **facts: Any) -> Hit:
    return Hit.model_validate(
        {"kind": kind, "name": name, "user_id": user, "ref": None, "stage": None, "reference": None, **facts}
    )


def test_each_hit_leads_to_its_page():
    found = [hit("training", "t/1", stage="active"), hit("user", "u 1"), hit("model", "a/b"), hit("model", "a/c", None)]

    assert [each.address for each in found] == ["/trainings/t%2F1", "/users/u%201", "/users/u1", None]


@pytest.mark.parametrize(
    ("names", "is_complete", "page"),
    [
        (["t1"], True, "/trainings/t1"),
        (["t1"], False, None),
        (["t1", "t2"], True, None),
        (["t", "t2"], False, "/trainings/t"),
        ([], True, None),
    ],
)
def test_the_only_hit_or_the_exact_one_is_opened_at_once(names, is_complete, page):
    found = [hit("training", name) for name in names]

    assert search.page_of("t", found, is_complete=is_complete) == page


# Numbers


def test_a_number_is_written_with_what_is_counted():
    assert [plural(count, "dead letter") for count in (0, 1, 2000)] == [
        "0 dead letters",
        "1 dead letter",
        "2,000 dead letters",
    ]
    assert [plural(count, "delivery", "deliveries") for count in (1, 2)] == ["1 delivery", "2 deliveries"]


# Colours


@pytest.mark.parametrize(
    ("of", "statuses"),
    [
        ("stage", Stage),
        ("letter", LetterStatus),
        ("replay", Status),
        ("outcome", Outcome),
        ("change", ["training", "replay", "rollback", "withdrawal"]),
        ("endpoint", [*EndpointStatus, "errors"]),
        ("delivery", DeliveryStatus),
    ],
)
def test_every_colour_is_of_a_status(of, statuses):
    assert formats._KINDS[of].keys() <= set(statuses)
    assert formats.kind("of a later version", of) == "quiet"


@pytest.mark.parametrize(
    ("action", "status", "of"),
    [
        *((status, status, "replay") for status in ("paused", "stopped", "canceled", "done")),
        *((status, status, "letter") for status in ("dropped", "resolved")),
        ("rolled_back", "rollback", "change"),
        ("withdrawn", "withdrawal", "change"),
    ],
)
def test_an_action_has_the_colour_of_what_it_leads_to(action, status, of):
    assert formats.kind(action, "action") == formats.kind(status, of)


# Charts


def test_a_chart_has_no_style_and_no_word_that_is_not_escaped():
    points = [charts.Point(1, HOSTILE, NOON), charts.Point(None, HOSTILE, NOON)]
    drawn = [
        charts.bars(points, sentence=HOSTILE),
        charts.lines([("info", points)], sentence=HOSTILE),
        charts.sparkbars([1, 0, 2, 3], sentence=HOSTILE),
        charts.stage_bar([charts.Part(1, HOSTILE, "good")], sentence=HOSTILE),
    ]

    for chart in drawn:
        assert isinstance(chart, Markup)
        assert "style=" not in chart
        assert "<script" not in chart
        assert 'role="img"' in chart


def test_a_chart_of_nothing_is_drawn():
    assert "<svg" in charts.bars([], sentence="nothing")
    assert "<svg" in charts.lines([("info", [])], sentence="nothing")
    assert "fill-none" in charts.stage_bar([charts.Part(0, "", "good")], sentence="nothing")


def test_small_bars_are_one_path_without_the_empty_ones():
    chart = charts.sparkbars([0, 2, 1, 0], sentence="two, then one", kind="bad")

    assert '<path class="fill-bad" d="M121 96v-96h118V96zM241 96v-48h118V96z"/>' in chart


def test_a_small_part_of_a_bar_is_seen():
    drawn = charts.stage_bar([charts.Part(1_000_000, "", "good"), charts.Part(1, "", "bad")], sentence="")

    assert 'class="fill-bad" x="474" y="0" width="5"' in drawn


# Values


@pytest.mark.parametrize(
    ("seconds", "said"),
    [(0.0004, "0 ms"), (0.82, "820 ms"), (3.42, "3.4 s"), (59.7, "1 min"), (3900, "1 h 5 min"), (90_000, "1 d 1 h")],
)
def test_durations_have_two_units_at_most(seconds, said):
    assert formats.duration(seconds) == said


@pytest.mark.parametrize(("seconds", "said"), [(0.2, "now"), (75, "1 min ago"), (-75, "in 1 min"), (9e5, "10 d ago")])
def test_ages_are_told_in_one_unit(seconds, said):
    assert formats.ago(seconds) == said


def test_models_are_shortened_the_same_everywhere_in_a_text():
    model = f"acme/ada:{'5c' * 32}"

    assert formats.short_models(model) == "acme/ada:5c5c5c5c…"
    assert formats.short_models(f"{model} and {model}0") == f"acme/ada:5c5c5c5c… and {model}0"


def test_characters_that_hide_or_turn_text_are_shown_as_escapes():
    assert formats.visible("gnp\u202eexe\x07\n") == "gnp\\u202eexe\\u0007\n"
    assert formats.visible("half an emoji: \ud83d") == "half an emoji: \\ud83d"
    assert formats.visible(Markup("<b>")) == Markup("<b>")


@pytest.mark.parametrize(
    ("path", "section"),
    [("/", "/"), ("/dead-letters/7", "/dead-letters"), ("/users/u1", "/trainings"), ("/search", None)],
)
def test_the_navigation_marks_where_you_are(path, section):
    assert section_of(path) == section


@pytest.mark.parametrize("status", [400, 403, 404, 405, 409, 412, 413, 418, 422, 429, 500, 503])
def test_every_problem_has_a_title_and_a_sentence(status):
    view = problem_view(Problem(type=f"{KIND_PREFIX}x", title="x", status=status, detail="it is so"))

    assert view.title
    assert view.detail == "It is so."


# Forms


def test_a_form_keeps_every_value_and_the_lines_of_a_text():
    form = read_form(b"letters=1&letters=2&reason=a%0D%0Ab+&empty=", "application/x-www-form-urlencoded; charset=utf-8")

    assert form.all("letters") == ["1", "2"]
    assert form["reason"] == "a\nb "
    assert form.text("reason") == "a\nb"
    assert form.text("empty") == form.text("missing") == ""


@pytest.mark.parametrize(
    ("body", "content_type"),
    [
        (b"{}", "application/json"),
        (b"a=%ff", "application/x-www-form-urlencoded"),
        ("a=ü".encode(), "application/x-www-form-urlencoded"),
        (b"&".join([b"a=1"] * 13_000), "application/x-www-form-urlencoded"),
        (b"a=1", "multipart/form-data; boundary=x"),
    ],
)
def test_what_is_no_form_is_refused(body, content_type):
    with pytest.raises(BadForm):
        read_form(body, content_type)


@pytest.mark.parametrize(
    ("headers", "ours"),
    [
        ({}, True),
        ({"sec-fetch-site": "same-origin"}, True),
        ({"sec-fetch-site": "none"}, True),
        ({"sec-fetch-site": "same-site"}, False),
        ({"sec-fetch-site": "cross-site", "origin": "https://ops.example", "host": "ops.example"}, False),
        ({"origin": "https://ops.example", "host": "ops.example"}, True),
        ({"origin": "https://evil.example", "host": "ops.example"}, False),
        ({"origin": "null", "host": "ops.example"}, False),
        ({"origin": "http://[", "host": "ops.example"}, False),
    ],
)
def test_a_request_of_another_site_is_noticed(headers, ours):
    assert is_same_origin(headers) is ours


@pytest.mark.parametrize(
    ("given", "path"),
    [
        ("/audit?actor=olga", "/audit?actor=olga"),
        ("//evil.example", "/"),
        ("/\\evil.example", "/"),
        ("https://evil.example", "/"),
        ("/a\\b", "/"),
        ("/a\nb", "/"),
        ("", "/"),
    ],
)
def test_after_the_sign_in_only_a_page_of_ours_follows(given, path):
    assert local_path(given) == path
