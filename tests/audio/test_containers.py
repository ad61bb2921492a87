"""Whole, joined, cut off and unsized files of each container: all of the sound, or an error."""

from __future__ import annotations

import io
import random
import struct

import numpy as np
import pytest
from recordings import CONTAINERS, RATE, encode, tone

from transformers_fastconformer.audio.containers import find_sections
from transformers_fastconformer.audio.files import read_audio

pytest.importorskip("av", reason="the extra `audio` is not installed")

SECONDS = 1.5
FRAME_SECONDS = 0.13
# Those that cannot be written without going back.
NOT_PIPED = ("m4a", "mp4", "mov", "3gp")
CASES = [(suffix, is_piped) for suffix in CONTAINERS for is_piped in (False, True)[: 1 + (suffix not in NOT_PIPED)]]
# A file without sizes may end between any two samples.
ENDLESS = ("wav", "w64", "aiff", "au", "caf")


@pytest.fixture(scope="module")
def files() -> dict[tuple[str, bool], bytes]:
    signal = tone(SECONDS)
    return {(suffix, is_piped): encode(signal, suffix, is_piped=is_piped) for suffix, is_piped in CASES}


@pytest.mark.parametrize(("suffix", "is_piped"), CASES)
def test_whole_and_joined_files_are_read_to_the_end(
    suffix: str, is_piped: bool, files: dict[tuple[str, bool], bytes]
) -> None:
    content = files[suffix, is_piped]
    whole = read_audio(content)
    assert abs(len(whole) / RATE - SECONDS) <= FRAME_SECONDS
    joined = read_audio(content + content)
    assert abs(len(joined) - 2 * len(whole)) <= FRAME_SECONDS * RATE
    assert np.array_equal(joined[: len(whole) - 4096], whole[:-4096])
    assert np.abs(joined[-8000:-4096] - whole[-8000:-4096]).max() < 0.01


@pytest.mark.parametrize(("suffix", "is_piped"), [case for case in CASES if not (case[1] and case[0] in ENDLESS)])
def test_files_that_are_cut_off_are_told(suffix: str, is_piped: bool, files: dict[tuple[str, bool], bytes]) -> None:
    content = files[suffix, is_piped]
    for share in (0.31, 0.62, 0.93):
        cut = content[: int(len(content) * share) | 1]
        with pytest.raises(ValueError, match=f"audio of {len(cut)} bytes"):
            read_audio(cut)


@pytest.mark.parametrize("suffix", ["mp3", "ogg", "mka"])
def test_damage_between_frames_is_told(suffix: str, files: dict[tuple[str, bool], bytes]) -> None:
    content = files[suffix, True]
    middle = len(content) // 2
    for junk in (bytes(3000), random.Random(1).randbytes(3000)):
        with pytest.raises(ValueError, match=r"damaged|cut off"):
            read_audio(content[:middle] + junk + content[middle:])


JOINED = ("wav", "ogg", "mp3", "m4a", "webm", "aac", "aiff", "ts")


@pytest.mark.parametrize("first", JOINED)
def test_files_of_different_kinds_are_read_one_after_another(first: str, files: dict[tuple[str, bool], bytes]) -> None:
    """Tags and zeros between them change nothing."""
    length = len(read_audio(files[first, False]))
    for number, second in enumerate(JOINED):
        if second == first:
            continue
        between = (b"", b"TAG" + bytes(125), bytes(5000))[number % 3]
        found = read_audio(files[first, False] + between + files[second, False])
        assert abs(len(found) - length - len(read_audio(files[second, False]))) <= 0.03 * RATE, second


@pytest.mark.parametrize("suffix", ["wav", "aiff", "au", "w64", "caf", "mp4", "ogg", "mp3"])
@pytest.mark.parametrize("start", [b"", bytes(4100), b"TAG" + bytes(125), b"TAG" + bytes(10_000)])
def test_what_follows_tags_and_zeros_is_looked_at(
    suffix: str, start: bytes, files: dict[tuple[str, bool], bytes]
) -> None:
    sound = random.Random(1).randbytes(5000)
    with pytest.raises(ValueError, match=r"holds more than its header announces: .* and (49..|5000) bytes after"):
        read_audio(files[suffix, False] + start + sound)


def test_tags_around_a_file(files: dict[tuple[str, bool], bytes]) -> None:
    footer = b"APETAGEX" + struct.pack("<IIII", 2000, 60_032, 1, 0) + bytes(8)
    big = random.Random(1).randbytes(60_000) + footer + b"TAG" + bytes(125)
    id3 = b"ID3\3\0\0\0\0\x08\0" + bytes(1024)
    for suffix in ("wav", "mp3", "aiff", "m4a"):
        content = files[suffix, False]
        assert np.array_equal(read_audio(content + big), read_audio(content))
        assert np.array_equal(read_audio(id3 + content), read_audio(content))


def test_unknown_containers_are_one_section() -> None:
    for content in (b"nothing that is known", b"\xff\xfb\x90", b"RIFF", b""):
        assert [(item.container, item.stop) for item in find_sections("x", io.BytesIO(content))] == [
            ("", len(content))
        ]


def test_whatever_a_header_says_the_error_names_the_file() -> None:
    header = bytearray(encode(tone(0.1), "w64"))
    header[96:104] = (1 << 61).to_bytes(8, "little")
    with pytest.raises(ValueError, match="x is cut off"):
        find_sections("x", io.BytesIO(header))
    header[56:64] = (1 << 63).to_bytes(8, "little")
    with pytest.raises(ValueError, match=r"x cannot be read: .* expected an audio file"):
        find_sections("x", _Narrow(bytes(header)))


class _Narrow(io.BytesIO):
    """Files of the system do not seek that far."""

    def seek(self, position: int, whence: int = 0) -> int:
        if position >= 1 << 62:
            raise OverflowError("too large")
        return super().seek(position, whence)
