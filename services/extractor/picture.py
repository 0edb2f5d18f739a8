"""Image check: decodes an image and refuses broken and blank ones. Pure."""

from __future__ import annotations

import struct
import zlib
from enum import StrEnum
from io import BytesIO
from typing import Final, cast

from PIL import Image

_FORMATS: Final = ("PNG", "JPEG", "WEBP")
#: More than any model produces for a plain prompt. A small file can claim a size beyond our memory, and decoding takes
#: eight bytes per pixel.
_MAX_PIXELS: Final = 4096 * 4096
#: A single line of millions of pixels takes many times its own size in memory.
_MAX_SIDE: Final = 16_384
#: Largest spread of a blank image's channel, out of 255: WebP spreads one colour over up to 14 shades.
_NOISE: Final = 16
#: The exceptions that Pillow raises for broken files of these formats.
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
    """The reason why an image is refused."""

    BROKEN = "broken_image"  #: Not a PNG, JPEG or WebP, too large, or not decodable.
    BLANK = "blank_image"  #: One flat colour.


def find_flaw(data: bytes) -> Flaw | None:
    """Return the flaw of the image in *data*, or None."""
    try:
        with Image.open(BytesIO(data), formats=_FORMATS) as image:
            if max(image.size) > _MAX_SIDE or image.width * image.height > _MAX_PIXELS:
                return Flaw.BROKEN
            # Pillow types this for all of its modes at once.
            bands = cast("tuple[tuple[int, int], ...]", image.convert("RGB").getextrema())
    except _BROKEN:
        return Flaw.BROKEN
    return Flaw.BLANK if all(high - low <= _NOISE for low, high in bands) else None
