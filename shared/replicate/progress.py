"""
How far does a training's log say it is? Pure.

Trainers write for people: a bar for each thing they do, redrawn over and over between free text. So a log is read from
its end, and the first count that is the training's own decides. What tells it from downloads, caches and samples:

1. a word or unit that names other work (``Caching latents``, ``5.5MB/s``) rules it out, whatever it counts to, but for
   a bar with a learning rate: people call their jobs anything, and nothing else learns;
2. else it counts to the number of steps that the training was asked for;
3. or it shows a loss, or calls itself training, step or epoch;
4. or nobody said how many steps there are, and it is long: preparations walk over a handful of images.

A count within one epoch is put in its place among all epochs. What says less (a percentage, an epoch, a step of an
unknown total) is used only where nothing counts. In doubt there is no progress: the product can estimate, but it can
not take back a 100 % that was a download's.

Logs are long and may be hostile, so the work is bounded: the last `_MOST_CHARACTERS`, in at most `_MOST_LINES` lines,
of each line its last `_LONGEST_LINE`, by expressions that pass over it once, until `_MOST_COUNTS` were found.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from typing import Any, Final, NamedTuple

_MOST_CHARACTERS: Final = 200_000
_MOST_LINES: Final = 2_500
_LONGEST_LINE: Final = 2_000
_MOST_COUNTS: Final = 3_000
#: In text, where all that stands before a count is read to judge it.
_MOST_COUNTS_IN_LINE: Final = 8
#: So many mentions of an epoch are looked at for a heading.
_MOST_MENTIONS: Final = 100
_MOST_STEPS: Final = 2**31 - 1


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a training is: always as a fraction (0..1), in steps where the log counts them."""

    fraction: float
    step: int | None = None
    total: int | None = None


def read_progress(logs: str | list[Any] | None, training_input: Mapping[str, Any]) -> Progress | None:
    """How far *logs* say the training with this input is; None when they do not say."""
    log = _Log(_text(logs))
    plan = _plan(training_input)
    hint: Progress | None = None
    for line in log.lines_from_the_end():
        counts = _counts(line, plan, log)
        for count in reversed(counts):
            progress = _overall(count, plan, log) if _is_training(count, plan) else None
            if progress:
                return progress
        if not (counts or hint):
            hint = _hint(line, plan, log)
    return hint


def configured_steps(training_input: Mapping[str, Any]) -> int | None:
    """How many steps a training with this input is to take; None when it does not say."""
    return _plan(training_input).steps


# What the training was asked for.

_STEPS: Final = (
    "steps",
    "max_train_steps",
    "num_train_steps",
    "train_steps",
    "training_steps",
    "max_training_steps",
    "num_training_steps",
    "max_steps",
    "num_steps",
    "total_steps",
    "iterations",
    "max_iterations",
    "num_iterations",
)
_EPOCHS: Final = ("num_train_epochs", "max_train_epochs", "epochs", "num_epochs", "max_epochs", "n_epochs")
_STEPS_PER_EPOCH: Final = ("steps_per_epoch", "updates_per_epoch")


@dataclass(frozen=True, slots=True)
class _Plan:
    steps: int | None
    epochs: int | None
    steps_per_epoch: int | None


def _plan(training_input: Mapping[str, Any]) -> _Plan:
    steps, epochs, steps_per_epoch = (
        next(filter(None, (_whole_number(training_input.get(name)) for name in names)), None)
        for names in (_STEPS, _EPOCHS, _STEPS_PER_EPOCH)
    )
    if steps is None and epochs and steps_per_epoch:
        steps = _whole_number(epochs * steps_per_epoch)
    return _Plan(steps, epochs, steps_per_epoch)


def _whole_number(value: Any) -> int | None:
    """Of steps or epochs, also as a form sends it. Zero and less mean that it is not set."""
    if isinstance(value, str) and re.fullmatch(r"[0-9]{1,10}", value):
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value <= _MOST_STEPS:
        return None
    return int(value) if value == int(value) else None


# The log's lines, last one first.

_COLOUR: Final = re.compile(r"\x1b\[[0-9;?]{0,20}[A-Za-z]")
#: What users wrote, or what a model wrote about their images.
_FREE_TEXT: Final = re.compile(r"[\W_]{0,40}(?:caption|prompt)s?\b", re.IGNORECASE)


def _text(logs: str | list[Any] | None) -> str:
    if isinstance(logs, list):
        return "\n".join(part for part in logs if isinstance(part, str))
    return logs or ""


class _Log:
    """A log, and what is known of it as a whole."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._counts_left = _MOST_COUNTS
        #: Where the line begins that is being read.
        self._at = len(text) + 1
        self._heading: re.Match[str] | None = None
        self._heading_at = len(text) + 1

    def lines_from_the_end(self) -> Iterator[str]:
        lines = self._text[-_MOST_CHARACTERS:].replace("\r", "\n").split("\n")
        for line in islice(reversed(lines), _MOST_LINES):
            if self._counts_left <= 0:
                return
            self._at -= len(line) + 1
            plain = _COLOUR.sub("", line) if "\x1b" in line else line
            if plain and not _FREE_TEXT.match(plain):
                yield plain[-_LONGEST_LINE:]

    def find(self, count: re.Pattern[str], line: str) -> list[re.Match[str]]:
        """Where *count* stands in *line*. Each one found brings the reading of the log nearer to its end."""
        found = list(count.finditer(line))
        self._counts_left -= len(found)
        return found

    def heading(self) -> re.Match[str] | None:
        """``Epoch 2/3``, the nearest that stands on a line of its own above the one that is being read."""
        if self._heading_at < self._at:
            return self._heading
        self._heading, self._heading_at, at = None, -1, self._at
        for _ in range(_MOST_MENTIONS):
            at = self._text.rfind("poch", 0, at)
            if at < 0:
                break
            around = _HEADING.finditer(self._text, max(0, at - 40), at + 60)
            self._heading = next((heading for heading in around if heading.start() < at < heading.end()), None)
            if self._heading:
                self._heading_at = at
                break
        return self._heading

    @cached_property
    def first_epoch(self) -> int:
        """Some trainers number their epochs from 0."""
        return 0 if _EPOCH_ZERO.search(self._text) else 1

    @cached_property
    def epochs_over(self) -> dict[int, int]:
        """The last bars that count epochs: by how many there are, how many are over."""
        last = {total: over for over, total in _EPOCHS_BAR.findall(self._text)}
        return {int(total): int(over) for total, over in last.items()}


# What a line counts, in the order in which it stands there.


class _Count(NamedTuple):
    """So many of so many, and what stands around it."""

    before: str
    step: int
    total: int
    percent: int | None = None
    #: What a bar says in its brackets: times, rate, loss.
    after: str = ""
    #: It calls itself a count of steps.
    of_steps: bool = False


_SCALES: Final = {"k": 10**3, "m": 10**6, "g": 10**9}
_NUMBER: Final = r"(\d{1,3}(?:,\d{3}){1,3}|\d{1,12}(?:\.\d{1,6})?[kKMG]?)"
_OF: Final = r"\s{0,3}(?:/|of|out of)\s{0,3}"
_END: Final = r"(?![\w/]|[.,:-]\d)"
_BAR: Final = re.compile(rf"\|\s{{0,9}}{_NUMBER}/{_NUMBER}{_END}(?:\s?\[([^\[\]]*))?")
_BAR_HEAD: Final = re.compile(r"(\d{1,3})%\|[^|]*$")
_ENDLESS_BAR: Final = re.compile(rf"(?<![\w.]){_NUMBER}it \[([^\[\]]*)")
_STEP_OF: Final = re.compile(
    rf"(?<![a-z])(?:steps?|iter(?:ation)?s?)[\s:=#(\[]{{0,3}}{_NUMBER}{_OF}{_NUMBER}{_END}", re.IGNORECASE
)
#: Not of bytes.
_RATIO: Final = re.compile(rf"(?<![\w.:/,-]){_NUMBER}{_OF}{_NUMBER}{_END}(?!\s?[kKMGT]?i?B\b)")
_STEP_FIELD: Final = re.compile(r"""["'](?:global_|current_)?step["']\s{0,3}:\s{0,3}(\d{1,12})\b""")
_TOTAL_FIELD: Final = re.compile(r"""["'](?:total|total_steps|max_steps|num_steps)["']\s{0,3}:\s{0,3}(\d{1,12})\b""")


def _counts(line: str, plan: _Plan, log: _Log) -> list[_Count]:
    counts = _bars(line, log) or _endless_bars(line, plan, log) or _steps_in_text(line, plan, log)
    return counts or _steps_in_fields(line, plan)


def _bars(line: str, log: _Log) -> list[_Count]:
    """``name:  12%|█▏        | 120/1000 [01:05<07:56, 1.85it/s, loss=0.1]``, or as much of it as is left."""
    counts: list[_Count] = []
    end = 0
    for bar in log.find(_BAR, line) if "|" in line else ():
        before = line[end : bar.start()]
        end = bar.end()
        head = _BAR_HEAD.search(before)
        counts.append(
            _Count(
                before[: head.start()] if head else before,
                _unscaled(bar[1]),
                _unscaled(bar[2]),
                percent=int(head[1]) if head else None,
                after=bar[3] or "",
            )
        )
    return counts


def _endless_bars(line: str, plan: _Plan, log: _Log) -> list[_Count]:
    """``train: 1200it [10:00, 2.00it/s]``: how far it goes is known from the input only."""
    if plan.steps is None or "it [" not in line:
        return []
    bars = log.find(_ENDLESS_BAR, line)[-_MOST_COUNTS_IN_LINE:]
    counts = [_Count(line[: bar.start()], _unscaled(bar[1]), plan.steps, after=bar[2]) for bar in bars]
    return [count for count in counts if count.step and (_TRAINING.search(count.before) or _shows_loss(count))]


def _steps_in_text(line: str, plan: _Plan, log: _Log) -> list[_Count]:
    """``step 120/1000``, ``iter 120 of 1000``; any ``120/1000`` where 1000 steps were asked for."""
    steps = [
        _Count(line[: match.start()], _unscaled(match[1]), _unscaled(match[2]), of_steps=True)
        for match in (log.find(_STEP_OF, line) if _holds(line, "step", "iter") else ())[-_MOST_COUNTS_IN_LINE:]
    ]
    if steps or plan.steps is None:
        return steps
    matches = log.find(_RATIO, line) if "/" in line or "of" in line else ()
    ratios = [_Count(line, _unscaled(match[1]), _unscaled(match[2])) for match in matches]
    return [ratio for ratio in ratios if ratio.step <= ratio.total == plan.steps][-_MOST_COUNTS_IN_LINE:]


def _steps_in_fields(line: str, plan: _Plan) -> list[_Count]:
    """``{"step": 120, "total_steps": 1000}``"""
    step = _STEP_FIELD.search(line) if line.lstrip().startswith("{") else None
    total = _TOTAL_FIELD.search(line) if step else None
    of = int(total[1]) if total else plan.steps
    return [_Count(line, int(step[1]), of, of_steps=True)] if step and of else []


def _unscaled(number: str) -> int:
    """``1.20k`` and ``1,200`` are 1200."""
    number = number.replace(",", "")
    if number.isdecimal():
        return int(number)
    scale = _SCALES.get(number[-1].lower())
    return round(float(number[:-1]) * scale) if scale else round(float(number))


# Is it the training that is counted?

_OTHER_VERBS: Final = (
    "cach load download upload fetch extract unpack unzipp sav sampl generat evaluat validat test mapp filter tokeniz "
    "caption encod decod embedd preprocess process prepar precomput comput upscal resiz cropp mask segment detect "
    "quantiz convert merg fus import infer denois render resolv creat read writ copy push pull compress scann check "
    "verify build install collect index pack skipp warm"
)
_OTHER_NOUNS: Final = (
    "map filter load download upload eval evaluate evaluation val valid validation inference generate samples caption "
    "captions prompt prompts images files shards examples dataset tokenizer latents oom gpus"
)
_OTHER_WORDS: Final = frozenset(_OTHER_NOUNS.split()).union(
    verb + end for verb in _OTHER_VERBS.split() for end in ("ing", "ed")
)
# A job's name may hold any word; its parts are joined by hyphens and underscores.
_WORD: Final = re.compile(r"(?<![\w-])[a-z]+(?![\w-])")
_FILE: Final = re.compile(
    r"\.(?:safetensors|bin|pt|pth|ckpt|tar|gz|zip|json|jpe?g|png|webp|model|gguf|parquet|txt)\b", re.IGNORECASE
)
_OTHER_RATE: Final = re.compile(r"(?:B|example|file|image|img|row|doc|token|tok|record|line|page)s?/s|s/(?:file|image)")
_TRAINING: Final = re.compile(r"(?<![a-z])(?:train|step|epoch|iter|fine-?tun)", re.IGNORECASE)
_LEARNING_RATE: Final = re.compile(r"\blr\b", re.IGNORECASE)
_LETTER: Final = re.compile(r"[a-z]", re.IGNORECASE)
#: Preparations are shorter.
_LONG: Final = 100
#: A trainer may round to whole epochs.
_ROUNDING: Final = 0.05


def _is_training(count: _Count, plan: _Plan) -> bool:
    return 0 < count.total <= _MOST_STEPS and _may_be_training(count, plan) and not _is_other_work(count)


def _may_be_training(count: _Count, plan: _Plan) -> bool:
    if plan.steps and count.total in (plan.steps, plan.steps * (plan.epochs or 1), plan.steps_per_epoch):
        return True
    if count.step > count.total or not _agrees_with_percent(count):
        return False
    if _shows_loss(count) or _counts_in_epoch(count) or _counts_epochs(count, plan):
        return True
    if plan.steps is None:
        return count.total >= _LONG or count.of_steps or _TRAINING.search(count.before) is not None
    is_near = abs(count.total - plan.steps) <= plan.steps * _ROUNDING
    return is_near and (count.of_steps or _LETTER.search(count.before) is not None)


def _shows_loss(count: _Count) -> bool:
    return _holds(count.after, "loss") or _shows_learning_rate(count)


def _shows_learning_rate(count: _Count) -> bool:
    return _holds(count.after, "lr") and _LEARNING_RATE.search(count.after) is not None


def _counts_in_epoch(count: _Count) -> bool:
    return _holds(count.before, "epoch") and _EPOCH.search(count.before) is not None


def _holds(text: str, *words: str) -> bool:
    """Most lines hold none of the *words* that matter; this says so sooner than any expression."""
    text = text.lower()
    return any(word in text for word in words)


def _is_other_work(count: _Count) -> bool:
    if _shows_learning_rate(count):
        return False
    rate = count.after.split(",")[1:2]
    return _names_other_work(count.before) or bool(rate and _OTHER_RATE.search(rate[0]))


def _names_other_work(text: str) -> bool:
    return not _OTHER_WORDS.isdisjoint(_WORD.findall(text.lower())) or _FILE.search(text) is not None


def _agrees_with_percent(count: _Count) -> bool:
    """A log that is cut within a total shows another share than the bar's own percentage."""
    return count.percent is None or abs(count.step / count.total * 100 - count.percent) <= 1.5  # noqa: PLR2004


# Where in the whole training is that?

_EPOCH: Final = re.compile(
    r"(?<![a-z])epoch[\s:#(\[]{0,3}(\d{1,6})(?:\s?(?:/|of)\s?(\d{1,6}))?(?![\d.%])", re.IGNORECASE
)
#: Of what stands below. A bar that counts steps may count those of all epochs.
_HEADING: Final = re.compile(
    r"(?<![^\r\n])[^\w\r\n]{0,20}(?:(?:start|train)(?:ing)?\s)?epoch[\s:#]{0,3}(\d{1,6})(?:\s?(?:/|of)\s?(\d{1,6}))?"
    r"[^\w\r\n]{0,20}(?![^\r\n])",
    re.IGNORECASE,
)
_EPOCH_ZERO: Final = re.compile(r"[Ee]poch\W{0,3}0(?![\d.%])")
#: Llama's ``Epoch0`` and Lightning's bars.
_NUMBERS_FROM_ZERO: Final = re.compile(r"epoch\d|\bv_num\b", re.IGNORECASE)
_EPOCH_FIELD: Final = re.compile(r"""["']epoch["']\s{0,3}:\s{0,3}(\d{1,6}(?:\.\d{1,20})?)""")
_EPOCHS_BAR: Final = re.compile(r"[Ee]pochs?\s{0,3}:\s{0,3}\d{1,3}%\|[^|\r\n]{0,300}\|\s?(\d{1,6})/(\d{1,6})")
_IS_EPOCHS: Final = re.compile(r"(?<![a-z])epochs?\W{0,9}$", re.IGNORECASE)
_STEP: Final = re.compile(
    r"(?<![a-z])(?:global_|train_)?(?:step|iter|iteration)[\s:=#]{0,3}(\d{1,12})(?![\w./]|[,']\d)", re.IGNORECASE
)
_PERCENT: Final = re.compile(
    r"(?<![a-z])(?:train|training|progress)[^\w%|]{0,80}(\d{1,3}(?:\.\d{1,6})?)\s?%(?!\|)", re.IGNORECASE
)


def _overall(count: _Count, plan: _Plan, log: _Log) -> Progress | None:
    if count.total == plan.steps:
        return _progress(count.step, count.total)
    if _IS_EPOCHS.search(count.before):
        return Progress(count.step / count.total) if _counts_epochs(count, plan) else None
    epoch = _EPOCH.search(count.before)
    if epoch and not _STEP.search(count.before):
        first = 0 if _NUMBERS_FROM_ZERO.search(count.before + count.after) else log.first_epoch
        return _in_epoch(count, int(epoch[1]) - first, _epochs(epoch, first) or plan.epochs, plan)
    if plan.epochs and plan.epochs in log.epochs_over:
        return _in_epoch(count, log.epochs_over[plan.epochs], plan.epochs, plan)
    heading = None if count.of_steps or _holds(count.before, "step") else log.heading()
    if heading:
        first = log.first_epoch
        return _in_epoch(count, int(heading[1]) - first, _epochs(heading, first) or plan.epochs, plan)
    return None if count.total == plan.steps_per_epoch else _progress(count.step, count.total)


def _counts_epochs(count: _Count, plan: _Plan) -> bool:
    """``Epochs: 33%|███▎      | 1/3``"""
    return count.total == plan.epochs and _IS_EPOCHS.search(count.before) is not None


def _epochs(epoch: re.Match[str], first: int) -> int:
    """How many epochs there are: who counts from 0 ends with ``Epoch 9/9``."""
    return int(epoch[2]) + 1 - first if epoch[2] else 0


def _in_epoch(count: _Count, epochs_before: int, epochs: int | None, plan: _Plan) -> Progress | None:
    total = count.total * epochs if epochs else plan.steps
    return _progress(count.total * max(0, epochs_before) + count.step, total) if total else None


def _progress(step: int, total: int) -> Progress:
    """A bar may run past its end."""
    step = min(step, total)
    return Progress(step / total, step, total) if total <= _MOST_STEPS else Progress(step / total)


def _hint(line: str, plan: _Plan, log: _Log) -> Progress | None:
    """What *line* says of the training without counting to its end."""
    hint = _hint_of_epoch(line, plan, log) or _hint_of_step(line, plan) or _hint_of_percent(line)
    return None if hint and _names_other_work(line) else hint


def _hint_of_epoch(line: str, plan: _Plan, log: _Log) -> Progress | None:
    """``Epoch 2/3``, ``{'loss': 0.41, 'epoch': 1.5}``"""
    field = _EPOCH_FIELD.search(line) if plan.epochs and line.lstrip().startswith("{") else None
    if field and plan.epochs:
        return Progress(min(1.0, float(field[1]) / plan.epochs))
    epoch = _EPOCH.search(line) if _holds(line, "epoch") else None
    before, epochs = (int(epoch[1]) - log.first_epoch, _epochs(epoch, log.first_epoch)) if epoch else (0, 0)
    return Progress(before / epochs) if 0 <= before < epochs else None


def _hint_of_step(line: str, plan: _Plan) -> Progress | None:
    """``global_step=120`` of as many as were asked for"""
    step = _STEP.search(line) if plan.steps and _holds(line, "step", "iter") else None
    if step and plan.steps and int(step[1]) <= plan.steps:
        return _progress(int(step[1]), plan.steps)
    return None


def _hint_of_percent(line: str) -> Progress | None:
    """``Progress: 42%``"""
    percent = _PERCENT.search(line) if "%" in line else None
    return Progress(float(percent[1]) / 100) if percent and float(percent[1]) <= 100 else None  # noqa: PLR2004
