"""Outputs: every shape that trainings have is read, and nothing else becomes anybody's model."""

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from services.extractor.errors import NeedsLookup, NoModel
from services.extractor.filter import extract, extract_line
from services.extractor.lookup import resolve
from services.extractor.outputs import PLACES, Found, find_model
from services.extractor.spellings import SPELLINGS
from shared.contract.identity import ModelName, ModelRef
from shared.replicate.training import Training
from shared.replicate.version import Version

SAMPLES = sorted((Path(__file__).parent.parent / "fixtures" / "outputs").glob("*.json"))
DESTINATION = ModelName("acme", "u-42")
WHOLE = "925da5f563c07bb620a3bf3cc2185079b1cfc7d62f47a9c234e67dbc36eab738"
OTHER = "0672a9098a0c17393feeb70989b90488a89e80404be9543ccabe9c87aca4ac08"
START = datetime(2026, 11, 24, 12, tzinfo=UTC)


def load(path: Path) -> Any:
    return json.loads(path.read_text())


def find(output: Any, destination: ModelName | None = DESTINATION) -> Found:
    return find_model(output, destination=destination, trainer="ostris/flux-dev-lora-trainer", trainer_version=None)


def lookup_of(output: Any) -> NeedsLookup:
    with pytest.raises(NeedsLookup) as caught:
        find(output)
    return caught.value


def made(version: str, *, minutes_after_start: float | None = 10) -> Version:
    moment = None if minutes_after_start is None else START + timedelta(minutes=minutes_after_start)
    return Version.model_validate({"id": version, "created_at": moment and moment.isoformat()})


@pytest.mark.parametrize("path", SAMPLES, ids=lambda path: path.stem)
def test_every_sample_is_read_as_it_says(path):
    sample = load(path)
    training = Training.model_validate(sample["training"])
    destination = sample["destination"] and ModelName.parse(sample["destination"])

    try:
        found = extract(training, destination)
        said, why = {"model": str(found.model.model), "version": found.model.version, "shape": found.shape}, None
    except NoModel as error:
        said, why = {"error": error.code}, str(error)

    assert sample["expect"] == said, why


@pytest.mark.parametrize("path", SAMPLES, ids=lambda path: path.stem)
def test_the_filter_says_the_same(path):
    sample = load(path)
    line = {"id": path.stem, "training": sample["training"], "destination": sample["destination"]}

    said = json.loads(extract_line(json.dumps(line)))

    expected = {"id": path.stem, **sample["expect"]}
    expected.pop("shape", None)
    if "error" in expected:
        assert said.pop("detail")
    assert expected == said


def test_every_place_and_every_spelling_has_a_sample():
    shapes = [shape.split("/") for path in SAMPLES if (shape := load(path)["expect"].get("shape"))]
    errors = {load(path)["expect"].get("error") for path in SAMPLES}

    # A model's name alone pins no version, so its places show in what they complete or contradict.
    whole = {place.__name__ for place in PLACES} - {"model_object", "owner_and_name"}
    assert whole == {place for place, _ in shapes}, "PLACES of outputs.py, and the samples' expect.shape"
    spellings = {spelling.__name__ for spelling in SPELLINGS}
    assert spellings == {spelling for _, spelling in shapes}, "SPELLINGS of spellings.py, and the samples' expect.shape"
    assert {"destination_mismatch", "version_not_pinned"} <= errors


def test_what_was_seen_is_told_short_and_visibly():
    with pytest.raises(NoModel) as caught:
        find({"version": "acme\u200b/u-42\n" + "x" * 10_000})

    message = str(caught.value)
    assert "acme\\u200b/u-42\\nxxx" in message
    assert message.isprintable()
    assert len(message) < 300


@pytest.mark.parametrize(
    "output",
    [[str(DESTINATION.at(WHOLE))] * 5_000, {"version": [WHOLE] * 5_000}, [None] * 5_000, ["[1, 2, 3]"] * 1_000],
    ids=lambda output: str(output)[:30],
)
def test_an_output_that_says_thousands_of_things_is_no_answer(output):
    with pytest.raises(NoModel) as caught:
        find(output)

    assert caught.value.code == "too_long"


def test_half_a_version_says_what_to_look_up():
    lookup = lookup_of({"version": "925da5f5"})

    assert (lookup.code, lookup.model, lookup.prefix) == ("short_version", DESTINATION, "925da5f5")


def test_a_name_alone_says_what_to_look_up():
    lookup = lookup_of({"version": "acme/u-42"})

    assert (lookup.code, lookup.model, lookup.prefix) == ("version_not_pinned", DESTINATION, None)


def test_half_a_version_is_completed_if_unambiguous():
    lookup = lookup_of({"version": "925da5f5"})

    ref = resolve(lookup, [made(OTHER), made(WHOLE)], START)

    assert DESTINATION.at(WHOLE) == ref


def test_a_bare_name_is_completed_by_the_only_new_version():
    lookup = lookup_of({"version": "acme/u-42"})

    ref = resolve(lookup, [made(WHOLE), made(OTHER, minutes_after_start=-1)], START)

    assert DESTINATION.at(WHOLE) == ref


def test_without_dates_the_beginning_of_a_version_still_tells():
    lookup = lookup_of({"version": "925da5f5"})

    assert DESTINATION.at(WHOLE) == resolve(lookup, [made(OTHER), made(WHOLE, minutes_after_start=None)], None)


@pytest.mark.parametrize(
    ("output", "versions", "started_at", "code"),
    [
        ("acme/u-42", [made(WHOLE), made(OTHER)], START, "ambiguous"),
        ("acme/u-42", [], START, "version_not_listed"),
        ("acme/u-42", [made(WHOLE, minutes_after_start=-1)], START, "version_not_listed"),
        ("acme/u-42", [made(WHOLE)], None, "version_not_pinned"),
        ("acme/u-42", [made(WHOLE), made(OTHER, minutes_after_start=None)], START, "version_not_pinned"),
        ("acme/u-42", [made("latest")], START, "version_not_listed"),
        ("925da5f5", [made(WHOLE), made(WHOLE[:8] + OTHER[8:])], START, "ambiguous"),
        ("925da5f5", [made(OTHER)], START, "version_not_listed"),
        ("925da5f5", [made(WHOLE, minutes_after_start=-1)], START, "version_not_listed"),
    ],
)
def test_what_could_be_another_training_s_version_is_never_taken(output, versions, started_at, code):
    lookup = lookup_of(output)

    with pytest.raises(NoModel) as caught:
        resolve(lookup, versions, started_at)

    assert code == caught.value.code


def test_the_same_version_listed_twice_is_one():
    lookup = lookup_of("acme/u-42")

    assert DESTINATION.at(WHOLE) == resolve(lookup, [made(WHOLE), made(WHOLE)], START)


@pytest.mark.parametrize(
    "line",
    [
        "",
        "\x00",
        "{",
        "[]",
        "null",
        '"text"',
        '{"id": "a"}',
        '{"id": "a", "training": []}',
        '{"id": "a", "training": {"status": "succeeded"}, "destination": ""}',
        '{"id": "a", "training": {"status": "succeeded"}, "destination": 3}',
        '{"id": "a", "training": {"status": "succeeded"}, "destination": "\\u212aim/u-42"}',
        "[" * 100_000,
        "9" * 5_000,
    ],
    ids=lambda line: line[:100],
)
def test_a_bad_line_is_answered_as_such(line):
    said = json.loads(extract_line(line))

    assert said.pop("detail")
    assert {"id": "a" if '"id"' in line else None, "error": "bad_line"} == said


@pytest.mark.parametrize(
    "training",
    [
        '{"status": 5}',
        "{}",
        '{"status": "succeeded", "output": NaN}',
        '{"status": "succeeded", "output": {"version": "\\ud800"}}',
        '{"status": "succeeded", "output": {"version": "\\u0000"}}',
        '{"status": "succeeded", "output": ' + "[" * 900 + "]" * 900 + "}",
    ],
    ids=lambda training: training[:60],
)
def test_what_the_receiver_would_refuse_the_filter_refuses(training):
    said = json.loads(extract_line(f'{{"id": 7, "training": {training}}}'))

    assert (said["id"], said["error"]) == (7, "not_a_training")


@pytest.mark.parametrize("identity", [{}, {"id": None}, {"id": ""}])
def test_the_filter_asks_for_no_id_of_replicates(identity):
    line = {"id": "a", "training": {**identity, "status": "succeeded", "output": WHOLE}, "destination": "acme/u-42"}

    assert json.loads(extract_line(json.dumps(line))) == {"id": "a", "model": "acme/u-42", "version": WHOLE}


def test_the_filter_folds_the_case_of_a_destination():
    line = {"id": "a", "training": {"status": "succeeded", "output": WHOLE}, "destination": " Acme/U-42 "}

    assert json.loads(extract_line(json.dumps(line))) == {"id": "a", "model": "acme/u-42", "version": WHOLE}


# Whatever comes: no error but `NoModel`, no ref outside the grammar, never another model than the destination.

_PIECES = st.sampled_from(
    [
        *(
            "acme",
            "u-42",
            "mallory",
            "acme/u-42",
            "..",
            "/",
            "//",
            ":",
            "@",
            "sha256:",
            "?",
            "#",
            "%2F",
            "\\",
            " ",
            "\n",
        ),
        *(
            "https://",
            "HTTP://",
            "replicate.com",
            "api.replicate.com",
            "/v1/models/",
            "/versions/",
            "r8.im",
            "evil.org",
        ),
        *(WHOLE, WHOLE.upper(), OTHER, WHOLE[:8], WHOLE[:63], f"acme/u-42:{WHOLE}", f"mallory/u-42:{OTHER}"),
        *("\n", "\x00", "\u200b", "\u212a", "\u0430cme", "\ud800", "[", "{", '"'),
    ]
)
_TEXTS = st.lists(_PIECES, max_size=8).map("".join) | st.text(max_size=40)
_FIELDS = st.sampled_from(
    ["version", "version_id", "versionId", "model_version", "modelVersion", "model", "id", "owner", "name", "weights"]
)
_OUTPUTS = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | _TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_FIELDS, inner, max_size=4),
    max_leaves=12,
)
_OUTPUTS_OR_JSON = _OUTPUTS | _OUTPUTS.map(json.dumps)


@settings(max_examples=400)
@given(_OUTPUTS_OR_JSON, st.sampled_from([DESTINATION, None]), st.none() | _TEXTS, st.none() | _TEXTS)
@example({"version": f"mallory/u-42:{WHOLE}", "model": f"acme/u-42:{WHOLE}"}, DESTINATION, None, None)
@example({"version": 10**5000}, DESTINATION, None, None)
@example([{"version": OTHER}, {"model": "acme/u-42"}], None, "acme/u-42", OTHER)
def test_any_output_gives_a_ref_of_the_destination_or_an_error(output, destination, trainer, trainer_version):
    try:
        found = find_model(output, destination=destination, trainer=trainer, trainer_version=trainer_version)
    except NoModel as error:
        refused = str(error)
        assert refused.isprintable()
        return

    assert found.model == ModelRef.parse(str(found.model))
    assert destination in (None, found.model.model)
    assert found.model.version in json.dumps(output).lower()


@settings(max_examples=200)
@given(_OUTPUTS_OR_JSON, _TEXTS | st.none(), st.sampled_from(["succeeded", "failed", "queued"]) | _TEXTS)
def test_whatever_the_line_the_filter_answers_with_one_line(output, destination, status):
    line = json.dumps({"id": "a", "training": {"status": status, "output": output}, "destination": destination})

    said = extract_line(line)

    assert "\n" not in said
    assert set(json.loads(said)) in ({"id", "model", "version"}, {"id", "error", "detail"})


@settings(max_examples=200)
@given(st.text())
def test_whatever_the_text_the_filter_answers_with_one_line(line):
    said = extract_line(line)

    assert "\n" not in said
    assert "error" in json.loads(said)
