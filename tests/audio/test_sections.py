"""Tags around the sound, and sound that no header announces."""

from __future__ import annotations

import io

import pytest

from transformers_fastconformer.audio.sections import (
    Section,
    check_trailing,
    cut_off,
    is_zero,
    length_of,
    skip_id3,
    skip_tags,
    skip_zeros,
    strip_tags,
)

ID3 = b"ID3\x04\0\0\0\0\x01\x00" + bytes(128)
ID3_WITH_FOOTER = b"ID3\x04\0\x10\0\0\0\x05" + b"abcde" + b"3DI\x04\0\x10\0\0\0\x05"
APE = b"APETAGEX" + (2000).to_bytes(4, "little") + (40).to_bytes(4, "little") + (1).to_bytes(4, "little")
APE += (0xA0000000).to_bytes(4, "little") + bytes(8) + bytes(40)
LYRICS = b"LYRICSBEGINla la la000022LYRICS200"
ID3_OF_OLD = b"TAG" + bytes(125)


@pytest.mark.parametrize("tags", [ID3, ID3_WITH_FOOTER, APE, LYRICS, ID3_OF_OLD, ID3 + APE + LYRICS + ID3_OF_OLD])
def test_tags_are_skipped(tags: bytes) -> None:
    file = io.BytesIO(b"ab" + tags + b"\xff\xfb")
    assert skip_tags(file, 2, length_of(file)) == 2 + len(tags)
    assert skip_tags(io.BytesIO(tags), 0, len(tags)) == len(tags)


def test_only_zeros_up_to_the_end_are_skipped() -> None:
    assert skip_tags(io.BytesIO(bytes(3000)), 0, 3000) == 3000
    assert skip_tags(io.BytesIO(bytes(3000) + b"x"), 0, 3001) == 0
    assert is_zero(io.BytesIO(b"x" + bytes(9)), 1, 10)


def test_broken_tags_are_not() -> None:
    assert skip_id3(io.BytesIO(b"ID3\x04\0\0\xff\0\0\x05abcde"), 0) == 0
    assert skip_tags(io.BytesIO(b"nothing"), 0, 7) == 0


def test_what_follows_the_sound() -> None:
    check_trailing("x", Section("WAV", 2, 9, sound_bytes=5), 4096)
    with pytest.raises(ValueError, match="x holds more than its header announces: 5 bytes of samples, and 5000 bytes"):
        check_trailing("x", Section("WAV", 2, 9, sound_bytes=5), 5000)
    with pytest.raises(ValueError, match="x holds more than its header announces: 7 bytes of MP4, and 5000 bytes"):
        check_trailing("x", Section("MP4", 2, 9), 5000)


def test_tags_found_from_the_end() -> None:
    footer = bytearray(APE[:32])
    footer[20:24] = bytes(4)
    footer[12:16] = (5032).to_bytes(4, "little")
    only_footer = bytes(5000) + bytes(footer)
    for tags in (b"", ID3_OF_OLD, only_footer, only_footer + ID3_OF_OLD):
        assert strip_tags(io.BytesIO(b"sound" + tags), 5, 5 + len(tags)) == 5
    assert strip_tags(io.BytesIO(b"sound" + only_footer[1:]), 5, 5036) == 5036  # it announces more than there is


def test_the_end_of_zeros() -> None:
    for num_zeros in (0, 1, 3_000_000):
        assert skip_zeros(io.BytesIO(b"x" + bytes(num_zeros) + b"y"), 1, num_zeros + 2) == num_zeros + 1
        assert skip_zeros(io.BytesIO(b"x" + bytes(num_zeros)), 1, num_zeros + 1) == num_zeros + 1


def test_the_error_has_both_numbers() -> None:
    assert str(cut_off("x", "5 bytes", "3")) == "x is cut off: its header announces 5 bytes, 3 are there."
