"""The image of a prediction: a small PNG of waves, or blank. Pure."""

from __future__ import annotations

import math
import struct
import zlib
from functools import lru_cache
from typing import Final

_SIZE: Final = 96  # pixels, both ways
_SIGNATURE: Final = b"\x89PNG\r\n\x1a\n"
_RGB: Final = 2
#: Brightness along a diagonal; a row is a window into it, one step further than the row above.
_WAVE: Final = bytes(int(127.5 * (1 + math.sin(i / 17) * math.cos(i / 41))) for i in range(256 + 4 * _SIZE))


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
