"""A prediction at a given time: status, logs and output; the image that it makes. Pure."""

from __future__ import annotations

import math
import re
import struct
import zlib
from dataclasses import dataclass
from functools import lru_cache
from typing import ClassVar, Final

from pydantic import JsonValue

from services.simulator.faults import Behaviour, Faults, WebhookEvent
from services.simulator.job import NEVER, Job, Life, Status, describe, encode

_ERRORS: Final = {
    Behaviour.FAILS: "CUDA out of memory. Tried to allocate 20.00 MiB",
    Behaviour.UNSAFE: "NSFW content detected. Try running it again, or try a different prompt.",
}
_LOGS: Final = {
    Behaviour.WEIGHTS_GONE: "| ERROR | Failed to download weights: 404 Not Found\n",
}
_BAR: Final = "100%|██████████| 28/28 [00:06<00:00,  4.31it/s]\n"
_DURATION: Final = re.compile(r"(?=\d)(?:(\d+)h)?(?:(\d+)m)?(?:(\d+)s?)?")
_MIN_DEADLINE: Final = 5.0  # seconds
_SIZE: Final = 96  # pixels, both ways
_SIGNATURE: Final = b"\x89PNG\r\n\x1a\n"
_RGB: Final = 2
#: Brightness along a diagonal; a row is a window into it, one step further than the row above.
_WAVE: Final = bytes(int(127.5 * (1 + math.sin(i / 17) * math.cos(i / 41))) for i in range(256 + 4 * _SIZE))


@dataclass(frozen=True, slots=True, kw_only=True)
class Prediction(Job):
    """One prediction, from its first moment to its last."""

    behaviour: Behaviour
    #: Where its webhooks go; empty for nowhere.
    webhook: str = ""
    events: frozenset[WebhookEvent] = frozenset()
    #: Only trainings have some.
    faults: ClassVar[Faults] = Faults()

    @property
    def output_at(self) -> float:
        """When its output is available, in simulated seconds; `NEVER` if it makes none."""
        return self.last_moment if self.life.outcome is Status.SUCCEEDED else NEVER

    def log_position(self, seconds: float) -> int:
        return len(self._logs(seconds))

    def has_output(self, seconds: float) -> bool:
        return seconds >= self.output_at

    def webhook_body(self, seconds: float) -> bytes:
        return encode(self.describe(seconds))

    def describe(self, seconds: float) -> dict[str, JsonValue]:
        failed = self.life.status(seconds) is Status.FAILED
        body = describe(
            self,
            seconds,
            kind="predictions",
            output=[f"{self.api_url}/delivery/{self.id}/out-0.png"] if self.has_output(seconds) else None,
            logs=self._logs(seconds),
            error=_ERRORS[self.behaviour] if failed else None,
        )
        if self.webhook:
            body |= {"webhook": self.webhook, "webhook_events_filter": [*sorted(self.events)]}
        return body

    def _logs(self, seconds: float) -> str:
        return _LOGS.get(self.behaviour, "") + (_BAR if self.has_output(seconds) else "")


def planned_life(behaviour: Behaviour, *, boot_seconds: float, run_seconds: float, deadline_seconds: float) -> Life:
    """Return the life of a prediction; *deadline_seconds* is `NEVER` without a deadline."""
    match behaviour:
        case Behaviour.NEVER_STARTS | Behaviour.WEIGHTS_GONE:
            life = Life(NEVER, NEVER, Status.ABORTED)
        case Behaviour.FAILS | Behaviour.UNSAFE:
            life = Life(boot_seconds, boot_seconds + run_seconds, Status.FAILED)
        case Behaviour.WORKS | Behaviour.BLANK:
            life = Life(boot_seconds, boot_seconds + run_seconds, Status.SUCCEEDED)
    return life.cut(deadline_seconds, Status.ABORTED)


def parse_deadline(cancel_after: str) -> float | None:
    """Return the seconds in a header like ``90``, ``5m`` or ``1h30m``; None if malformed, or too few for Replicate."""
    match = _DURATION.fullmatch(cancel_after.strip())
    if match is None:
        return None
    hours, minutes, seconds = (int(part or 0) for part in match.groups())
    deadline = float(3600 * hours + 60 * minutes + seconds)
    return deadline if deadline >= _MIN_DEADLINE else None


@lru_cache(maxsize=64)
def png(seed: int, *, blank: bool = False) -> bytes:
    """Return a PNG that differs for each *seed*; of one colour if *blank*."""
    rows = (bytes(3 * _SIZE) if blank else _row(seed, y) for y in range(_SIZE))
    pixels = b"".join(b"\0" + row for row in rows)
    header = struct.pack(">IIBBBBB", _SIZE, _SIZE, 8, _RGB, 0, 0, 0)
    return _SIGNATURE + _chunk(b"IHDR", header) + _chunk(b"IDAT", zlib.compress(pixels, level=6)) + _chunk(b"IEND", b"")


def _row(seed: int, y: int) -> bytes:
    begin = seed % 256 + y
    return _WAVE[begin : begin + 3 * _SIZE]


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
