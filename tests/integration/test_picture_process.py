"""A picture is looked at in a process that ends: its time and memory are bounded."""

from __future__ import annotations

import asyncio
import errno
import signal
import struct
import zlib
from io import BytesIO

import pytest
from PIL import Image

from services.extractor import picture_process
from services.extractor.picture import Flaw
from services.extractor.picture_process import NotLookedAt, find_flaw_apart
from tests.fakes import picture


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def long_line() -> bytes:
    """A PNG of one line of 16,777,216 pixels."""
    width = 4096 * 4096
    header = struct.pack(">IIBBBBB", width, 1, 8, 0, 0, 0, 0)
    pixels = zlib.compress(b"\x00" + bytes(width), 9)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


def many_scans() -> bytes:
    """A progressive JPEG of 3,000 scans: 200 kB, and a minute of CPU."""
    file = BytesIO()
    Image.new("L", (4096, 4096)).save(file, "JPEG", progressive=True)
    whole = file.getvalue()
    scan = whole[whole.rindex(b"\xff\xda") : -2]
    return whole[:-2] + scan * 3000 + whole[-2:]


@pytest.mark.parametrize(
    ("data", "flaw"),
    [
        (picture(), None),
        (picture("JPEG"), None),
        (picture(blank=True), Flaw.BLANK),
        (b"<html>", Flaw.BROKEN),
        (b"", Flaw.BROKEN),
    ],
    ids=["a PNG", "a JPEG", "one colour", "a page", "nothing"],
)
async def test_what_is_seen_apart_is_what_is_seen_here(data, flaw):
    assert flaw is await find_flaw_apart(data)


@pytest.mark.parametrize("make", [long_line, many_scans])
async def test_a_picture_that_costs_too_much_is_broken(make, monkeypatch):
    # The limits of the process decide, not how busy this machine is.
    monkeypatch.setattr(picture_process, "_WALL_SECONDS", 600)

    assert await find_flaw_apart(make()) is Flaw.BROKEN


async def test_a_machine_too_busy_to_look_is_no_flaw(monkeypatch):
    monkeypatch.setattr(picture_process, "_WALL_SECONDS", 0.01)

    with pytest.raises(NotLookedAt, match=r"within 0\.01 s"):
        await find_flaw_apart(many_scans())


@pytest.mark.parametrize("sent", [signal.SIGKILL, signal.SIGTERM, signal.SIGUSR1], ids=lambda sent: sent.name)
async def test_a_process_that_is_killed_says_nothing_of_the_picture(sent, monkeypatch):
    start = asyncio.create_subprocess_exec

    async def start_and_kill(*arguments, **options):
        process = await start(*arguments, **options)
        process.send_signal(sent)
        return process

    monkeypatch.setattr(asyncio, "create_subprocess_exec", start_and_kill)

    with pytest.raises(NotLookedAt, match=f"ended with -{sent:d}"):
        await find_flaw_apart(picture())


async def test_a_process_that_can_not_start_says_nothing_of_the_picture(monkeypatch):
    monkeypatch.setattr(picture_process, "_MODULE", "services.extractor.gone")

    with pytest.raises(NotLookedAt, match="ended with 1"):
        await find_flaw_apart(picture())


async def test_a_machine_without_another_process_says_nothing_of_the_picture(monkeypatch):
    async def refuse(*_, **__):
        raise BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable")

    monkeypatch.setattr(asyncio, "create_subprocess_exec", refuse)

    with pytest.raises(NotLookedAt, match="temporarily unavailable"):
        await find_flaw_apart(picture())
