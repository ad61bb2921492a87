"""FLAC, OGG, AMR, AC-3 and WavPack: unknown lengths, links, pages and frames that are missing."""

from __future__ import annotations

import io
import struct
from pathlib import Path

import numpy as np
import pytest
from recordings import encode, tone, with_flac_length

from transformers_fastconformer.audio.containers import find_sections
from transformers_fastconformer.audio.files import read_audio
from transformers_fastconformer.audio.framed import ogg_checksum

soundfile = pytest.importorskip("soundfile", reason="the extra `audio` is not installed")


def write(container: str, subtype: str, seconds: float = 1.0) -> bytes:
    file = io.BytesIO()
    soundfile.write(file, tone(seconds), 16000, format=container, subtype=subtype)
    return file.getvalue()


FLAC = write("FLAC", "PCM_16")


@pytest.mark.parametrize("announced", [0, 2**36 - 1])
def test_a_flac_of_unknown_length(announced: int) -> None:
    content = with_flac_length(FLAC, announced)
    assert np.array_equal(read_audio(content), read_audio(FLAC))
    assert len(read_audio(content + content)) == 32000


@pytest.mark.parametrize("announced", [None, 0])
def test_a_flac_with_tags_and_zeros_after_it(announced: int | None, tmp_path: Path) -> None:
    """Some frames end in zeros themselves."""
    for seed in (0, 134, 459):
        file = io.BytesIO()
        samples = np.random.default_rng(seed).integers(-9, 9, 300).astype(np.int16)
        soundfile.write(file, samples, 16000, format="FLAC", subtype="PCM_16")
        content = file.getvalue() if announced is None else with_flac_length(file.getvalue(), announced)
        whole = read_audio(content)
        for after in (bytes(5000), bytes(3), bytes(3_000_000), b"TAG" + bytes(125), bytes(999) + b"TAG" + b"a" * 125):
            assert np.array_equal(read_audio(content + after), whole)
            assert np.array_equal(read_audio(content + after + content), np.concatenate([whole, whole]))
        (tmp_path / "x.flac").write_bytes(content + bytes(5000))
        assert np.array_equal(read_audio(tmp_path / "x.flac"), whole)
    assert content[-1] == 0


def test_a_flac_that_announces_more_than_it_has() -> None:
    with pytest.raises(ValueError, match="is cut off: its header announces 16001 samples, 16000 are there"):
        read_audio(with_flac_length(FLAC, 16001))


@pytest.mark.parametrize("subtype", ["VORBIS", "OPUS"])
def test_links_of_an_ogg(subtype: str) -> None:
    content, other = write("OGG", subtype), write("OGG", subtype, 0.5)
    expected = [soundfile.read(io.BytesIO(part), dtype="float32")[0] for part in (content, other, content)]
    assert np.array_equal(read_audio(content + other + content), np.concatenate(expected))
    with pytest.raises(ValueError, match=r"is cut off: its last page announces|the last page, which ends the stream"):
        read_audio(content[:-50])


def test_pages_of_an_ogg_that_are_missing_or_damaged() -> None:
    content = write("OGG", "VORBIS", 20.0)
    starts = [place for place in range(len(content)) if content.startswith(b"OggS", place)]
    assert len(starts) > 6
    with pytest.raises(ValueError, match="is cut off: the last page, which ends the stream, is not there"):
        read_audio(content[: starts[-1]])
    with pytest.raises(ValueError, match=r"is damaged: page 5 follows page 3"):
        read_audio(content[: starts[4]] + content[starts[5] :])
    flipped = bytearray(content)
    flipped[starts[4] + 200] ^= 4
    with pytest.raises(ValueError, match=rf"is damaged: the checksum of its page at byte {starts[4]}"):
        read_audio(bytes(flipped))
    with pytest.raises(ValueError, match=rf"is damaged: the 7 bytes from byte {starts[4]} on are no OGG page"):
        read_audio(content[: starts[4]] + b"nothing" + content[starts[4] :])
    # Recordings of a station have its first pages, then those from where they began.
    assert 0 < len(read_audio(content[: starts[2]] + content[starts[4] :])) < 20 * 16000


def test_the_checksum_of_a_page() -> None:
    """The polynomial 0x04c11db7, bit by bit."""
    content = np.random.default_rng(0).bytes(50)
    remainder = 0
    for byte in content:
        remainder ^= byte << 24
        for _ in range(8):
            remainder = (remainder << 1) ^ (0x104C11DB7 if remainder >> 31 else 0)
    assert ogg_checksum(content) == remainder


def containers(content: bytes) -> list[tuple[str, int, int]]:
    return [(item.container, item.start, item.stop) for item in find_sections("x", io.BytesIO(content))]


def test_joined_amr_files() -> None:
    content = b"#!AMR\n" + (b"\x3c" + bytes(31)) * 3 + b"\x7c"
    assert containers(content + content) == [("AMR", 0, 103), ("AMR", 103, 206)]
    wide = b"#!AMR-WB\n" + (b"\x44" + bytes(60)) * 2
    assert containers(wide) == [("AMR", 0, len(wide))]
    with pytest.raises(ValueError, match="x is cut off: 5 bytes of its last frame are missing"):
        containers(content[:-6])


def test_frames_of_ac3() -> None:
    pytest.importorskip("av")
    frames = b"\x0b\x77\0\0\x0c" + bytes(379)  # 48 kHz, 96 kbit/s: 384 bytes
    assert containers(frames * 4) == [("AC-3", 0, 1536)]
    odd = b"\x0b\x77\0\0\x4d\x40" + bytes(412)  # 44.1 kHz, 96 kbit/s, the longer form: 418 bytes
    assert containers(odd * 3) == [("AC-3", 0, 1254)]
    with pytest.raises(ValueError, match="x is cut off: its last frame announces 384 bytes, 84 are there"):
        containers((frames * 4)[:-300])


def test_blocks_of_wavpack() -> None:
    def block(index: int) -> bytes:
        return b"wvpk" + struct.pack("<IHBBIII", 124, 0x410, 0, 0, 3000, index, 1000) + bytes(108)

    content = block(0) + block(1000) + block(2000)
    assert containers(content + content) == [("WavPack", 0, 396), ("WavPack", 396, 792)]
    with pytest.raises(ValueError, match="x is cut off: its header announces 3000 samples, 2000 are there"):
        containers(content[:264])
    with pytest.raises(ValueError, match="x is cut off: its header announces 132 bytes in its last block, 131"):
        containers(content[:-1])


def test_a_flac_without_its_last_bytes() -> None:
    pytest.importorskip("av")
    with pytest.raises(ValueError, match=r"cannot be decoded|cut off"):
        read_audio(encode(tone(1.0), "flac")[:-300])
