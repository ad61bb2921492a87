from __future__ import annotations

import io

import numpy as np
import pytest
import soundfile

from transformers_fastconformer.server.errors import ApiError
from transformers_fastconformer.server.live_socket import AudioBytes, parse_message, take_rate, take_text, take_texts


@pytest.mark.parametrize(("encoding", "subtype"), [("ulaw", "ULAW"), ("alaw", "ALAW")])
def test_g711_is_what_libsndfile_reads(encoding: str, subtype: str) -> None:
    codes = np.arange(256, dtype=np.uint8).tobytes()
    expected, _ = soundfile.read(
        io.BytesIO(codes), dtype="int16", format="RAW", subtype=subtype, channels=1, samplerate=8000
    )
    assert np.array_equal(AudioBytes(encoding).to_samples(codes), expected)


def test_half_a_sample_waits_for_the_next_piece() -> None:
    samples = np.arange(-50, 50, dtype="<i2")
    audio, data = AudioBytes("pcm16"), samples.tobytes()
    pieces = [audio.to_samples(data[start : start + 7]) for start in range(0, len(data), 7)]
    assert np.array_equal(np.concatenate(pieces), samples)


def test_messages_that_are_no_messages() -> None:
    assert parse_message('{"type": "a"}') == {"type": "a"}
    for text in ("", "[]", "{}", '{"type": 1}', "[" * 100_000):
        with pytest.raises(ApiError, match="JSON object with a type"):
            parse_message(text)
    for name, take in (("keywords", take_texts), ("language", take_text)):
        for value in (7, {"a": 1}, [7]):
            with pytest.raises(ApiError, match=name):
                take({name: value}, name)
    for value in (0, 7999, 96000, True, "16000", None):
        with pytest.raises(ApiError, match="sampling_rate"):
            take_rate(value, "sampling_rate")
