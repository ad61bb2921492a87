"""The carried model of speakers: small, loaded by its name, and right about the carried conversation."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from transformers_fastconformer import (
    StreamingEngine,
    add_speakers,
    convert_nemo_checkpoint,
    diarize,
    load_diarizer,
    load_model,
    transcribe,
)
from transformers_fastconformer.audio.files import read_audio
from transformers_fastconformer.demonstration import CONVERSATION_PATH, SPEAKERS_CHECKPOINT_PATH
from transformers_fastconformer.diarization.live_speakers import LiveSpeakers
from transformers_fastconformer.inference.loading import SPEAKERS_DEMONSTRATION_NAME
from transformers_fastconformer.nemo.verify import verify_conversion

SPOKEN = [
    ("speaker_0", "two two six seven"),
    ("speaker_1", "six three three five five nine"),
    ("speaker_2", "four one"),
    ("speaker_1", "five six five five two four"),
]


@pytest.fixture(scope="module")
def diarizer() -> Any:
    return load_diarizer(SPEAKERS_DEMONSTRATION_NAME, device="cpu")


def test_who_said_what(diarizer: Any) -> None:
    transcript = add_speakers(transcribe(CONVERSATION_PATH, model="demo"), diarize(CONVERSATION_PATH, diarizer).turns)
    assert [(item["speaker"], item["segment"]) for item in transcript.timestamps["segment"]] == SPOKEN


def test_live_it_is_the_same(diarizer: Any) -> None:
    engine, speakers = StreamingEngine(*load_model("demo", device="cpu")), LiveSpeakers(diarizer)
    stream = engine.open()
    speakers.open(stream)
    samples = read_audio(CONVERSATION_PATH)
    words = []
    for start in range(0, len(samples), 8000):
        piece = {stream: samples[start : start + 8000]}
        words += speakers.step(piece, engine.step(piece))[stream]
    words += speakers.step({}, {stream: engine.finish(stream)})[stream]
    for name in {speaker for speaker, _ in SPOKEN}:
        expected = [text for speaker, text in SPOKEN if speaker == name]
        assert " ".join(word.text for word, speaker in words if speaker == name) == " ".join(expected)


def test_files() -> None:
    assert SPEAKERS_CHECKPOINT_PATH.stat().st_size <= 4_000_000
    assert CONVERSATION_PATH.stat().st_size <= 500_000
    card = (SPEAKERS_CHECKPOINT_PATH.parent / "README.md").read_text(encoding="utf-8")
    assert "license: cc-by-sa-4.0" in card
    assert "https://github.com/Jakobovski/free-spoken-digit-dataset" in card
    assert (SPEAKERS_CHECKPOINT_PATH.parent / "../LICENSE").is_file()


@pytest.mark.nemo
def test_stages_are_those_of_nemo(tmp_path: Path) -> None:
    convert_nemo_checkpoint(SPEAKERS_CHECKPOINT_PATH, tmp_path / "speakers")
    clips = {"conversation": read_audio(CONVERSATION_PATH)}
    report = verify_conversion(SPEAKERS_CHECKPOINT_PATH, tmp_path / "speakers", clips)
    assert report.passed
