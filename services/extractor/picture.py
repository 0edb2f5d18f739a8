"""Is this a picture of something? Pure: it decodes bytes and looks at the colours."""

from __future__ import annotations

import struct
import zlib
from enum import StrEnum
from io import BytesIO
from typing import Final, cast

from PIL import Image

_FORMATS: Final = ("PNG", "JPEG", "WEBP")
#: More than any model draws for a plain prompt. A small file can claim to be larger than our memory, and while it is
#: looked at, each pixel takes eight bytes.
_MAX_PIXELS: Final = 4096 * 4096
#: A line of millions of pixels takes many times its own memory.
_MAX_SIDE: Final = 16_384
#: Out of 255: WebP spreads one colour over as many as 14 shades.
_NOISE: Final = 16
#: Whatever Pillow raises for a broken file of these formats.
_BROKEN: Final = (
    OSError,
    SyntaxError,
    ValueError,
    EOFError,
    IndexError,
    struct.error,
    zlib.error,
    Image.DecompressionBombError,
    Image.DecompressionBombWarning,
)


class Flaw(StrEnum):
    """What is wrong with a picture."""

    BROKEN = "broken_image"  #: No PNG, JPEG or WebP, or one that does not decode.
    BLANK = "blank_image"  #: One flat colour.


def find_flaw(data: bytes) -> Flaw | None:
    """What keeps *data* from being a picture of something, if anything does."""
    try:
        with Image.open(BytesIO(data), formats=_FORMATS) as image:
            if max(image.size) > _MAX_SIDE or image.width * image.height > _MAX_PIXELS:
                return Flaw.BROKEN
            # Pillow types this for all of its modes at once.
            bands = cast("tuple[tuple[int, int], ...]", image.convert("RGB").getextrema())
    except _BROKEN:
        return Flaw.BROKEN
    return Flaw.BLANK if all(high - low <= _NOISE for low, high in bands) else None
