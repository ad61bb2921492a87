"""Diarisation of files, samples and parts: the same by every door, and what is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from diarizers import build_diarizer, make_extractor

from transformers_fastconformer import DiarizationOptions, SpeakerStreams, SpeakerTurnOptions, diarize, load_diarizer
from transformers_fastconformer.demonstration import CLIP_PATHS
from transformers_fastconformer.inference.reading import AudioClip

Diarizer = tuple


@pytest.fixture(scope="module")
def diarizer() -> Diarizer:
    return build_diarizer(), make_extractor()


@pytest.fixture(scope="module")
def recording(tmp_path_factory: pytest.TempPathFactory) -> Path:
    generator = np.random.default_rng(0)
    loudness = np.repeat(generator.uniform(0.001, 0.3, 40), 16000 * 12 // 40)
    path = tmp_path_factory.mktemp("audio") / "meeting.wav"
    soundfile.write(path, loudness * generator.standard_normal(len(loudness)), 16000, subtype="FLOAT")
    return path


def test_files_samples_and_bytes_give_the_same(diarizer: Diarizer, recording: Path) -> None:
    found = diarize(recording, diarizer)
    assert found.duration_seconds == 12.0
    assert found.probabilities.shape == (150, 3)
    assert found.frame_seconds == pytest.approx(0.08)
    assert found.turns
    assert found.speakers == sorted({turn.speaker for turn in found.turns})
    assert all(0 <= turn.start < turn.end <= 12.0 for turn in found.turns)
    samples, rate = soundfile.read(recording, dtype="float32")
    for audio in (samples, (rate, samples), {"raw": samples, "sampling_rate": rate}, recording.read_bytes()):
        assert diarize(audio, diarizer).turns == found.turns
    assert diarize(AudioClip(str(recording)), diarizer).turns == found.turns
    part = diarize(AudioClip(str(recording), start_seconds=2.0, seconds=5.0), diarizer)
    assert part.turns == diarize(samples[2 * rate : 7 * rate], diarizer).turns
    heard: list[float] = []
    diarize(recording, diarizer, on_progress=heard.append)
    assert heard[-1] == 12.0


def test_whole_recordings_and_other_rules(diarizer: Diarizer, recording: Path) -> None:
    chunks = diarize(recording, diarizer)
    whole = diarize(recording, diarizer, DiarizationOptions(is_whole=True))
    assert whole.probabilities.shape == chunks.probabilities.shape
    strict = diarize(recording, diarizer, DiarizationOptions(turns=SpeakerTurnOptions(min_speech_seconds=1.0)))
    assert all(turn.end - turn.start >= 0.999 or turn.end == 12.0 for turn in strict.turns)
    assert DiarizationOptions(turns="dihard3").turns == SpeakerTurnOptions.named("dihard3")
    assert diarize(recording, diarizer, DiarizationOptions(latency="very_low")).probabilities.shape == (150, 3)


def test_a_checkpoint_for_whole_recordings(recording: Path) -> None:
    offline = build_diarizer(is_streaming=False), make_extractor(normalize="per_feature", peak_scaling=1e-3)
    found = diarize(recording, offline)
    assert found.probabilities.shape == (150, 3)
    with pytest.raises(ValueError, match="latency='low' is not supported; expected None for a checkpoint"):
        diarize(recording, offline, DiarizationOptions(latency="low"))
    with pytest.raises(ValueError, match="is_whole=False"):
        diarize(recording, offline, DiarizationOptions(is_whole=False))


def test_normalised_features_are_those_of_the_whole_recording(recording: Path) -> None:
    model, extractor = build_diarizer(), make_extractor(normalize="per_feature")
    samples, rate = soundfile.read(recording, dtype="float32")
    features = extractor(samples, sampling_rate=rate, return_tensors="pt").input_features[0]
    expected = SpeakerStreams(model).push({0: features[: len(samples) // 160]}, {0: True})[0]
    np.testing.assert_allclose(diarize(recording, (model, extractor)).probabilities, expected, atol=1e-5)


@pytest.mark.parametrize("seconds", [1 / 16000, 0.05, 0.1])
def test_clips_of_hardly_any_sound(diarizer: Diarizer, seconds: float) -> None:
    found = diarize(np.zeros(round(seconds * 16000), np.float32), diarizer)
    assert found.probabilities.shape[1] == 3
    assert all(turn.end <= seconds for turn in found.turns)
    with pytest.raises(ValueError, match=r"not finite|NaN|nan"):
        diarize(np.full(3200, np.nan, np.float32), diarizer)


def test_half_precision_is_near(recording: Path, diarizer: Diarizer) -> None:
    expected = diarize(recording, diarizer).probabilities
    half = build_diarizer().to(torch.bfloat16), diarizer[1]
    found = diarize(recording, half).probabilities
    assert found.dtype == np.float32
    assert np.abs(found - expected).mean() < 0.1


def test_loading(diarizer: Diarizer, recording: Path, tmp_path: Path) -> None:
    model, extractor = diarizer
    model.save_pretrained(tmp_path)
    extractor.save_pretrained(tmp_path)
    assert diarize(recording, tmp_path, device="cpu").turns == diarize(recording, diarizer).turns
    assert len(diarize(recording, load_diarizer(tmp_path, "cpu", "int8")).probabilities) == 150
    with pytest.raises(ValueError, match=r"model_type of .* is not supported; expected 'fastconformer_diarization'"):
        load_diarizer("demo")
    with pytest.raises(ValueError, match="dtype='float8' is not supported"):
        load_diarizer(tmp_path, dtype="float8")
    with pytest.raises(FileNotFoundError):
        load_diarizer(tmp_path / "missing.nemo")


def test_what_is_refused(diarizer: Diarizer, tmp_path: Path) -> None:
    (tmp_path / "text.wav").write_text("not audio")
    with pytest.raises(ValueError, match=r"text\.wav"):
        diarize(tmp_path / "text.wav", diarizer)
    with pytest.raises(ValueError, match="latency='low' is not supported; expected None with is_whole=True"):
        DiarizationOptions(latency="low", is_whole=True)
    with pytest.raises(ValueError, match="turns=3 is not supported"):
        DiarizationOptions(turns=3)  # type: ignore[arg-type]
    assert diarize(CLIP_PATHS[0], diarizer).duration_seconds > 0
