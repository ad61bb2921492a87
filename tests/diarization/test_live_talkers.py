"""Live transcripts of each speaker: those of the whole recording, however it comes, next to other streams."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from diarizers import build_diarizer, make_extractor
from live_models import build_live, run, text_of

from transformers_fastconformer import (
    DecodingOptions,
    EngineOptions,
    LiveTalkers,
    StreamingEngine,
    StreamOptions,
    StreamRefusedError,
    diarize,
    follow_speaker,
    transcribe_speakers,
)
from transformers_fastconformer.demonstration import CLIP_PATHS

KERNELS = {"has_speaker_kernel": True, "has_background_kernel": True, "later_speaker_kernels": [1]}
FEW = DecodingOptions(max_symbols_per_step=1)
OPTIONS = EngineOptions(is_exact=True, decoding=FEW)


@pytest.fixture(scope="module")
def worker() -> tuple[Any, Any]:
    return build_live("rnnt", **KERNELS)


@pytest.fixture(scope="module")
def diarizer() -> tuple[Any, Any]:
    return build_diarizer(), make_extractor()


@pytest.fixture(scope="module")
def samples() -> np.ndarray:
    return soundfile.read(CLIP_PATHS[0], dtype="float32")[0]


def hear(talkers: LiveTalkers, recordings: dict[int, np.ndarray], size: int) -> dict[int, dict[int, str]]:
    """The text of each speaker of recordings that come in pieces and end one after the other."""
    texts: dict[int, dict[int, str]] = {recording: {} for recording in recordings}
    places = dict.fromkeys(recordings, 0)

    def add(recording: int, updates: dict[int, Any]) -> None:
        for speaker, update in updates.items():
            assert update.error is None
            texts[recording][speaker] = texts[recording].get(speaker, "") + update.committed

    while places:
        pieces = {recording: recordings[recording][place : place + size] for recording, place in places.items()}
        for recording, updates in talkers.step(pieces).items():
            add(recording, updates)
            places[recording] += size
            if places[recording] >= len(recordings[recording]):
                add(recording, talkers.finish(recording))
                del places[recording]
    return texts


def test_live_is_the_whole_recording(worker, diarizer, samples: np.ndarray) -> None:
    expected = transcribe_speakers(samples, worker, diarizer, decoding=FEW)
    assert len(expected.by_speaker) > 1
    part = samples[: len(samples) // 2]
    for size in (1600, 9999):
        engine = StreamingEngine(*worker, OPTIONS)
        talkers = LiveTalkers(engine, diarizer)
        assert talkers.latency_ms > engine.latency_ms
        first, second = talkers.open(), talkers.open()
        other = engine.open()
        texts = hear(talkers, {first: samples, second: part}, size)
        for speaker, transcript in expected.by_speaker.items():
            assert texts[first][speaker].strip() == transcript.text
        assert len(set(texts[first].values())) > 1
        half = transcribe_speakers(part, worker, diarizer, decoding=FEW)
        assert half.by_speaker
        for speaker, transcript in half.by_speaker.items():
            assert texts[second][speaker].strip() == transcript.text
        assert talkers.open_recordings == []
        assert engine.open_streams == [other]


def test_a_stream_of_everybody_next_to_followed_ones(worker, diarizer, samples: np.ndarray) -> None:
    alone = text_of(run(StreamingEngine(*worker, OPTIONS), samples, [4000]))
    engine = StreamingEngine(*worker, OPTIONS)
    said = torch.from_numpy(diarize(samples, diarizer).probabilities)
    everybody, followed = engine.open(), engine.open(StreamOptions(follows_speaker=True))
    engine.follow(followed, follow_speaker(said, 0))
    texts = {everybody: "", followed: ""}
    for start in range(0, len(samples), 4000):
        for stream, update in engine.step(dict.fromkeys(texts, samples[start : start + 4000])).items():
            texts[stream] += update.committed
    for stream in texts:
        texts[stream] += engine.finish(stream).committed
    assert texts[everybody] == alone
    assert texts[followed] != alone


def test_a_stream_waits_to_be_told_and_is_kept(worker, diarizer, samples: np.ndarray) -> None:
    engine = StreamingEngine(*worker, OPTIONS)
    said = follow_speaker(torch.from_numpy(diarize(samples, diarizer).probabilities), 0)
    stream = engine.open(StreamOptions(follows_speaker=True))
    assert engine.step({stream: samples})[stream].decoded_seconds == 0.0
    engine.follow(stream, said[:7])
    assert engine.step({stream: []})[stream].decoded_seconds == pytest.approx(0.48)  # chunks of two frames
    again = engine.restore(engine.save(stream))
    found = {}
    for one in (stream, again):
        engine.follow(one, said[7:])
        found[one] = engine.finish(one)
    assert found[stream].committed == found[again].committed != ""
    stream = engine.open(StreamOptions(follows_speaker=True))
    engine.step({stream: samples[:8000]})
    with pytest.raises(ValueError, match="expected False to commit; finish ends it"):
        engine.commit(stream)
    assert engine.finish(stream).decoded_seconds == pytest.approx(0.5)  # nobody spoke


def test_what_goes_wrong_in_one_recording(worker, diarizer, samples: np.ndarray) -> None:
    engine = StreamingEngine(*worker, OPTIONS)
    talkers = LiveTalkers(engine, diarizer, num_speakers=2)
    first, second = talkers.open(), talkers.open()
    assert len(engine.open_streams) == 4
    found = talkers.step({first: ["text"], second: samples[:16000]})
    assert all(isinstance(update.error, ValueError) for update in found[first].values())
    assert all(update.error is None for update in found[second].values())
    talkers.step({first: samples[:16000], second: samples[16000:20000]})
    with pytest.raises(ValueError, match="samples"):
        talkers.finish(first, ["text"])
    alone = LiveTalkers(StreamingEngine(*worker, OPTIONS), diarizer, num_speakers=2)
    recording = alone.open()
    expected = hear(alone, {recording: samples[:16000]}, 16000)[recording]
    assert set(expected) == {0, 1}
    talkers.finish(first)
    bad = samples[:16000].copy()
    bad[5000] = np.nan
    found = talkers.step({second: bad})
    assert all(update.error is not None for update in found[second].values())
    talkers.close(second)
    assert (talkers.open_recordings, engine.open_streams) == ([], [])
    for call in (lambda: talkers.step({second: samples}), lambda: talkers.finish(7), lambda: talkers.close(7)):
        with pytest.raises(ValueError, match=r"recording=\d is not open"):
            call()


def test_a_full_engine_opens_no_part_of_a_recording(worker, diarizer) -> None:
    engine = StreamingEngine(*worker, EngineOptions(max_streams=4))
    talkers = LiveTalkers(engine, diarizer)
    talkers.open()
    with pytest.raises(StreamRefusedError):
        talkers.open()
    assert len(engine.open_streams) == 3


def test_what_is_refused(worker, diarizer, samples: np.ndarray) -> None:
    engine = StreamingEngine(*worker)
    with pytest.raises(ValueError, match="num_speakers=4 is not supported; expected at most 3"):
        LiveTalkers(engine, diarizer, num_speakers=4)
    with pytest.raises(ValueError, match="is_streaming=False"):
        LiveTalkers(engine, (build_diarizer(is_streaming=False), make_extractor()))
    plain = StreamingEngine(*build_live("rnnt"))
    with pytest.raises(ValueError, match="expected a multi-talker model that streams with a cache"):
        LiveTalkers(plain, diarizer)
    with pytest.raises(ValueError, match="follows_speaker=True is not supported; expected False: the model"):
        plain.open(StreamOptions(follows_speaker=True))
    windows = StreamingEngine(*worker, EngineOptions(mode="buffered"))
    with pytest.raises(ValueError, match="follows_speaker=True is not supported"):
        windows.open(StreamOptions(follows_speaker=True))
    stream = engine.open(StreamOptions(follows_speaker=True))
    for activities, message in (
        (torch.zeros(3), r"the shape of activities=\(3,\)"),
        (torch.zeros(3, 3), r"the shape of activities=\(3, 3\)"),
        (torch.full((3, 2), 2.0), "expected values between 0 and 1"),
    ):
        with pytest.raises(ValueError, match=message):
            engine.follow(stream, activities)
    with pytest.raises(ValueError, match="follows_speaker=False is not supported"):
        engine.follow(engine.open(), torch.zeros(3, 2))
