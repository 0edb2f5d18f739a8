"""Logs: the training's own count is found in whatever stands around it, and nothing else counts."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shared.replicate.filter import progress_line
from shared.replicate.progress import Progress, configured_steps, read_progress

SAMPLES = sorted((Path(__file__).parent.parent / "fixtures" / "logs").glob("*.json"))
STEPS = {"steps": 1000}


def load(path: Path) -> Any:
    return json.loads(path.read_text())


@pytest.mark.parametrize("path", SAMPLES, ids=lambda path: path.stem)
def test_every_sample_is_read_as_it_says(path):
    sample = load(path)

    progress = read_progress(sample["logs"], sample["input"])

    said = (
        {"progress": round(100 * progress.fraction, 2), "step": progress.step, "total": progress.total}
        if progress
        else {"progress": None, "step": None, "total": None}
    )
    assert sample["expect"] == said


@pytest.mark.parametrize("path", SAMPLES, ids=lambda path: path.stem)
def test_the_filter_says_the_same(path):
    sample = load(path)

    said = progress_line(json.dumps({"id": path.stem, "logs": sample["logs"], "input": sample["input"]}))

    assert {"id": path.stem, **sample["expect"]} == json.loads(said)


@pytest.mark.parametrize("path", SAMPLES, ids=lambda path: path.stem)
def test_what_came_long_before_changes_nothing(path):
    sample = load(path)
    before = "Downloaded base weights in 26.6 seconds\n" * 20_000
    logs = sample["logs"]

    progress = read_progress([before, *logs] if isinstance(logs, list) else before + (logs or ""), sample["input"])

    assert progress == read_progress(logs, sample["input"])


@pytest.mark.parametrize("total", [142, 1500])
@pytest.mark.parametrize(
    "line",
    ["loading image sizes.", "INFO  Encoding dataset [0]", "=== Preprocessing ===", "cache latents\n", "Running eval"],
)
def test_a_bar_whose_line_above_names_other_work_says_nothing(line, total):
    first, later = (f"{100 * step // total:3}%|██        | {step}/{total} [00:10<00:20, 4.20it/s]" for step in (0, 100))

    assert read_progress(f"{line}\n{first}\n{later}", {"epochs": 3}) is None


@pytest.mark.parametrize("total", [100, 250, 5000])
@pytest.mark.parametrize("between", ["", "{'loss': '0.41', 'epoch': '0.15'}\n", "some word\n\n"])
@pytest.mark.parametrize("name", ["", "my-job: "])
def test_a_bar_that_begins_below_an_unfinished_one_says_nothing(name, between, total):
    training = f"{name}  5%|▌         | 120/2400 [01:00<19:00,  2.00it/s]\n"
    evaluation = "".join(
        f"{100 * step // total:3}%|██        | {step}/{total} [00:10<00:20, 4.20it/s]\n" for step in (0, 99)
    )

    assert read_progress(training + between + evaluation, {}) == Progress(0.05, 120, 2400)


@pytest.mark.parametrize("number", ["1200", "1,200", "   1200", "'1200'", '"1,200"'])
@pytest.mark.parametrize(
    "line",
    [
        "step {}",
        "step={}, skipped=0",
        "[Rank 0] step = {} samples/sec: 3",
        "iter: {}, loss: 0.1",
        "steps: {} loss: 0.1",
        "Iteration {}: val loss 0.3",
        "global_step={}, saved 3 files",
    ],
)
def test_a_step_is_read_however_its_number_is_written(line, number):
    assert read_progress(line.format(number), {"steps": 10_000}) == Progress(0.12, 1200, 10_000)


@pytest.mark.parametrize(
    "line",
    [
        "Epoch [3][50/2500] loss: 0.3",
        "Epoch: [3][  50/2500]\tLoss 0.3",
        "Epoch(train)  [ 3][  50/2500]  lr: 2e-2",
        "Train Epoch: 3 [50/2500 (2%)]\tLoss: 0.3",
        "epoch 3, batch 50 of 2500",
        "Epoch 3/12 - step 50/2500",
        "EPOCH 3:   2%|▏         | 50/2500 [00:10<08:10,  5.00it/s]",
        "     3/12      10.4G     0.46     640:   2%|▏         | 50/2500 [00:10<08:10,  5.00it/s]",
    ],
)
def test_batches_are_put_into_the_epoch_that_the_line_names(line):
    assert read_progress(line, {"max_epochs": 12}) == Progress(5050 / 30_000, 5050, 30_000)


@pytest.mark.parametrize("before", ["validation ", "[eval] ", "Sampling: ", "val_"])
@pytest.mark.parametrize("count", ["step 120/1000", "step=120", "steps: 120 loss: 0.1"])
def test_a_step_of_other_work_is_none_of_the_trainings(before, count):
    assert read_progress(before + count, STEPS) is None


@pytest.mark.parametrize("rate", ["120.5MB/s", "2.1s/file", "12.1kit/s", "12157.40it/s", "9.2 tokens/s", "8.1key/s"])
@pytest.mark.parametrize("training_input", [STEPS, {}])
def test_a_bar_with_another_rate_is_not_the_trainings(rate, training_input):
    assert read_progress(f"lora:  12%|█▏        | 120/1000 [01:05<07:56, {rate}]", training_input) is None


def test_a_long_log_without_a_bar_has_no_progress():
    assert read_progress("lorem ipsum 12 dolor\n" * 100_000, STEPS) is None


def test_a_bar_is_found_behind_the_redraws_of_an_upload():
    bar = "lora:  12%|█▏        | 120/1000 [01:05<07:56,  1.85it/s]\n"
    upload = "Uploading weights:   3%|▎         | 5.0M/172M [00:01<00:30, 5.5MB/s]\r"

    assert read_progress(bar + upload * 1000, STEPS) == Progress(0.12, 120, 1000)


def test_a_bar_at_the_end_of_an_endless_line_is_found():
    assert read_progress("x" * 3_000_000 + " train:  12%|█▏| 120/1000", STEPS) == Progress(0.12, 120, 1000)


@pytest.mark.parametrize("unit", ["| 1/2 ", "iter 1/9 ", "train 1it [x] ", "1/1000 "])
def test_of_a_line_full_of_counts_the_last_ones_say_it(unit):
    assert read_progress(unit * 200 + "| 500/1000", STEPS) == Progress(0.5, 500, 1000)


@pytest.mark.parametrize("width", [160, 1990])
@pytest.mark.parametrize("unit", ["|1/2", "iter 1/2 ", "1it [x] ", "step 3/2 ", "1 of 1 "])
def test_reading_ends_after_thousands_of_other_counts(unit, width):
    training = "train:  12%|█▏| 120/1000\n"
    line = unit * (width // len(unit)) + "\n"
    counts = width // len(unit)

    assert read_progress(training + line * (1_000 // counts), STEPS) == Progress(0.12, 120, 1000)
    assert read_progress(training + line * (5_000 // counts), STEPS) is None


@pytest.mark.parametrize(
    ("training_input", "steps"),
    [
        ({"steps": 1000}, 1000),
        ({"max_train_steps": 1000.0}, 1000),
        ({"num_train_steps": "1000"}, 1000),
        ({"max_steps": -1, "num_train_epochs": 3, "steps_per_epoch": 100}, 300),
        ({"epochs": 2, "updates_per_epoch": 2000}, 4000),
        ({"num_train_epochs": 3}, None),
        ({}, None),
        ({"steps": 0}, None),
        ({"steps": True}, None),
        ({"steps": None}, None),
        ({"steps": 0.5}, None),
        ({"steps": float("nan")}, None),
        ({"steps": float("inf")}, None),
        ({"steps": 2**31}, None),
        ({"steps": "9" * 5000}, None),
        ({"steps": "\u0661"}, None),
        ({"steps": [1000]}, None),
        ({"epochs": 2**30, "updates_per_epoch": 2**30}, None),
        ({"total_iter": 1000}, 1000),
        ({"train_iters": 1000}, 1000),
        ({"maxTrainSteps": 1000}, 1000),
        ({"warmup_steps": 100, "save_steps": 50, "steps_per_print": 10}, None),
        ({"num_steps": 28, "max_train_steps": 1000}, 1000),
    ],
    ids=lambda value: str(value)[:50],
)
def test_the_number_of_steps_is_taken_from_a_valid_input(training_input, steps):
    assert configured_steps(training_input) == steps


@pytest.mark.parametrize(
    "line", ["", "{", "[]", '{"id": "a", "logs": 3}', '{"id": "a", "logs": "", "input": []}', "[" * 100_000]
)
def test_a_bad_line_is_answered_as_such(line):
    said = json.loads(progress_line(line))

    assert said.pop("detail")
    assert said == {"id": "a" if '"id"' in line else None, "error": "bad_line"}


def test_what_a_line_does_not_say_is_not_known():
    assert json.loads(progress_line('{"id": 1}')) == {"id": 1, "progress": None, "step": None, "total": None}


# Whatever comes: no error, and never a progress that is none.

_WORDS = [
    *(
        "train",
        "flux_train_replicate",
        "Steps",
        "step ",
        "iter ",
        "Epoch",
        "Epochs: ",
        "Epoch0",
        "Caching latents",
        "Map",
    ),
    *(
        ": ",
        " 12%|",
        "100%|",
        "██████",
        "| ",
        "|",
        "120/1000",
        "12/12",
        "1.20k/2.00k",
        "/",
        " of ",
        "0",
        "1",
        "7",
        "1000",
    ),
    *(
        " [01:05<07:56, 1.85it/s",
        ", loss=0.1]",
        "5.5MB/s]",
        "]",
        "it [",
        "{",
        "'epoch': ",
        '"step": ',
        '"total": ',
        "}",
    ),
    *("\n", "\r", "\x1b[32m", "\x00", "Caption for ", "Progress: ", "%", "k", "9" * 12, ".", ",", "\u0661", "\ud800"),
    *("step 5/9m", "step 1.5G/9\u212a", "1,200", ",000", " MiB"),
    *(
        "Epoch [3][",
        "Epoch(train) [",
        "━━━━",
        "[===",
        " 3/12 ",
        "2|250|Loss: ",
        "steps: ",
        "'global_step/max_steps': '5/9'",
    ),
    *("loading image sizes.\n", "it/s", "epoch=3", "'epoch': '1.5'", "Epoch 2/3\n", " 50%|", "\u2019000", "(4.00%)"),
    *("Total optimization steps = 7\n", "EPOCH: 0/10\n", " 7/9 [01:05<", "epoch:  50%|██| 1/2 [", "while training: "),
]
_LOGS = st.lists(st.sampled_from(_WORDS), max_size=25).map("".join) | st.text(max_size=60)
_NUMBERS = st.integers(-1, 3000) | st.floats() | st.text(max_size=4) | st.none() | st.booleans() | st.just(2**31 - 1)
_INPUTS = st.dictionaries(
    st.sampled_from(["steps", "max_train_steps", "num_train_epochs", "epochs", "steps_per_epoch"]), _NUMBERS, max_size=3
)


def test_a_bar_of_epochs_past_its_end_is_the_whole():
    log = "Epochs: 150%|███████| 15/10 [00:10<00:00,  1.5it/s]\n"

    assert read_progress(log, {"epochs": 10, "steps_per_epoch": 10}) == Progress(1.0)


@settings(max_examples=500)
@given(_LOGS | st.lists(_LOGS | st.none() | st.integers(), max_size=3) | st.none(), _INPUTS)
def test_whatever_the_log_progress_is_a_share(logs, training_input):
    progress = read_progress(logs, training_input)

    if progress is not None:
        assert 0 <= progress.fraction <= 1
        assert (progress.step is None) == (progress.total is None)
    if progress is not None and progress.step is not None and progress.total is not None:
        assert 0 <= progress.step <= progress.total <= 2**31 - 1
        assert progress.fraction == progress.step / progress.total


@settings(max_examples=200)
@given(_LOGS, _INPUTS)
def test_whatever_the_log_the_filter_answers_with_one_line(logs, training_input):
    said = progress_line(json.dumps({"id": "a", "logs": logs, "input": training_input}))

    assert "\n" not in said
    assert set(json.loads(said)) == {"id", "progress", "step", "total"}


@settings(max_examples=200)
@given(st.integers(0, 1000), st.integers(1, 1000), st.text(st.characters(codec="utf-8"), max_size=20))
def test_a_bar_of_the_requested_steps_needs_no_name(step, steps, above):
    bar = f"lora: {100 * step // steps:3}%|███   | {min(step, steps)}/{steps} [00:01<00:01,  9.1it/s]"

    progress = read_progress(f"{above}\n{bar}\n", {"steps": steps})

    assert progress == Progress(min(step, steps) / steps, min(step, steps), steps)
