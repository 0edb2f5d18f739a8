"""Filters on standard input and output: one line out for each line in, in order; no bad line stops them. Edge."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterable
from typing import BinaryIO, Final

from shared.replicate.filter import BadLine

_NOT_TEXT: Final = json.dumps({"id": None, "error": BadLine.code, "detail": "not UTF-8"})


def filter_lines(answer: Callable[[str], str]) -> None:
    """Write *answer* of each line of standard input to standard output, until either ends."""
    try:
        run_filter(answer, sys.stdin.buffer, sys.stdout.buffer)
    except BrokenPipeError:
        # The reader has closed the pipe. Python must not flush the rest at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def run_filter(answer: Callable[[str], str], source: Iterable[bytes], sink: BinaryIO) -> None:
    """Write *answer* of each line of *source* to *sink*, and flush each: a reader may wait for it."""
    for line in source:
        try:
            # Some editors begin a file with a byte order mark.
            said = answer(line.decode("utf-8-sig"))
        except UnicodeDecodeError:
            said = _NOT_TEXT
        sink.write(said.encode() + b"\n")
        sink.flush()
