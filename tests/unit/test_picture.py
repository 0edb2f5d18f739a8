"""Pictures: what opens and shows something passes; what is broken or one flat colour does not; nothing crashes."""

import struct
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.extractor.picture import Flaw, find_flaw
from tests.fakes import picture

KINDS = ["PNG", "JPEG", "WEBP"]


@pytest.mark.parametrize("kind", KINDS)
def test_a_picture_of_something_is_fine(kind):
    assert find_flaw(picture(kind)) is None


@pytest.mark.parametrize("kind", KINDS)
def test_one_flat_colour_is_blank(kind):
    assert find_flaw(picture(kind, blank=True)) is Flaw.BLANK


@pytest.mark.parametrize("kind", [*KINDS, "GIF", "BMP"])
def test_half_a_file_or_another_format_is_broken(kind):
    whole = picture(kind)

    assert find_flaw(whole[: len(whole) // 2]) is Flaw.BROKEN


@pytest.mark.parametrize("data", [b"", b"<html>", b"RIFF", b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n"])
def test_what_is_no_picture_is_broken(data):
    assert find_flaw(data) is Flaw.BROKEN


def test_a_picture_that_claims_to_be_huge_is_not_decoded():
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    for side in (9_000, 60_000):
        header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)

        assert find_flaw(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", b"")) is Flaw.BROKEN


def test_a_picture_that_is_huge_is_not_decoded():
    assert find_flaw(picture(blank=True, size=(4096, 4097))) is Flaw.BROKEN


@given(st.sampled_from(KINDS).map(picture), st.data())
def test_no_damage_makes_it_fail_otherwise(whole, data):
    damaged = bytearray(whole)
    for _ in range(data.draw(st.integers(1, 4))):
        damaged[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))

    assert find_flaw(bytes(damaged)) in (None, *Flaw)
