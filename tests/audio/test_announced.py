"""Rarer formats: joined files, files that are cut off, and what follows the sound."""

from __future__ import annotations

import io
import struct
from collections.abc import Callable

import numpy as np
import pytest
from recordings import RATE, tone

from transformers_fastconformer.audio.containers import find_sections
from transformers_fastconformer.audio.files import read_audio

soundfile = pytest.importorskip("soundfile", reason="the extra `audio` is not installed")

SIGNAL = tone(0.5)
PCM = (SIGNAL * 32767).round().astype("<i2")


def write(container: str, endian: str = "FILE") -> bytes:
    file = io.BytesIO()
    soundfile.write(file, SIGNAL, RATE, format=container, subtype="PCM_16", endian=endian)
    return file.getvalue()


def sox() -> bytes:
    samples = (PCM.astype("<i4") << 16).tobytes()
    return b".SoX" + struct.pack("<IQdII", 28, len(PCM), RATE, 1, 0) + samples


SIZED: dict[str, Callable[[], bytes]] = {
    "AVR": lambda: write("AVR"),
    "MAT4": lambda: write("MAT4", "LITTLE"),
    "MAT4, big": lambda: write("MAT4", "BIG"),
    "MAT5": lambda: write("MAT5", "LITTLE"),
    "MAT5, big": lambda: write("MAT5", "BIG"),
    "SoX": sox,
}
UNSIZED = {name: lambda name=name: write(name) for name in ("PVF", "PAF", "IRCAM")}


@pytest.mark.parametrize("case", [*SIZED, *UNSIZED])
def test_joined_files(case: str) -> None:
    content = {**SIZED, **UNSIZED}[case]()
    whole = read_audio(content)
    assert abs(len(whole) - len(SIGNAL)) <= 10  # PAF is written in blocks
    assert np.array_equal(read_audio(content + content), np.concatenate([whole, whole]))


@pytest.mark.parametrize("case", SIZED)
def test_cut_off_files_and_what_follows(case: str) -> None:
    content = SIZED[case]()
    with pytest.raises(ValueError, match=r"is cut off: its header announces \d+ bytes of samples"):
        read_audio(content[: len(content) // 2])
    with pytest.raises(ValueError, match="holds more than its header announces"):
        read_audio(content + b"y" * 5000)


def test_flash_films() -> None:
    film = b"FWS\x06" + (500).to_bytes(4, "little") + bytes(492)
    found = find_sections("x", io.BytesIO(film + film))
    assert [(item.container, item.start, item.stop) for item in found] == [("SWF", 0, 500), ("SWF", 500, 1000)]
    with pytest.raises(ValueError, match="x is cut off: its header announces 500 bytes of samples, 400 are there"):
        find_sections("x", io.BytesIO(film[:400]))
    piped = b"FWS\x06" + (100 << 20).to_bytes(4, "little") + bytes(492)
    assert find_sections("x", io.BytesIO(piped))[0].stop == 500
