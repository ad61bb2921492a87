"""Headers of audio files, and parts of files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from recordings import encode, tone, with_flac_length

from transformers_fastconformer.audio import parts
from transformers_fastconformer.audio.files import Header, read_audio
from transformers_fastconformer.audio.parts import measure_part, read_header, read_part
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
    assert read_header(str(stereo)) == Header(4.0, 2, is_exact=True)
    assert not read_part(str(stereo), 8000, start_seconds=1.0).any()
    right = read_part(str(stereo), 8000, channel=1, start_seconds=1.0, seconds=1.0)
    np.testing.assert_allclose(right, -whole[8000:16000], atol=1e-4)
    assert read_part(str(stereo), 16000, start_seconds=1.0, seconds=1.0).shape == (16000,)
    # Lengths in manifests are rounded.
    assert read_part(str(stereo), 8000, start_seconds=3.0, seconds=1.05).shape == (8000,)
    for options, message in (
        ({"start_seconds": 4.0}, "offset=4.0, duration=None of .* the file has 4.00 s"),
        ({"seconds": 4.2}, "offset=0.0, duration=4.2"),
        ({"seconds": 1e-9}, "duration=1e-09 of .* is an empty part: it has no sample"),
        ({"start_seconds": 3.99999999}, "offset=3.99999999, duration=None of .* is an empty part"),
        ({"seconds": 1.0, "channel": 2}, "channels=2 of .* does not exist; it has channels 0 to 1"),
    ):
        with pytest.raises(ValueError, match=message):
            read_part(str(stereo), 8000, **options)
    with pytest.raises(FileNotFoundError):
        read_part(str(tmp_path / "missing.wav"), 8000, seconds=1.0)


@pytest.mark.parametrize(
    ("suffix", "is_piped", "is_joined"),
    [("mp3", True, False), ("mp3", False, True), ("flac", True, False), ("flac", False, True), ("m4a", False, False)],
)
def test_parts_of_files_whose_length_is_not_in_the_header(
    suffix: str, is_piped: bool, is_joined: bool, tmp_path: Path
) -> None:
    content = encode(tone(2.0), suffix, is_piped=is_piped)
    if suffix == "flac" and is_piped:
        content = with_flac_length(content, 0)
    path = tmp_path / f"x.{suffix}"
    path.write_bytes(content * 2 if is_joined else content)
    whole = read_audio(path)
    np.testing.assert_array_equal(read_part(str(path), 16000, start_seconds=1.5), whole[24000:])
    with pytest.raises(ValueError, match="is an empty part"):
        read_part(str(path), 16000, start_seconds=1.5, seconds=1e-9)
    np.testing.assert_array_equal(read_part(str(path), 16000, start_seconds=0.5, seconds=1.0), whole[8000:24000])
    seconds = len(whole) / 16000
    for start_seconds, length in ((seconds + 0.01, None), (0.0, seconds + 0.2)):
        with pytest.raises(ValueError, match=rf"offset={start_seconds}, .* the file has {seconds:.2f} s"):
            read_part(str(path), 16000, start_seconds=start_seconds, seconds=length)


def test_a_file_is_decoded_once_for_the_lengths_of_its_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    decoded: list[str] = []
    count = parts._count_seconds

    def counted(audio: Any) -> float:
        decoded.append(audio.name)
        return count(audio)

    monkeypatch.setattr(parts, "_count_seconds", counted)
    path = tmp_path / "x.mp3"
    path.write_bytes(encode(tone(2.0), "mp3"))
    whole = len(read_audio(path)) / 16000
    assert measure_part(str(path)) == pytest.approx(whole, abs=0.05)  # its header suffices
    assert not decoded
    assert measure_part(str(path), 0.5, 1.0) == 1.0
    assert measure_part(str(path), 1.5) == pytest.approx(whole - 1.5)
    for start, seconds in ((0.0, 2.5), (1.5, 1.0), (3.0, None)):
        with pytest.raises(ValueError, match=rf"the file has {whole:.2f} s"):
            measure_part(str(path), start, seconds)
    assert len(decoded) == 1
    path.write_bytes(encode(tone(3.0), "mp3"))
    assert measure_part(str(path), 0.0, 2.5) == 2.5
    assert len(decoded) == 2


def test_lengths_of_headers(tmp_path: Path) -> None:
    signal = tone(2.0)
    contents = {
        None: (with_flac_length(encode(signal, "flac"), 2**36 - 1), encode(signal, "aac")),
        2.088: (encode(signal, "mp3", is_piped=True),),
        2.0: (encode(signal, "mp3"), encode(signal, "m4a")),
        4.0: (encode(signal, "flac") * 2, encode(signal, "opus") * 2),
    }
    path = tmp_path / "x"
    for seconds, files in contents.items():
        for content in files:
            path.write_bytes(content)
            found = read_header(str(path))
            assert found is not None
            assert (found.seconds, found.is_exact) == (None if seconds is None else pytest.approx(seconds), False)
    assert read_header("https://nowhere.invalid/x.wav") is None
    assert read_header(str(tmp_path)) is None


def test_a_part_may_not_go_over_a_change_of_rate(tmp_path: Path) -> None:
    path = tmp_path / "x.flac"
    path.write_bytes(encode(tone(1.0), "flac") + encode(tone(1.0, 8000), "flac", 8000))
    assert len(read_part(str(path), 16000, start_seconds=0.5, seconds=0.25)) == 4000
    with pytest.raises(ValueError, match=r"x.flac' changes from 16000 to 8000 Hz; expected one rate"):
        read_part(str(path), 16000, start_seconds=0.5)
