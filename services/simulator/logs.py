"""
The log of a training so far: that of a Flux LoRA trainer, a text that only grows. Pure.

First the machine is prepared, with bars that are no progress of the training; then one bar per step, each on a line of
its own; then the checkpoint is saved. *share* is the part (0..1) of the run that is over.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import lru_cache
from itertools import accumulate
from typing import Final

from pydantic import JsonValue

#: The part of a run that is training, without preparation and saving.
_TRAINING: Final = (0.08, 0.97)
_DEFAULT_STEPS: Final = 1000
_MAX_STEPS: Final = 20_000
_WEIGHTS: Final = "https://weights.replicate.delivery/default/black-forest-labs/FLUX.1-dev/files.tar"
_CONFIG: Final = """\
{
"type": "custom_sd_trainer",
"training_folder": "output",
"device": "cuda:0",
"trigger_word": "%(trigger_word)s",
"network": {
"type": "lora",
"linear": 16,
"linear_alpha": 16
},
"train": {
"batch_size": 1,
"steps": %(steps)s,
"optimizer": "adamw8bit",
"lr": 0.0004
},
"sample": {
"sample_every": 250,
"sample_steps": 28
}
}
"""
#: What is written before the first step, and when. Captions are free text, so one of them looks like progress.
_PREPARATION: Final = (
    (0.0, "%(date)s | INFO  | [ Initiating ] chunk_size=150M dest=. url=%(weights)s\n"),
    (0.02, '%(later)s | INFO  | [ Complete ] dest=. size="34 GB" total_elapsed=26.188s url=%(weights)s\n'),
    (0.022, "Downloaded base weights in 26.606263875961304 seconds\nExtracted 12 files from zip to input_images\n"),
    (0.025, "Loading checkpoint shards:  33%%|███▎      | 1/3 [00:03<00:06,  3.13s/it]\n"),
    (0.03, "Loading checkpoint shards: 100%%|██████████| 3/3 [00:09<00:00,  3.13s/it]\n"),
    (0.035, "Caption for input_images/0.jpg: Photo of %(trigger_word)s, a person in a garden\n"),
    (0.04, "Caption for input_images/1.jpg: Photo of %(trigger_word)s below a sign: SALE 50%%| 3/4 of all\n"),
    (0.045, "Starting train job\n" + _CONFIG),
    (0.05, "Loading Flux model\nLoading transformer\nQuantizing transformer\nLoading vae\nLoading t5\n"),
    (0.06, "100%%|██████████| 12/12 [00:00<00:00, 30.00it/s]\n  -  Found 12 images\n"),
    (0.065, "Caching latents:  50%%|█████     | 6/12 [00:02<00:02,  2.40it/s]\n"),
    (0.07, "Caching latents: 100%%|██████████| 12/12 [00:05<00:00,  2.40it/s]\n"),
)
_PREPARED_AT: Final = tuple(at for at, _ in _PREPARATION)
_SAVED: Final = """\
Saved checkpoint to output/flux_train_replicate/flux_train_replicate.safetensors
output/flux_train_replicate/
output/flux_train_replicate/lora.safetensors
"""
_BLOCKS: Final = 10
_FILLER: Final = "/src/train.py:61: FutureWarning: `torch.cuda.amp.GradScaler(args...)` is deprecated.\n"


@dataclass(frozen=True, slots=True)
class Log:
    """The log of one training, at any point of its run."""

    steps: int
    trigger_word: str
    started_at: datetime
    run_seconds: float
    min_bytes: int = 0

    def position(self, share: float) -> int:
        """Return how much is written, in an arbitrary unit; equal positions mean equal texts."""
        return bisect_right(_PREPARED_AT, share) + self.step(share) + 1 + (share >= _TRAINING[1])

    def step(self, share: float) -> int:
        """Return the last step that has a bar; -1 before the first."""
        begin, end = _TRAINING
        if share < begin:
            return -1
        return min(self.steps, int((share - begin) / (end - begin) * self.steps))

    def text(self, share: float) -> str:
        written = self._preparation(share)
        step = self.step(share)
        if step >= 0:
            bars, ends = _bars(self.steps, self.run_seconds * (_TRAINING[1] - _TRAINING[0]))
            missing = self.min_bytes - len(written) - len(bars)
            written += _FILLER * (-(-max(0, missing) // len(_FILLER))) + bars[: ends[step]]
        return written + _SAVED if share >= _TRAINING[1] else written

    def _preparation(self, share: float) -> str:
        values = {
            "date": f"{self.started_at:%Y-%m-%dT%H:%M:%SZ}",
            "later": f"{self.started_at + timedelta(seconds=26):%Y-%m-%dT%H:%M:%SZ}",
            "weights": _WEIGHTS,
            "trigger_word": self.trigger_word,
            "steps": self.steps,
        }
        return "".join(text % values for _, text in _PREPARATION[: bisect_right(_PREPARED_AT, share)])


def steps_of(training_input: Mapping[str, JsonValue]) -> int:
    match training_input.get("steps"):
        case int(steps) if 0 < steps <= _MAX_STEPS:
            return steps
    return _DEFAULT_STEPS


@lru_cache(maxsize=16)
def _bars(steps: int, seconds: float) -> tuple[str, tuple[int, ...]]:
    """Return the lines of all steps as one text, and where each ends; cached for equal trainings."""
    lines = [_bar(step, steps, seconds) for step in range(steps + 1)]
    return "".join(lines), tuple(accumulate(map(len, lines)))


def _bar(step: int, steps: int, seconds: float) -> str:
    done = step / steps
    rate = steps / seconds
    speed = f"{rate:5.2f}it/s" if rate >= 1 else f"{1 / rate:5.2f}s/it"
    clock = f"{_clock(done * seconds)}<{_clock((1 - done) * seconds)}" if step else "00:00<?"
    loss = 0.25 + step * 37 % 97 / 400
    return (
        f"flux_train_replicate: {done:4.0%}|{_blocks(done)}| {step}/{steps} "
        f"[{clock}, {speed if step else '?it/s'}, lr: 4.0e-04 loss: {loss:.3e}]\n"
    )


def _blocks(done: float) -> str:
    """Return a bar of ten characters, the last one in eighths."""
    full, eighth = divmod(int(done * 8 * _BLOCKS), 8)
    return ("█" * full + " ▏▎▍▌▋▊▉"[eighth])[:_BLOCKS].ljust(_BLOCKS)


def _clock(seconds: float) -> str:
    minutes, seconds = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes:02}:{seconds:02}"
