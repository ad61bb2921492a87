"""Media files: boxes and elements that are missing, joined files, videos with sound."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest
from recordings import CONTAINERS, encode, tone

from transformers_fastconformer.audio.containers import find_sections
from transformers_fastconformer.audio.files import read_audio

av = pytest.importorskip("av", reason="the extra `audio` is not installed")

SIGNAL = tone(1.0)


def containers(content: bytes) -> list[tuple[str, int, int]]:
    return [(item.container, item.start, item.stop) for item in find_sections("x", io.BytesIO(content))]


def test_an_mp4_with_its_index_at_either_end() -> None:
    behind = encode(SIGNAL, "m4a")
    sound, index = behind.index(b"mdat") - 4, behind.index(b"moov") - 4
    before = behind[:sound] + behind[index:] + behind[sound:index]
    with pytest.raises(ValueError, match=r"is cut off: its header announces \d+ bytes of its box 'mdat'"):
        read_audio(before[:-10])
    with pytest.raises(ValueError, match=r"is cut off: its index \(the box 'moov'\), which many writers put at the"):
        read_audio(behind[:index])
    assert containers(behind + before) == [
        ("MP4", 0, len(behind)),
        ("MP4", len(behind), len(behind) + len(before)),
    ]


def test_a_fragmented_mp4() -> None:
    content = encode(SIGNAL, "mp4", is_piped=True, movflags="frag_keyframe+empty_moov", frag_duration="200000")
    assert content.count(b"moof") > 3
    assert len(read_audio(content + content)) == 2 * len(read_audio(content))
    with pytest.raises(ValueError, match="is cut off"):
        read_audio(content[: content.rindex(b"mdat") + 20])


def test_a_matroska_whose_elements_are_damaged() -> None:
    content = encode(SIGNAL, "mka")
    cluster = content.index(b"\x1f\x43\xb6\x75")
    with pytest.raises(ValueError, match=rf"is damaged: at byte {cluster} an element should begin"):
        read_audio(content[:cluster] + b"\x1f\x43\xb6\x76" + content[cluster + 4 :])
    # A live recording: neither the segment nor its clusters have a size.
    live = encode(SIGNAL, "webm", is_piped=True, live="1")
    assert len(read_audio(live)) == len(read_audio(encode(SIGNAL, "webm")))


def test_an_asf_file() -> None:
    """Its header: the mark, and a list of objects, of which one has the size of the file."""
    mark = bytes.fromhex("3026b2758e66cf11a6d900aa0062ce6c")
    properties = bytes.fromhex("a1dcab8c47a9cf118ee400c00c205365") + (104).to_bytes(8, "little") + bytes(16)
    content = mark + bytes(14) + properties + (500).to_bytes(8, "little") + bytes(44)
    content = content.ljust(500, b"\1")
    assert containers(content + content) == [("ASF", 0, 500), ("ASF", 500, 1000)]
    with pytest.raises(ValueError, match="x is cut off: its header announces 500 bytes, 400 are there"):
        containers(content[:400])
    live = bytearray(content)
    live[30 + 88] = 1
    assert containers(bytes(live[:400])) == [("ASF", 0, 400)]


def test_packets_of_transport_and_program_streams() -> None:
    content = encode(SIGNAL, "ts")
    assert containers(content) == [("MPEG-TS", 0, len(content))]
    with pytest.raises(ValueError, match="announces 188 bytes in each packet, 100 of the last one are there"):
        read_audio(content[: 188 * 10 + 100])
    packet = b"\0\0\1\xc0" + (20).to_bytes(2, "big") + bytes(20)
    program = (b"\0\0\1\xba\x44" + bytes(8) + b"\xf8" + packet * 2) * 2
    assert containers(program) == [("MPEG-PS", 0, len(program))]
    with pytest.raises(ValueError, match="x is cut off: its header announces 26 bytes in its last packet, 21"):
        containers(program[:-5])


def test_tags_of_a_flash_video() -> None:
    tag = b"\x08" + (20).to_bytes(3, "big") + bytes(7) + bytes(20) + (31).to_bytes(4, "big")
    content = b"FLV\x01\x04" + (9).to_bytes(4, "big") + bytes(4) + tag * 2
    assert containers(content + content) == [("FLV", 0, 83), ("FLV", 83, 166)]
    with pytest.raises(ValueError, match="x is cut off: its header announces 31 bytes in its last tag, 30 are there"):
        containers(content[:-5])


def blank_pictures(number: int) -> list[Any]:
    pictures = [av.VideoFrame(64, 64, "yuv420p") for _ in range(number)]
    for place, picture in enumerate(pictures):
        picture.pts = place
    return pictures


def test_the_sound_of_a_video() -> None:
    target = io.BytesIO()
    with av.open(target, "w", format="matroska") as output:
        pictures, sound = output.add_stream("mpeg4", rate=10), output.add_stream(CONTAINERS["mka"][1], rate=48000)
        pictures.width = pictures.height = 64
        pictures.pix_fmt = "yuv420p"
        sound.layout = "mono"
        samples = av.AudioFrame.from_ndarray((tone(1.0, 48000)[None] * 32767).astype("int16"), "s16", "mono")
        samples.sample_rate = 48000
        for stream, frames in ((pictures, blank_pictures(10)), (sound, [samples])):
            for frame in (*frames, None):
                for packet in stream.encode(frame):
                    output.mux(packet)
    assert abs(len(read_audio(target.getvalue())) - 16000) <= 1000
    silent = io.BytesIO()
    with av.open(silent, "w", format="matroska") as output:
        pictures = output.add_stream("mpeg4", rate=10)
        pictures.width = pictures.height = 64
        pictures.pix_fmt = "yuv420p"
        for frame in (*blank_pictures(2), None):
            for packet in pictures.encode(frame):
                output.mux(packet)
    with pytest.raises(ValueError, match=r"audio of \d+ bytes has no sound; expected audio such as"):
        read_audio(silent.getvalue())


def test_packets_with_times_of_a_transport_stream() -> None:
    """Cameras and discs put four bytes in front of every packet."""
    content = encode(SIGNAL, "ts")
    timed = b"".join(bytes(4) + content[place : place + 188] for place in range(0, len(content), 188))
    expected = read_audio(content)
    assert np.array_equal(read_audio(timed), expected)
    wav = encode(SIGNAL, "wav")
    assert len(read_audio(timed + wav)) == len(read_audio(content + wav)) == len(expected) + len(SIGNAL)
    for cut in (timed[:-50], timed[:-190]):
        with pytest.raises(ValueError, match="is cut off: its header announces 192 bytes in each packet, "):
            read_audio(cut)
