"""Headers of audio files, and parts of files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from transformers_fastconformer.audio.files import read_audio
from transformers_fastconformer.audio.parts import read_header, read_part
from transformers_fastconformer.demonstration import CLIP_PATHS

soundfile = pytest.importorskip("soundfile", reason="the extra `audio` is not installed")


def test_parts_are_those_of_the_whole_file(tmp_path: Path) -> None:
    long_path = tmp_path / "long.wav"
    clips = [read_audio(path) for path in CLIP_PATHS]
    soundfile.write(long_path, np.concatenate(clips * 10), 16000)
    whole = read_audio(long_path)
    np.testing.assert_array_equal(read_part(str(long_path), 16000), whole)
    np.testing.assert_array_equal(read_part(str(long_path), 16000, start_seconds=2.5), whole[40000:])
    part = read_part(str(long_path), 16000, start_seconds=2.5, seconds=1.25)
    np.testing.assert_array_equal(part, whole[40000:60000])
    stereo = tmp_path / "stereo.flac"
    soundfile.write(stereo, np.stack([whole[:32000], -whole[:32000]], axis=1), 8000)
    assert read_header(str(stereo)) == (4.0, 2)
    assert not read_part(str(stereo), 8000, start_seconds=1.0).any()
    right = read_part(str(stereo), 8000, channel=1, start_seconds=1.0, seconds=1.0)
    np.testing.assert_allclose(right, -whole[8000:16000], atol=1e-4)
    assert read_part(str(stereo), 16000, start_seconds=1.0, seconds=1.0).shape == (16000,)
    # Lengths in manifests are rounded.
    assert read_part(str(stereo), 8000, start_seconds=3.0, seconds=1.05).shape == (8000,)
    for options, message in (
        ({"start_seconds": 4.0}, "offset=4.0, duration=None of .* the file has 4.00 s"),
        ({"seconds": 4.2}, "offset=0.0, duration=4.2"),
        ({"seconds": 1.0, "channel": 2}, "channels=2 of .* does not exist; it has channels 0 to 1"),
    ):
        with pytest.raises(ValueError, match=message):
            read_part(str(stereo), 8000, **options)
    with pytest.raises(FileNotFoundError):
        read_part(str(tmp_path / "missing.wav"), 8000, seconds=1.0)
