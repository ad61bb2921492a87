"""The speakers of transcripts: loaded once, the same for names and loaded models, and wrong sources refused."""

from __future__ import annotations

from pathlib import Path

import pytest
from diarizers import build_diarizer, make_extractor

from transformers_fastconformer import DiarizationOptions, add_speakers, diarize, load_model, transcribe
from transformers_fastconformer.demonstration import CLIP_PATHS
from transformers_fastconformer.diarization.speaker_finder import SpeakerFinder
from transformers_fastconformer.inference.reading import AudioClip


def test_names_and_loaded_models_give_the_same(tmp_path: Path) -> None:
    diarizer = build_diarizer().eval(), make_extractor()
    for part in diarizer:
        part.save_pretrained(tmp_path / "speakers")
    clip = AudioClip(CLIP_PATHS[0])
    transcript = transcribe(CLIP_PATHS[0], model=load_model("demo"))
    options = DiarizationOptions(latency="very_low")
    expected = add_speakers(transcript, diarize(CLIP_PATHS[0], diarizer, options).turns)
    assert any("speaker" in word for word in expected.timestamps["word"])
    for source in (diarizer, tmp_path / "speakers", str(tmp_path / "speakers")):
        finder = SpeakerFinder(source, "cpu", options)
        assert finder.add_to(clip, transcript).timestamps == expected.timestamps
    assert finder.describe() == {"diarize": str(tmp_path / "speakers")}


def test_which_are_alike() -> None:
    one, other = (build_diarizer(), make_extractor()), (build_diarizer(), make_extractor())
    low = DiarizationOptions(latency="low")
    assert SpeakerFinder("a", "cpu", low).is_like(SpeakerFinder("a", "cpu", DiarizationOptions(latency="low")))
    assert SpeakerFinder(one).is_like(SpeakerFinder(one))
    for left, right in (
        (SpeakerFinder("a"), None),
        (SpeakerFinder("a"), SpeakerFinder("b")),
        (SpeakerFinder("a"), SpeakerFinder("a", "cpu")),
        (SpeakerFinder("a"), SpeakerFinder("a", options=low)),
        (SpeakerFinder(one), SpeakerFinder(other)),
        (SpeakerFinder(one), SpeakerFinder("a")),
    ):
        assert not left.is_like(right)


def test_wrong_sources() -> None:
    with pytest.raises(ValueError, match="diarize=3 is not supported; expected the name of a Sortformer checkpoint"):
        SpeakerFinder(3)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="diarization='low' is not supported; expected DiarizationOptions or None"):
        SpeakerFinder("a", options="low")  # type: ignore[arg-type]
