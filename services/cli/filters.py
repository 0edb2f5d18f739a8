"""How does a line-by-line question become a filter? Edge: bytes in, one line out for each, nothing ever stops it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import BinaryIO


def run_filter(answer: Callable[[str], str], source: Iterable[bytes], sink: BinaryIO) -> None:
    """
    Write *answer* of each line of *source* to *sink*, in order; blank lines have none.

    What is no UTF-8 reaches *answer* with a replacement character, which no JSON outside of a string may hold.
    """
    for line in source:
        if line.strip():
            sink.write(answer(line.decode("utf-8", "replace")).encode() + b"\n")
            sink.flush()
