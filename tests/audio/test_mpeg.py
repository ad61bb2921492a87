"""MPEG frames: lengths that are not guessed, joined files, tags, and frames that are missing."""

from __future__ import annotations

import io

import numpy as np
import pytest
from recordings import encode, tone

from transformers_fastconformer.audio.containers import find_sections
from transformers_fastconformer.audio.files import read_audio
from transformers_fastconformer.audio.mpeg import MpegFrame, mpeg_frame

soundfile = pytest.importorskip("soundfile", reason="the extra `audio` is not installed")
pytest.importorskip("av", reason="the extra `audio` is not installed")

# Quiet at first: the first frames are small, and a guess from them is far too long; from the end it is too short.
QUIET_FIRST = np.concatenate([tone(2.0) * 1e-4, np.random.default_rng(0).uniform(-0.5, 0.5, 64000)]).astype(np.float32)


@pytest.fixture(scope="module")
def with_table() -> bytes:
    return encode(tone(2.0), "mp3")


@pytest.mark.parametrize("signal", [QUIET_FIRST, QUIET_FIRST[::-1]])
def test_an_mp3_without_a_table_is_read_to_its_end(signal: np.ndarray) -> None:
    file = io.BytesIO()
    soundfile.write(file, signal, 16000, format="MP3", bitrate_mode="VARIABLE", compression_level=0.6)
    content = file.getvalue()
    table = next(place for place in (content.find(b"Xing"), content.find(b"Info")) if place >= 0)
    frame = mpeg_frame(int.from_bytes(content[content.index(b"\xff") :][:4], "big"))
    assert frame is not None
    without = content[content.index(b"\xff") + frame.num_bytes :]
    assert table < frame.num_bytes
    assert not {b"Xing", b"Info"} & {without[place : place + 4] for place in range(200)}
    found = read_audio(without)
    assert len(found) / 576 == len(found) // 576  # whole frames: nothing says how many samples of them are padding
    assert len(signal) <= len(found) <= len(signal) + 4 * 576
    correlation = np.correlate(found[1105 : 1105 + 60000], signal[:60000])[0]
    assert correlation > 0.7 * np.dot(signal[:60000], signal[:60000])


def test_a_whole_mp3_is_read_as_before(with_table: bytes) -> None:
    with soundfile.SoundFile(io.BytesIO(with_table)) as file:
        expected = file.read(dtype="float32")
    assert np.array_equal(read_audio(with_table), expected)
    old_tag = b"TAG" + bytes(125)
    assert np.array_equal(read_audio(with_table + old_tag), expected)
    twice = np.concatenate([expected, expected])
    assert np.array_equal(read_audio(with_table + old_tag + with_table + old_tag), twice)


def test_a_file_without_a_table_after_one_with_a_table(with_table: bytes) -> None:
    bare = encode(tone(1.0), "mp3", is_piped=True)
    bare = bare[bare.index(b"\xff") :]
    assert len(read_audio(with_table + bare)) == len(read_audio(with_table)) + len(read_audio(bare))


def test_an_mp3_that_lacks_frames(with_table: bytes) -> None:
    (section,) = find_sections("x", io.BytesIO(with_table))
    frame_bytes = 108
    boundary = section.stop - 20 * frame_bytes
    cut = with_table[:boundary]
    with pytest.raises(ValueError, match=r"is cut off: its header announces 58 frames, \d\d are there"):
        read_audio(cut)
    with pytest.raises(ValueError, match=f"is damaged: the 3000 bytes from byte {boundary} on are no MPEG frames"):
        read_audio(cut + b"x" * 3000 + with_table[boundary + 2 * frame_bytes :])
    bare = encode(tone(1.0), "mp3", is_piped=True)
    with pytest.raises(ValueError, match="is cut off: its last frame announces 108 bytes, 8 are there"):
        read_audio(bare[:-100])
    # Some encoders count a byte of padding after the last frame and leave it out.
    assert len(read_audio(bare[:-1])) == len(read_audio(bare))


@pytest.mark.parametrize("num_bytes", [1, 5, 100])
def test_an_adts_stream_that_is_cut_off(num_bytes: int) -> None:
    content = encode(tone(0.5), "aac")
    end = content.rindex(content[:2])
    with pytest.raises(ValueError, match="is cut off: "):
        read_audio(content[: end + num_bytes])
    assert len(read_audio(content[:end])) == len(read_audio(content)) - 1024


def test_headers_of_frames() -> None:
    assert mpeg_frame(0xFFFB9064) == MpegFrame(417, 1152, 44100, 36)  # MPEG-1 layer 3, 128 kbit/s
    assert mpeg_frame(0xFFFB90C4) == MpegFrame(417, 1152, 44100, 21)  # mono
    assert mpeg_frame(0xFFF3A0C4) == MpegFrame(313, 576, 22050, 13)  # MPEG-2, 96 kbit/s
    assert mpeg_frame(0xFFFDA004) == MpegFrame(626, 1152, 44100, 36)  # layer 2, 192 kbit/s
    assert mpeg_frame(0xFFFF9004) == MpegFrame(312, 384, 44100, 0)  # layer 1, 288 kbit/s
    for header in (0, 0xFFFB0064, 0xFFFBF064, 0xFFFB9C64, 0xFFEB9064, 0xFFF99064, 0x7FFB9064):
        assert mpeg_frame(header) is None


def test_other_things_with_marks_of_frames_are_not_mpeg() -> None:
    frame = b"\xff\xfb\x90\xc4" + bytes(413)
    for content in (b"\0\0\1\xba" + frame * 3, b"x" * 3000 + frame * 3, frame[:300]):
        assert find_sections("x", io.BytesIO(content))[0].container != "MP3"
    assert find_sections("x", io.BytesIO(b"x" * 300 + frame * 3))[0].start == 300
