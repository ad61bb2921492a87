"""Transcripts of each speaker: a pass that follows the speaker, by every door; joined, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from diarizers import build_diarizer, make_extractor
from live_models import build_live

from transformers_fastconformer import (
    Diarization,
    SpeakerTranscripts,
    Transcript,
    VoiceActivityOptions,
    diarize,
    follow_speaker,
    transcribe_speakers,
)
from transformers_fastconformer.demonstration import CLIP_PATHS
from transformers_fastconformer.inference.reading import AudioClip

KERNELS = {"has_speaker_kernel": True, "has_background_kernel": True, "later_speaker_kernels": [1]}


@pytest.fixture(scope="module")
def worker() -> tuple[Any, Any]:
    return build_live("rnnt", **KERNELS)


@pytest.fixture(scope="module")
def diarizer() -> tuple[Any, Any]:
    return build_diarizer(), make_extractor()


@pytest.fixture(scope="module")
def samples() -> np.ndarray:
    return np.concatenate([soundfile.read(path, dtype="float32")[0] for path in CLIP_PATHS[:2]])


def test_each_speaker_has_a_pass(worker, diarizer, samples: np.ndarray, tmp_path: Path) -> None:
    model, processor = worker
    found = transcribe_speakers(samples, worker, diarizer, max_symbols_per_step=2)
    said = diarize(samples, diarizer)
    inputs = processor.feature_extractor(samples, sampling_rate=16000, return_tensors="pt")
    rows = model.config.subsampling.count_rows(inputs["input_features"].shape[1])
    probabilities = torch.from_numpy(said.probabilities)
    probabilities = torch.nn.functional.pad(probabilities, (0, 0, 0, rows - len(probabilities)))
    heard = [speaker for speaker in range(3) if float(probabilities[:, speaker].max()) > 0.5]
    assert list(found.by_speaker) == heard
    assert len(heard) > 1
    for speaker in heard:
        activities = follow_speaker(probabilities, speaker)[None]
        tokens = model.generate(**inputs, speaker_activities=activities, max_symbols_per_step=2)
        assert found.by_speaker[speaker].token_ids == tokens[0].tolist()
    assert len({transcript.text for transcript in found.by_speaker.values()}) == len(heard)

    path = tmp_path / "meeting.wav"
    soundfile.write(path, samples, 16000, subtype="FLOAT")
    texts = {speaker: transcript.text for speaker, transcript in found.by_speaker.items()}
    for audio, speakers in (
        (path, said),
        (path.read_bytes(), said),
        ((16000, samples), said.probabilities),
        (AudioClip(str(path), seconds=len(samples) / 16000), torch.from_numpy(said.probabilities)),
    ):
        again = transcribe_speakers(audio, worker, speakers, max_symbols_per_step=2)
        assert {speaker: transcript.text for speaker, transcript in again.by_speaker.items()} == texts
    with path.open("rb") as file:
        again = transcribe_speakers(file, worker, diarizer, max_symbols_per_step=2)
    assert {speaker: transcript.text for speaker, transcript in again.by_speaker.items()} == texts


def test_windows_follow_the_speaker_too(worker, diarizer, samples: np.ndarray) -> None:
    said = diarize(samples, diarizer)
    one_speaker = np.zeros_like(said.probabilities)
    one_speaker[:, 0] = said.probabilities[:, 0]
    # With a chunk of context on each side nearly all frames are those of the whole clip.
    found = transcribe_speakers(samples, worker, one_speaker, strategy="chunked", chunk_length_s=6, stride_length_s=2)
    whole = transcribe_speakers(samples, worker, one_speaker)
    assert list(found.by_speaker) == list(whole.by_speaker) == [0]
    assert found.by_speaker[0].strategy == "chunked"
    tokens, expected = found.by_speaker[0].token_ids, whole.by_speaker[0].token_ids
    assert tokens
    assert expected
    alike = sum(one == other for one, other in zip(tokens, expected, strict=False))
    assert alike > 0.5 * len(expected)


def make_words(*words: tuple[str, float, float]) -> list[dict[str, Any]]:
    return [{"word": word, "start": start, "end": end} for word, start, end in words]


def make_transcript(words: list[dict[str, Any]], ends: list[float], **options: Any) -> Transcript:
    text = " ".join(word["word"] for word in words)
    segments = [{"segment": "", "start": 0.0, "end": end} for end in ends]
    return Transcript(text, {"word": words, "segment": segments}, 9.0, **options)


def test_stretches_are_joined_in_order_of_their_starts() -> None:
    first = make_words(("how", 0.0, 0.2), ("are", 0.3, 0.5), ("you.", 0.6, 0.8), ("good", 4.0, 4.4))
    second = make_words(("fine.", 0.7, 1.0), ("and", 1.2, 1.4), ("you", 1.5, 1.7))
    confidences = [0.1, 0.2, 0.3, 0.4], [0.5, 0.6, 0.7]
    transcripts = {
        0: make_transcript(first, [0.8, 4.4], word_confidences=confidences[0], events=[]),
        2: make_transcript(second, [1.0, 1.7], word_confidences=confidences[1], events=[]),
    }
    joined = SpeakerTranscripts(transcripts, 9.0, ("word", "segment")).join()
    assert joined.text == "how are you. fine. and you good"
    assert [
        (item["segment"], item["speaker"], item["start"], item["end"]) for item in joined.timestamps["segment"]
    ] == [
        ("how are you.", "speaker_0", 0.0, 0.8),
        ("fine.", "speaker_2", 0.7, 1.0),
        ("and you", "speaker_2", 1.2, 1.7),
        ("good", "speaker_0", 4.0, 4.4),
    ]
    assert " ".join(word["word"] for word in joined.timestamps["word"]) == joined.text
    assert joined.word_confidences == [0.1, 0.2, 0.3, 0.5, 0.6, 0.7, 0.4]
    assert [word["speaker"][-1] for word in joined.timestamps["word"]] == list("0002220")
    silence = SpeakerTranscripts({}, 3.0, ("word",)).join()
    assert (silence.text, silence.duration_seconds) == ("", 3.0)
    assert silence.timestamps == {"word": [], "segment": []}
    with pytest.raises(ValueError, match="'word' among them"):
        SpeakerTranscripts(transcripts, 9.0, ("char",)).join()


def test_nobody_and_too_little(worker, diarizer) -> None:
    silence = transcribe_speakers(np.zeros(16000, dtype=np.float32), worker, np.zeros((13, 2), dtype=np.float32))
    assert silence.by_speaker == {}
    assert silence.duration_seconds == 1.0
    assert silence.join().text == ""
    with pytest.raises(ValueError, match="audio is empty"):
        transcribe_speakers(np.zeros(0, dtype=np.float32), worker, diarizer)


def test_what_is_refused(worker, samples: np.ndarray) -> None:
    probabilities = np.zeros((20, 2), dtype=np.float32)
    with pytest.raises(ValueError, match=r"the frames of speakers=20 is not supported; expected \d+, the encoder"):
        transcribe_speakers(samples, worker, probabilities)
    with pytest.raises(ValueError, match=r"the shape of speakers=\(20,\)"):
        transcribe_speakers(samples, worker, probabilities[:, 0])
    with pytest.raises(ValueError, match="expected activities between 0 and 1"):
        transcribe_speakers(samples[:16000], worker, np.full((13, 2), 2.0))
    with pytest.raises(ValueError, match=r"frame_seconds of the speakers=0.04 is not supported; expected the model's"):
        transcribe_speakers(samples, worker, Diarization([], 1.0, probabilities, 0.04))
    with pytest.raises(ValueError, match="expected a multi-talker model"):
        transcribe_speakers(samples, build_live("rnnt"), probabilities)
    with pytest.raises(ValueError, match="expected None, as speaker activities say who speaks when"):
        transcribe_speakers(samples, worker, probabilities, voice_activity=VoiceActivityOptions())
