"""
How long do the parsers take on hostile input, and how often are they right? Run it: ``python -m tests.bench.parsers``.

First the time against the size: a parser that keeps its promise grows with the size or stops growing. Then, on the
samples under ``tests/fixtures``, ours beside what the official Python client does with the same logs and outputs.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Final

from services.extractor.errors import NoModel
from services.extractor.filter import extract
from services.extractor.outputs import find_model
from shared.contract.identity import ModelName
from shared.replicate.progress import read_progress
from shared.replicate.training import Training

FIXTURES: Final = Path(__file__).parents[1] / "fixtures"
SIZES: Final = (1_000, 10_000, 100_000, 1_000_000, 4_000_000)
VERSION: Final = "925da5f563c07bb620a3bf3cc2185079b1cfc7d62f47a9c234e67dbc36eab738"
DESTINATION: Final = ModelName("acme", "u-42")

#: What a log of one kind consists of, over and over; none holds a count of the training's own.
LOGS: Final = {
    "free text": "lorem ipsum dolor sit amet 12 consectetur\n",
    "line breaks": "\n",
    "two-character lines": "1\n",
    "one line of digits": "1",
    "one line of spaces": " ",
    "one line of pipes": "|",
    "one line of bars' ends": "|1/1",
    "one line of open brackets": "| 1/2 [",
    "one line of escapes": "\x1b[",
    "one line of 'epoch 1 '": "epoch 1 ",
    "ratios": "1/1\n",
    "bars of a cache": "Caching latents: 100%|██████████| 12/12 [00:05<00:00,  2.40it/s]\n",
    "redraws of an upload": "Uploading weights:   3%|▎         | 5.0M/172M [00:01<00:30, 5.5MB/s]\r",
    "unnamed bars": "100%|██████████| 12/12 [00:05<00:00,  2.40it/s]\n",
    "lines full of bars' ends": "| 1/2" * 33 + "\n",
    "lines full of steps": "iter 1/1 " * 222 + "\n",
    "lines full of half a step": "step 1/" * 24 + "\n",
    "lines full of endless bars": "1it [x] " * 250 + "\n",
    "lines full of ratios": "1/1 " * 40 + "\n",
    "lines full of epochs' bars": "Epochs: 1%| 1/3" * 10 + "\n",
    "tables of percentages": "1200 (4.00%)\n",
    "batches of an unknown number": "Epoch [3][50/2500]\n",
    "epochs at the start": "    3/12   640: 100%|██████████| 160/160 [01:52<00:00,  1.14s/it]\n",
    "bars behind counts": " 45/100 ━━━━━━━━━ 5s 90ms/step\n",
    "other work, then a bar": "loading image sizes.\n100%|██████████| 225/225 [00:05<00:00,  2.40it/s]\n",
    "one line of padding": "step" + " " * 12,
    "one line of grouped numbers": "step 1,000",
    "epochs of an unknown number": "Epoch 1:  50%|█████     | 5/10 [00:01<00:01]\n",
}
INPUTS: Final[tuple[dict[str, Any], ...]] = ({"steps": 1000}, {"epochs": 3, "steps_per_epoch": 1})

#: An output of about so many characters.
OUTPUTS: Final[dict[str, Callable[[int], Any]]] = {
    "long text": lambda size: {"version": "a" * size},
    "long hexadecimal text": lambda size: {"version": "acme/u-42:" + "a" * size},
    "long address": lambda size: {"version": "https://replicate.com/" + "a/" * (size // 2)},
    "long host of a file": lambda size: "https://" + "a." * (size // 2),
    "many texts": lambda size: ["acme/u-42"] * (size // 12),
    "many lists in texts": lambda size: ["[" + "1," * 99 + "1]"] * (size // 205),
    "almost versions beside one": lambda size: {"version": VERSION, "model_version": ("0" * 63 + " ") * (size // 64)},
    "many versions": lambda size: {"version": [f"{number:064x}" for number in range(size // 67)]},
    "deep JSON in a text": lambda size: "[" * size,
    "long JSON in a text": lambda size: json.dumps([VERSION] * (size // 68)),
}


def main() -> None:
    """Print the tables."""
    print(f"{'milliseconds of one parse at characters:':45}" + "".join(f"{size:>12,}" for size in SIZES))
    for kind, unit in LOGS.items():
        for training_input in INPUTS:
            print_times(f"{kind}, {training_input}", partial(repeated, unit), partial(read_log, training_input))
    for kind, make in OUTPUTS.items():
        print_times(f"output: {kind}", make, find_or_refuse)
    print()
    print_score("logs", [*(FIXTURES / "logs").glob("*.json")], our_progress, official_progress, is_same_progress)
    print_score("outputs", [*(FIXTURES / "outputs").glob("*.json")], our_model, official_model, is_same_model)


# Time against size.


def print_times(kind: str, make: Callable[[int], Any], parse: Callable[[Any], object]) -> None:
    values = map(make, SIZES)
    print(f"{kind:45}" + "".join(f"{milliseconds(parse, value):>12.2f}" for value in values))


def milliseconds(parse: Callable[[Any], object], value: Any) -> float:
    """Of the processor, the best of three: the machine may have other things to do."""
    best = float("inf")
    for _ in range(3):
        began = time.process_time()
        parse(value)
        best = min(best, time.process_time() - began)
    return best * 1000


def repeated(unit: str, size: int) -> str:
    return (unit * (size // len(unit) + 1))[:size]


def read_log(training_input: dict[str, Any], log: str) -> None:
    read_progress(log, training_input)


def find_or_refuse(output: Any) -> None:
    try:
        find_model(output, destination=DESTINATION, trainer="ostris/flux-dev-lora-trainer", trainer_version="0" * 64)
    except NoModel:
        return


# Rights and wrongs, beside the official Python client (replicate 1.0.7).

Answer = Any


def print_score(
    what: str,
    paths: list[Path],
    ours: Callable[[Any], Answer],
    official: Callable[[Any], Answer],
    is_same: Callable[[Any, Answer], bool],
) -> None:
    samples = [json.loads(path.read_text()) for path in paths]
    for name, read in (("ours", ours), ("official client", official)):
        said = [(sample["expect"], read(sample)) for sample in samples]
        right = [answer for expected, answer in said if is_same(expected, answer)]
        silent = [answer for expected, answer in said if answer is None and not is_same(expected, answer)]
        wrong = len(said) - len(right) - len(silent)
        print(f"{what:10}{name:18}{len(right):>5} right{len(silent):>5} unknown{wrong:>5} wrong   of {len(said)}")


def our_progress(sample: Any) -> Answer:
    progress = read_progress(sample["logs"], sample["input"])
    return progress and 100 * progress.fraction


def official_progress(sample: Any) -> Answer:
    """The last line that matches; its counts instead of its rounded percentage, in its favour."""
    lines = sample["logs"].splitlines() if isinstance(sample["logs"], str) else []
    for line in reversed(lines):
        bar = re.match(r"^\s*(\d+)%\s*\|.+?\|\s*(\d+)/(\d+)", line)
        if bar:
            return 100 * int(bar[2]) / int(bar[3])
    return None


def is_same_progress(expected: Any, answer: Answer) -> bool:
    if expected["progress"] is None or answer is None:
        return expected["progress"] is answer
    return bool(abs(expected["progress"] - answer) <= 0.05)


def our_model(sample: Any) -> Answer:
    destination = sample["destination"] and ModelName.parse(sample["destination"])
    try:
        found = extract(Training.model_validate(sample["training"]), destination)
    except NoModel:
        return None
    return f"{found.model}"


def official_model(sample: Any) -> Answer:
    """It parses ``output.version`` while it reads the training, and raises where that is no reference: no answer."""
    match sample["training"]["output"]:
        case {"version": str(version)}:
            reference = re.match(r"^([^/]+)/([^/:]+):(.+)$", version)
            return reference and version
    return None


def is_same_model(expected: Any, answer: Answer) -> bool:
    return bool(answer == (f"{expected['model']}:{expected['version']}" if "model" in expected else None))


if __name__ == "__main__":
    main()
