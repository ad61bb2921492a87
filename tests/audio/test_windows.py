"""Stretches of a file as files of their own."""

from __future__ import annotations

import io
import os

import pytest

from transformers_fastconformer.audio.windows import Blocks, Window, find_bytes, read_at

CONTENT = bytes(range(100))


@pytest.mark.parametrize("num_bytes", [1, 7, 100, -1])
def test_a_window_is_a_file_of_its_own(num_bytes: int) -> None:
    window = Window(io.BytesIO(CONTENT), 10, 60, {12: b"\xff\xfe", 59: b"\xfd"})
    expected = bytearray(CONTENT[10:60])
    expected[2:4], expected[49] = b"\xff\xfe", 0xFD
    found = b""
    while part := window.read(num_bytes):
        found += part
    assert found == bytes(expected)
    assert window.tell() == window.seek(0, os.SEEK_END) == 50
    assert window.read(4) == b""
    window.seek(-1, os.SEEK_END)
    buffer = bytearray(5)
    assert (window.readinto(memoryview(buffer)), buffer[0]) == (1, 0xFD)
    assert window.seek(3) + window.seek(4, os.SEEK_CUR) == 10


def test_a_few_missing_bytes_are_zeros() -> None:
    assert Window(io.BytesIO(CONTENT), 98, 101).read() == b"\x62\x63\0"
    assert Window(io.BytesIO(CONTENT), 98, 200).read() == b"\x62\x63\0\0\0\0"


def test_a_length_that_is_not_told() -> None:
    window = Window(io.BytesIO(CONTENT), 0, 100, has_unknown_length=True)
    assert window.seek(0, os.SEEK_END) == 100_000
    window.seek(-128, os.SEEK_END)
    assert window.read(128) == bytes(128)
    window.seek(90)
    assert (window.read(50), window.read(50)) == (CONTENT[90:], b"")


@pytest.mark.parametrize("block_bytes", [4, 5, 1000])
def test_bytes_are_found_across_blocks(block_bytes: int) -> None:
    file = io.BytesIO(CONTENT)
    for place in range(97):
        assert find_bytes(file, CONTENT[place : place + 3], 0, 100, block_bytes) == place
    assert find_bytes(file, b"\x05\x06", 6, 100, block_bytes) == -1
    assert find_bytes(file, b"\x60\x61", 0, 97, block_bytes) == -1


class Slow(io.BytesIO):
    """A file that gives less than was asked for."""

    def read(self, num_bytes: int | None = -1) -> bytes:
        return super().read(min(num_bytes or 0, 3))


def test_reading_at_a_position() -> None:
    assert read_at(Slow(CONTENT), 5, 10) == CONTENT[5:15]
    assert read_at(Slow(CONTENT), 95, 10) == CONTENT[95:]
    blocks = Blocks(io.BytesIO(CONTENT), 90)
    assert [blocks.at(place, 4) for place in (0, 50, 88, 95)] == [CONTENT[:4], CONTENT[50:54], CONTENT[88:90], b""]
