"""Files of chunks: sizes that are wrong, unknown or too small, and what follows them."""

from __future__ import annotations

import io
import struct

import numpy as np
import pytest
from recordings import RATE, encode, tone

from transformers_fastconformer.audio.containers import find_sections
from transformers_fastconformer.audio.files import read_audio

soundfile = pytest.importorskip("soundfile", reason="the extra `audio` is not installed")

SIGNAL = tone(0.5)


def write(container: str, subtype: str = "PCM_16", signal: np.ndarray = SIGNAL) -> bytes:
    file = io.BytesIO()
    soundfile.write(file, signal, RATE, format=container, subtype=subtype)
    return file.getvalue()


def with_size(content: bytes, mark: bytes, size: bytes, offset: int = 4) -> bytes:
    """The file with another number after a mark."""
    place = content.index(mark) + offset
    return content[:place] + size + content[place + len(size) :]


CONTAINERS = ["WAV", "WAVEX", "RF64", "W64", "AIFF", "AU", "CAF", "NIST", "VOC"]
WAV, AIFF, AU, CAF, W64 = (write(container) for container in ("WAV", "AIFF", "AU", "CAF", "W64"))
RF64 = encode(SIGNAL, "wav", rf64="always")


@pytest.mark.parametrize("container", CONTAINERS)
def test_whole_files_are_read_as_before(container: str) -> None:
    for num_samples in (1, 7, 8000):
        content = write(container, signal=SIGNAL[:num_samples])
        expected, _ = soundfile.read(io.BytesIO(content), dtype="float32")
        assert np.array_equal(read_audio(content), expected)


@pytest.mark.parametrize("container", CONTAINERS)
def test_cut_off_files_are_told(container: str) -> None:
    content = write(container)
    for num_bytes in (len(content) // 2 | 1, len(content) - 200):
        with pytest.raises(ValueError, match=r"is cut off: its header announces \d+ bytes"):
            read_audio(content[:num_bytes])


UNKNOWN = {
    "WAV, 0": with_size(WAV, b"data", bytes(4)),
    "WAV, greatest": with_size(WAV, b"data", b"\xff" * 4),
    "WAV, 0 in RIFF too": with_size(with_size(WAV, b"RIFF", bytes(4)), b"data", bytes(4)),
    "RF64, 0": with_size(with_size(RF64, b"ds64", bytes(24), 8), b"data", b"\xff" * 4),
    "RF64, greatest": with_size(with_size(RF64, b"ds64", b"\xff" * 24, 8), b"data", b"\xff" * 4),
    "W64, 0": with_size(W64, b"data", bytes(8), 16),
    "W64, greatest": with_size(W64, b"data", b"\xff" * 7 + b"\x7f", 16),
    "AIFF, 0": with_size(with_size(AIFF, b"SSND", bytes(4)), b"COMM", bytes(4), 10),
    "AU, 0": with_size(AU, b".snd", bytes(4), 8),
    "AU, greatest": with_size(AU, b".snd", b"\xff" * 4, 8),
    "CAF, unknown": with_size(CAF, b"data", b"\xff" * 8),
    "CAF, 0": with_size(CAF, b"data", bytes(8)),
}


@pytest.mark.parametrize("case", UNKNOWN)
def test_a_size_that_was_never_brought_up_to_date_is_unknown(case: str) -> None:
    content = UNKNOWN[case]
    assert np.array_equal(read_audio(content), read_audio(RF64 if case.startswith("RF64") else WAV))
    assert len(read_audio(content + content)) == 2 * len(SIGNAL)


def test_a_wav_with_samples_of_24_bits_and_two_channels_of_unknown_size() -> None:
    content = write("WAV", "PCM_24", np.stack([SIGNAL, -SIGNAL / 2], axis=1))
    assert np.array_equal(read_audio(with_size(content, b"data", bytes(4))), read_audio(content))


def test_an_empty_wav_stays_empty() -> None:
    content = write("WAV", signal=SIGNAL[:0])
    for chunks in (b"", b"LIST\x04\0\0\0INFO", b"LIST\x04\0\0\0INFOnote\x02\0\0\0ab"):
        with pytest.raises(ValueError, match="without samples"):
            read_audio(content + chunks)


def test_what_follows_the_samples_of_a_wav() -> None:
    more = b"LIST" + (5000).to_bytes(4, "little") + b"INFO" + b"x" * 4996
    assert len(read_audio(WAV + more)) == 8000
    assert len(read_audio(WAV + more + WAV)) == 16000
    assert len(read_audio(WAV + bytes(10_000))) == 8000
    with pytest.raises(ValueError, match="16000 bytes of samples, and 32000 bytes after them"):
        read_audio(WAV + WAV[1000:2000] * 32)
    with pytest.raises(ValueError, match="holds more than its header announces: 2000 bytes of samples"):
        read_audio(with_size(WAV, b"data", (2000).to_bytes(4, "little")))
    for content in (AIFF, AU, W64, CAF):
        with pytest.raises(ValueError, match="holds more than its header announces: 160"):
            read_audio(content + np.random.default_rng(0).bytes(9000))


def test_other_rates_in_a_joined_file() -> None:
    eight = io.BytesIO()
    soundfile.write(eight, tone(0.5, 8000), 8000, format="WAV", subtype="PCM_16")
    joined = read_audio(WAV + eight.getvalue() + WAV)
    assert len(joined) == 24000
    assert np.array_equal(joined[:8000], read_audio(WAV))
    assert np.array_equal(joined[8000:16000], read_audio(eight.getvalue()))


def test_a_true_audio_file_that_is_joined_or_cut() -> None:
    """Its header has a table of its frames; the samples are not looked at here."""
    header = b"TTA1" + struct.pack("<HHHII", 1, 1, 16, RATE, 20000) + bytes(4)
    content = header + struct.pack("<II", 300, 200) + bytes(4) + bytes(500)
    sections = find_sections("x", io.BytesIO(content + content))
    assert [(item.container, item.start, item.stop) for item in sections] == [("TTA", 0, 534), ("TTA", 534, 1068)]
    with pytest.raises(ValueError, match="x is cut off: its header announces 534 bytes, 533 are there"):
        find_sections("x", io.BytesIO(content[:-1]))


@pytest.mark.parametrize("container", ["VOC", "NIST", "SVX"])
def test_joined_files(container: str) -> None:
    content = write(container)
    whole = read_audio(content)
    assert len(whole) == len(SIGNAL)
    for between in (b"", bytes(1), bytes(5000), b"TAG" + bytes(125)):
        assert np.array_equal(read_audio(content + between + content), np.concatenate([whole, whole]))
    with pytest.raises(ValueError, match="is cut off"):
        read_audio(content + content[:-200])
    with pytest.raises(ValueError, match="holds more than its header announces"):
        read_audio(content + b"y" * 5000)


def test_chunks_whose_padding_is_missing_and_names_of_all_kinds() -> None:
    odd = b"bext" + (8001).to_bytes(4, "little") + b"q" * 8001
    note = b"cue " + (28).to_bytes(4, "little") + bytes(28)
    apple = b"\xa9nam" + (8000).to_bytes(4, "little") + b"q" * 8000
    for chunks in (odd + note, odd + b"\0" + note, apple, odd, odd + WAV, odd + b"\0" + WAV):
        assert len(read_audio(WAV + chunks)) == len(SIGNAL) * (1 + chunks.endswith(WAV))


def test_a_second_chunk_of_samples_is_told() -> None:
    with pytest.raises(ValueError, match=r"has a second chunk 'data' at byte 16044, which would be lost"):
        read_audio(WAV + WAV[36:])
    sound = AIFF[AIFF.index(b"SSND") :]
    with pytest.raises(ValueError, match=r"has a second chunk 'SSND' at byte \d+, which would be lost"):
        read_audio(AIFF + sound)


def test_a_voc_whose_last_block_lacks_a_few_bytes() -> None:
    """As sox writes it."""
    content = write("VOC")
    place = content.index(b"\x09", 26)
    size = int.from_bytes(content[place + 1 : place + 4], "little") + 8
    assert len(read_audio(content[: place + 1] + size.to_bytes(3, "little") + content[place + 4 :])) >= len(SIGNAL)
