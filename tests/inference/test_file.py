"""`transcribe_file`: every strategy, streamed as in memory, progress, confidences, channels, faults."""

from __future__ import annotations

import io
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from models import build_model, make_features

import transformers_fastconformer.audio.files as audio_module
import transformers_fastconformer.audio.log_mel as log_mel_module
import transformers_fastconformer.inference.clip_features as features_module
import transformers_fastconformer.inference.strategy as strategy_module
from transformers_fastconformer.audio.files import read_audio
from transformers_fastconformer.decoding.confidence import ConfidenceOptions
from transformers_fastconformer.decoding.options import DecodingOptions
from transformers_fastconformer.demonstration import CHECKPOINT_PATH, CLIP_PATHS
from transformers_fastconformer.inference.chunk_plan import WindowPlan
from transformers_fastconformer.inference.chunked import transcribe_features
from transformers_fastconformer.inference.clip_features import ClipFeatures, extract_clip
from transformers_fastconformer.inference.file import transcribe_file, transcribe_waveforms
from transformers_fastconformer.inference.loading import DEMONSTRATION_NAME, choose_device, load_model
from transformers_fastconformer.inference.many_files import AudioClip, Worker, transcribe_clips
from transformers_fastconformer.inference.options import ChunkOptions, TranscriptionOptions
from transformers_fastconformer.inference.strategy import plan_chunks, share_with_local_attention
from transformers_fastconformer.inference.transcribe import transcribe
from transformers_fastconformer.kernels.int8_linear import Int8Weight
from transformers_fastconformer.modeling.quantization import is_int8
from transformers_fastconformer.processing_fastconformer import FastConformerProcessor

soundfile = pytest.importorskip("soundfile", reason="the extra `audio` is not installed")

RATE = 16000
TEXTS = ("three one four one five nine", "two seven one eight zero six")
STRATEGIES: dict[str, dict[str, Any]] = {
    "full": {"strategy": "full"},
    "local": {"strategy": "local"},
    "chunked": {"strategy": "chunked", "chunk_length_s": 4.0},
}
HEADS = ("transducer", "ctc")
NUM_TURNS = 4
# A token is emitted a little earlier or later in another window.
MAX_FRAMES_APART = 4


@pytest.fixture(scope="module")
def loaded() -> dict[str, Any]:
    """Model and processor of each head."""
    return {head: load_model(CHECKPOINT_PATH, head) for head in HEADS}


@pytest.fixture(scope="module")
def long_samples() -> np.ndarray:
    """The two clips in turn with a second between them: half a minute, 48 words."""
    clips = [np.pad(read_audio(path), (0, RATE)) for path in CLIP_PATHS]
    return np.concatenate(clips * NUM_TURNS)


@pytest.fixture(scope="module")
def long_path(long_samples: np.ndarray, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("long") / "long.wav"
    soundfile.write(path, long_samples, RATE, subtype="FLOAT")
    return path


@pytest.fixture
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Everything that long files are cut into, small enough for half a minute."""
    monkeypatch.setattr(audio_module, "BLOCK_SAMPLES", 20000)
    monkeypatch.setattr(log_mel_module, "FRAMES_AT_ONCE", 200)
    monkeypatch.setattr(features_module, "MAX_HELD_FRAMES", 300)


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("how", STRATEGIES)
@pytest.mark.usefixtures("small_blocks")
def test_a_streamed_file_gives_the_words_and_times_of_the_whole_in_memory(
    loaded: dict[str, Any], long_samples: np.ndarray, long_path: Path, head: str, how: str, monkeypatch: Any
) -> None:
    model, processor = loaded[head]
    streamed = transcribe_file(model, processor, long_path, **STRATEGIES[how])
    assert streamed.strategy == how
    assert streamed.text == " ".join(TEXTS * NUM_TURNS)
    assert streamed.duration_seconds == len(long_samples) / RATE
    monkeypatch.setattr(features_module, "MAX_HELD_FRAMES", 10**9)
    held = transcribe_file(model, processor, long_path, **STRATEGIES[how])
    assert streamed == held
    if how != "local":
        (whole,) = transcribe_waveforms(model, processor, [long_samples], timestamps=True, **STRATEGIES[how])
        assert streamed.timestamps == whole.timestamps
        assert whole.strategy == how


def test_auto_reports_what_it_chose(
    loaded: dict[str, Any], long_samples: np.ndarray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, processor = loaded["ctc"]
    long_path = tmp_path / "longer.wav"  # local attention is estimated to be faster from 40 s or so
    soundfile.write(long_path, np.tile(long_samples, 2)[: len(long_samples) * 3 // 2], RATE, subtype="FLOAT")
    whole = transcribe_file(model, processor, long_path, timestamps=False)
    assert (whole.strategy, whole.strategy_reason) == ("full", "clips of up to 60 s are seen whole")
    monkeypatch.setattr(strategy_module, "MAX_WHOLE_SECONDS", 0.0)
    found = transcribe_file(model, processor, long_path, timestamps=False)
    assert (found.strategy, found.timestamps, found.confidence) == ("local", None, None)
    assert found.strategy_reason.startswith("others would take longer by estimate, 'full' ")
    short = transcribe_file(model, processor, CLIP_PATHS[0])
    assert (short.strategy, short.strategy_reason[:24]) == ("full", "by estimate one pass tak")
    asked = transcribe_file(model, processor, long_path, chunk_length_s=5.0)
    assert (asked.strategy, asked.strategy_reason) == ("chunked", "")
    assert model.config.position_embedding_type == "rel_pos"


@pytest.mark.parametrize("batch_size", [1, 8])
@pytest.mark.parametrize("head", HEADS)
@pytest.mark.usefixtures("small_blocks")
def test_no_word_is_lost_or_doubled_at_seams_of_local_windows(
    loaded: dict[str, Any], long_path: Path, head: str, batch_size: int
) -> None:
    model, processor = loaded[head]
    options: dict[str, Any] = {"strategy": "local", "chunk_length_s": 4.0, "batch_size": batch_size}
    found = transcribe_file(model, processor, long_path, **options)
    assert (found.strategy, found.text) == ("local", " ".join(TEXTS * NUM_TURNS))
    whole = transcribe_file(model, processor, long_path, strategy="full")
    assert found.timestamps is not None
    assert whole.timestamps is not None
    for word, expected in zip(found.timestamps["word"], whole.timestamps["word"], strict=True):
        assert abs(word["start_offset"] - expected["start_offset"]) <= MAX_FRAMES_APART


def test_local_windows_need_the_rule_of_full_attention(loaded: dict[str, Any], long_samples: np.ndarray) -> None:
    """A model that was trained with full attention forgets what its window does not hold, with local attention too."""
    model, processor = loaded["transducer"]
    clip = extract_clip(processor.feature_extractor, long_samples)
    plan = plan_chunks(model.config, processor.frame_seconds, ChunkOptions("local", 4.0))
    local = share_with_local_attention(model)
    texts = {
        restarts: processor.batch_decode(transcribe_features(local, [clip], plan, 8, restarts=restarts))[0]
        for restarts in (True, False)
    }
    assert texts[True] == " ".join(TEXTS * NUM_TURNS)
    assert len(texts[False].split()) < len(texts[True].split())


@pytest.mark.parametrize("head", HEADS)
def test_windows_are_shorter_where_memory_is_scarce(
    loaded: dict[str, Any], long_path: Path, head: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, processor = loaded[head]
    seen: list[tuple[int, ...]] = []
    encode = type(model).encode

    def note(encoder: Any, features: torch.Tensor, *given: Any, **named: Any) -> Any:
        seen.append(tuple(features.shape[:2]))
        return encode(encoder, features, *given, **named)

    monkeypatch.setattr(type(model), "encode", note)
    monkeypatch.setattr(strategy_module, "available_bytes", lambda device: 0)
    found = transcribe_file(model, processor, long_path)
    assert (found.strategy, found.text) == ("local", " ".join(TEXTS * NUM_TURNS))
    assert found.strategy_reason.endswith("GB by estimate, more than half of what is free")
    assert len(seen) > 2
    assert all(num_windows == 1 and mel_frames <= 1500 for num_windows, mel_frames in seen)


@pytest.mark.parametrize("how", STRATEGIES)
def test_progress_is_seconds_of_audio(loaded: dict[str, Any], long_path: Path, how: str) -> None:
    model, processor = loaded["ctc"]
    done: list[float] = []
    found = transcribe_file(model, processor, long_path, on_progress=done.append, batch_size=2, **STRATEGIES[how])
    assert done == sorted(done)
    assert done[-1] == found.duration_seconds
    assert len(done) > 5 if how == "chunked" else len(done) >= 1


def test_a_pipe_and_bytes_are_files_too(loaded: dict[str, Any]) -> None:
    class Pipe(io.BytesIO):
        def seekable(self) -> bool:
            return False

    model, processor = loaded["transducer"]
    content = CLIP_PATHS[0].read_bytes()
    for source in (Pipe(content), content, str(CLIP_PATHS[0])):
        assert transcribe_file(model, processor, source).text == TEXTS[0]


def test_channels(loaded: dict[str, Any], tmp_path: Path) -> None:
    model, processor = loaded["transducer"]
    both = [read_audio(path) for path in CLIP_PATHS]
    num_samples = max(map(len, both))
    stereo = np.stack([np.pad(samples, (0, num_samples - len(samples))) for samples in both], axis=1)
    soundfile.write(tmp_path / "stereo.wav", stereo, RATE)
    for channel in (0, 1):
        found = transcribe_file(model, processor, tmp_path / "stereo.wav", channel=channel)
        assert (found.text, found.channel) == (TEXTS[channel], channel)
    assert transcribe_file(model, processor, tmp_path / "stereo.wav").channel == "mix"
    with pytest.raises(ValueError, match=r"channels=2 of .* does not exist"):
        transcribe_file(model, processor, tmp_path / "stereo.wav", channel=2)


@pytest.mark.parametrize("num_samples", [1, 100, 159, 160, 1000])
@pytest.mark.parametrize("how", STRATEGIES)
def test_clips_too_short_for_a_word(loaded: dict[str, Any], tmp_path: Path, num_samples: int, how: str) -> None:
    soundfile.write(tmp_path / "short.wav", np.zeros(num_samples), RATE)
    for model, processor in loaded.values():
        found = transcribe_file(model, processor, tmp_path / "short.wav", **STRATEGIES[how])
        assert (found.text, found.duration_seconds) == ("", num_samples / RATE)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"strategy": "best"}, "strategy='best' is not supported"),
        ({"language": "de"}, "language='de' cannot be written with the vocabulary"),
        ({"max_symbols_per_step": 0}, "max_symbols_per_step=0 is not supported"),
        ({"chunk_length_s": 0.1}, "chunk_length_s=0.1 is not supported"),
        ({"channel": "left"}, "channels='left' is not supported"),
        ({"batch_size": 0}, "batch_size=0 is not supported"),
    ],
)
def test_options_that_are_none(loaded: dict[str, Any], options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        transcribe_file(*loaded["transducer"], CLIP_PATHS[0], **options)


def test_what_is_no_audio(loaded: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"nothing.wav' does not exist"):
        transcribe_file(*loaded["ctc"], tmp_path / "nothing.wav")
    (tmp_path / "text.wav").write_text("no audio")
    with pytest.raises(ValueError, match=r"text.wav' cannot be decoded"):
        transcribe_file(*loaded["ctc"], tmp_path / "text.wav")


def test_the_samples_of_a_file_are_never_held(loaded: dict[str, Any], tmp_path: Path, monkeypatch: Any) -> None:
    """Numpy's memory: four minutes are 15 MB of samples, and a block of a file is 1 MB."""
    monkeypatch.setattr(features_module, "MAX_HELD_FRAMES", 5000)
    path = tmp_path / "long.wav"
    with soundfile.SoundFile(path, "w", RATE, 1) as file:
        for _ in range(240):
            file.write(np.zeros(RATE))
    tracemalloc.start()
    try:
        found = transcribe_file(*loaded["ctc"], path, strategy="chunked", timestamps=False)
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert found.duration_seconds == 240
    assert peak_bytes < 5 * 2**20


# Confidences


@pytest.mark.parametrize("head", HEADS)
def test_confidences_are_those_of_generate(loaded: dict[str, Any], head: str) -> None:
    model, processor = loaded[head]
    options = ConfidenceOptions(aggregation="mean")
    inputs = processor(read_audio(CLIP_PATHS[0]), sampling_rate=RATE, return_tensors="pt")
    output = model.generate(**inputs, return_dict_in_generate=True, confidence=options)
    (expected,) = processor.batch_decode(output, confidence=True)
    for how in STRATEGIES.values():
        found = transcribe_file(model, processor, CLIP_PATHS[0], confidence=options, **how)
        assert found.word_confidences == pytest.approx(expected.word_confidences, abs=1e-4)
        assert found.confidence == pytest.approx(expected.confidence, abs=1e-4)
        assert len(found.word_confidences or []) == 6


@pytest.mark.parametrize(("kind", "aggregation"), [("ctc", "mean"), ("tdt", "mean"), ("tdt", "min"), ("rnnt", "min")])
def test_confidences_of_windows_are_those_of_the_whole(kind: str, aggregation: str) -> None:
    """A token on both sides of a border has the confidence of all its frames."""
    model = build_model(kind, position_embedding_type="rel_pos_local_attn", attention_context=[4, 4])
    options = ConfidenceOptions(aggregation=aggregation)
    lengths = [300, 37, 0, 211]
    features = make_features(lengths, padded_frames=301)
    clips = [ClipFeatures(clip[: length + 1], length) for clip, length in zip(features, lengths, strict=True)]
    whole = transcribe_features(model, clips, batch_size=4, decoding=DecodingOptions(confidence=options))
    assert whole.token_confidences is not None
    assert whole.token_confidences.shape == whole.sequences.shape
    for plan in (WindowPlan(31, 14, 14), WindowPlan(29, 14, 14)):
        found = transcribe_features(model, clips, plan, 3, decoding=DecodingOptions(confidence=options))
        assert torch.equal(found.sequences, whole.sequences)
        torch.testing.assert_close(found.token_confidences, whole.token_confidences, atol=1e-4, rtol=0)
        assert found.confidence_aggregation == aggregation
    assert transcribe_features(model, clips).token_confidences is None


def test_a_token_as_long_as_the_clip_has_the_confidence_of_all_its_frames() -> None:
    model = build_model("ctc", position_embedding_type="rel_pos_local_attn", attention_context=[4, 4])
    with torch.no_grad():
        model.ctc_head.weight.mul_(1e-2)
        model.ctc_head.bias.zero_()
        model.ctc_head.bias[3] = 1.0  # the same token in every frame, more or less surely
    options = ConfidenceOptions(aggregation="min")
    clips = [ClipFeatures(make_features([1000])[0], 999)]
    whole = transcribe_features(model, clips, decoding=DecodingOptions(confidence=options))
    found = transcribe_features(model, clips, WindowPlan(29, 14, 14), 4, DecodingOptions(confidence=options))
    assert found.sequences.tolist() == whole.sequences.tolist() == [[3]]
    torch.testing.assert_close(found.token_confidences, whole.token_confidences, atol=1e-6, rtol=0)


@pytest.mark.parametrize("strategy", ["full", "local", "chunked"])
def test_8_bits_are_used_by_every_strategy(
    loaded: dict[str, Any], long_path: Path, strategy: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, processor = load_model(CHECKPOINT_PATH, dtype="int8")
    assert is_int8(model)
    assert model.dtype == torch.float32
    calls = []
    multiply = Int8Weight.multiply
    monkeypatch.setattr(Int8Weight, "multiply", lambda *given: (calls.append(1), multiply(*given))[1])
    transcript = transcribe_file(model, processor, long_path, strategy=strategy)
    assert calls
    calls.clear()
    assert transcript.text == transcribe_file(*loaded["transducer"], long_path, strategy=strategy).text
    assert not calls


def test_the_demonstration_checkpoint_has_a_name(
    loaded: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    model, _ = load_model(DEMONSTRATION_NAME)
    expected = loaded["transducer"][0].state_dict()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in model.state_dict().items())
    (tmp_path / DEMONSTRATION_NAME).mkdir()  # a path is a path
    with pytest.raises((OSError, ValueError)):
        load_model(Path(DEMONSTRATION_NAME))


@pytest.mark.parametrize(
    ("has_cuda", "has_mps", "is_int8", "expected"),
    [
        (True, True, False, "cuda"),
        (False, True, False, "mps"),
        (False, False, False, "cpu"),
        (True, True, True, "cpu"),
    ],
)
def test_the_device_is_chosen_by_what_is_there(
    monkeypatch: pytest.MonkeyPatch, has_cuda: bool, has_mps: bool, is_int8: bool, expected: str
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: has_cuda)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: has_mps)
    assert choose_device("auto", is_int8) == choose_device(is_int8=is_int8) == expected
    assert choose_device("cpu") == "cpu"


def test_a_device_that_is_named_must_be_there() -> None:
    with pytest.raises(ValueError, match=r"device='nodevice' is not available; this machine has cpu"):
        choose_device("nodevice")


# Models made by hand

FRONTS: dict[str, dict[str, Any]] = {
    **{f"dw_striding x{factor}": {"subsampling_factor": factor} for factor in (2, 8, 16)},
    "striding x4": {"subsampling_type": "striding", "subsampling_factor": 4},
    "stacking x3": {"subsampling_type": "stacking", "subsampling_factor": 3},
    "stacking_norm x4": {"subsampling_type": "stacking_norm", "subsampling_factor": 4},
    "none": {"subsampling_type": "none"},
    "factor 1": {"subsampling_factor": 1, "subsampling_type": "stacking"},
    "none, reduction x4": {
        "subsampling_type": "none",
        "reduction_type": "striding",
        "reduction_factor": 4,
        "reduction_position": 0,
    },
    "dw_striding x4, reduction x2": {
        "subsampling_factor": 4,
        "reduction_type": "pooling",
        "reduction_factor": 2,
        "reduction_position": -1,
    },
}


def make_noise(num_mels: int) -> torch.Tensor:
    return torch.randn(1, 200, num_mels, generator=torch.Generator().manual_seed(0))


def build_recognizer(loaded: dict[str, Any], **front: Any) -> tuple[Any, FastConformerProcessor]:
    """A random model that emits tokens everywhere, and the parts of the demonstration checkpoint."""
    _, processor = loaded["ctc"]
    vocab_size = processor.tokenizer.blank_token_id + 1
    model = build_model("ctc", vocab_size=vocab_size, num_mel_bins=processor.feature_extractor.feature_size, **front)
    with torch.no_grad():  # no class is ahead of the others everywhere
        frames = model.encoder(make_noise(model.config.num_mel_bins)).last_hidden_state
        model.ctc_head.bias.sub_(model.ctc_head(frames).mean(dim=(0, 1)))
    factor = model.config.mel_frames_per_encoder_frame
    return model, FastConformerProcessor(processor.feature_extractor, processor.tokenizer, factor)


@pytest.mark.parametrize("front", FRONTS)
def test_times_are_seconds_whatever_the_front_of_the_encoder(loaded: dict[str, Any], front: str) -> None:
    """From every door, in one window and in several, a clip of two seconds ends after two seconds."""
    model, processor = build_recognizer(loaded, **FRONTS[front])
    clip = 0.1 * np.random.default_rng(0).standard_normal(2 * RATE).astype(np.float32)
    recognize = transformers.pipeline(
        "automatic-speech-recognition",
        model=model,
        tokenizer=processor.tokenizer,
        feature_extractor=processor.feature_extractor,
        device="cpu",
    )
    file = io.BytesIO()
    soundfile.write(file, clip, RATE, format="WAV", subtype="FLOAT")
    wave = file.getvalue()
    for options in ({}, {"chunk_length_s": 1.6, "stride_length_s": 0.32}):
        chunks = recognize(clip, return_timestamps="char", **options)["chunks"]
        spans = [chunk["timestamp"] for chunk in chunks]
        for found in (
            *transcribe_waveforms(model, processor, [clip], timestamps=["char"], **options),
            transcribe_file(model, processor, wave, timestamps=["char"], strategy="auto", **options),
            transcribe(clip, (model, processor), timestamps=["char"], **options),
        ):
            assert found.timestamps is not None
            assert [(item["start"], item["end"]) for item in found.timestamps["char"]] == spans
        assert len(spans) > 3
        assert 1.0 < max(end for _, end in spans) <= 2.0 + processor.frame_seconds
    inputs = processor(clip, sampling_rate=RATE, return_tensors="pt")
    output = model.generate(**inputs, return_dict_in_generate=True)
    assert output.encoder_lengths.tolist() == [model.config.count_encoder_frames(200)]


def test_a_processor_of_another_model_is_refused(loaded: dict[str, Any]) -> None:
    """Its times would be wrong by a factor and nobody would be told."""
    model, _ = build_recognizer(loaded, subsampling_type="none")
    _, processor = loaded["ctc"]
    clip = np.zeros(RATE, dtype=np.float32)
    message = r"processor\.subsampling_factor=8 is not supported; expected 1, the mel frames of an encoder frame"
    for door in (
        lambda: transcribe_waveforms(model, processor, [clip]),
        lambda: transcribe_file(model, processor, CLIP_PATHS[0]),
        lambda: transcribe(clip, (model, processor)),
        lambda: list(transcribe_clips([Worker(model, processor)], [AudioClip(clip)], TranscriptionOptions())),
        lambda: transformers.pipeline("automatic-speech-recognition", model=model, processor=processor, device="cpu")(
            clip
        ),
    ):
        with pytest.raises(ValueError, match=message):
            door()


def test_no_time_lies_after_the_end_of_the_clip(loaded: dict[str, Any]) -> None:
    """An encoder frame is 80 ms, so that the last one ends up to that much later than the audio; offsets keep it."""
    model, processor = loaded["transducer"]
    waveform = read_audio(CLIP_PATHS[0])
    clips = [waveform[:samples] for samples in range(10000, 30000, 1700)]
    beyond = 0
    for transcript in transcribe_waveforms(model, processor, clips, timestamps=True):
        assert transcript.timestamps is not None
        for items in transcript.timestamps.values():
            for item in items:
                assert item["start"] <= item["end"] <= transcript.duration_seconds
                beyond += item["end_offset"] * processor.frame_seconds > transcript.duration_seconds
    assert beyond > 0


def test_tokens_and_events_of_a_transcript(loaded: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """Event tokens are left out of text and tokens unless they are asked for, and are listed either way."""
    model, processor = loaded["transducer"]
    waveform = read_audio(CLIP_PATHS[0])
    (plain,) = transcribe_waveforms(model, processor, [waveform], timestamps=False)
    assert plain.text == TEXTS[0]
    assert plain.token_ids == model.generate(**processor(waveform, sampling_rate=RATE))[0].tolist()
    assert processor.decode(plain.token_ids) == plain.text
    assert plain.events == []
    assert plain.timestamps is None

    event = plain.token_ids[-1]
    monkeypatch.setattr(processor.tokenizer, "_event_ids", frozenset({event}))
    for options in ({}, {"strategy": "chunked", "chunk_length_s": 1.5}):
        (without,) = transcribe_waveforms(model, processor, [waveform], **options)
        (kept,) = transcribe_waveforms(model, processor, [waveform], skip_special_tokens=False, **options)
        assert kept.text == plain.text
        assert kept.token_ids == plain.token_ids
        assert without.token_ids == [token_id for token_id in plain.token_ids if token_id != event]
        assert without.text == processor.decode(without.token_ids)
        assert [item["event"] for item in kept.events] == processor.tokenizer.vocabulary_tokens(
            [event] * plain.token_ids.count(event)
        )
        assert kept.events == without.events
    with pytest.raises(ValueError, match="skip_special_tokens='no' is not supported"):
        transcribe_waveforms(model, processor, [waveform], skip_special_tokens="no")
