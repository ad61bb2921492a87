"""The package sherpa-onnx on what is exported for it, and what it cannot express."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from transformers_fastconformer import export_onnx, load_model, read_audio, score_texts, transcribe
from transformers_fastconformer.demonstration import CLIP_PATHS
from transformers_fastconformer.export import sherpa_onnx


def test_metadata_are_on_the_first_graph(demonstration: tuple[Any, Any]) -> None:
    model, processor = demonstration
    sherpa_onnx.check_expressible(model, processor)
    entries = sherpa_onnx.metadata(model, processor)["encoder.onnx"]
    assert "tdt" in entries["url"], "by which it knows a TDT model"
    assert entries["vocab_size"] == str(model.config.vocab_size - 1)
    assert entries["normalize_type"] == "per_feature"
    ctc = load_model("demo", "ctc", "cpu", "float32")
    assert set(sherpa_onnx.metadata(*ctc)) == {"model.onnx"} == set(sherpa_onnx.graph_parts(ctc[0]))


def test_features_without_normalisation_are_told() -> None:
    model, processor = load_model("demo-streaming", device="cpu", dtype="float32")
    sherpa_onnx.check_expressible(model, processor)
    entries = sherpa_onnx.metadata(model, processor)["encoder.onnx"]
    assert entries["normalize_type"] == ""
    assert "tdt" not in entries["url"]


@pytest.mark.parametrize(
    ("name", "value"), [("durations", [0, 2, 4, 8]), ("decoder_type", "stateless"), ("num_prompts", 2)]
)
def test_other_models_are_refused(demonstration: tuple[Any, Any], name: str, value: Any) -> None:
    model, processor = demonstration
    changed = copy.copy(model)
    changed.config = copy.deepcopy(model.config)
    setattr(changed.config, name, value)
    with pytest.raises(ValueError, match=rf"{name}=.* is not supported; expected"):
        sherpa_onnx.check_expressible(changed, processor)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("model", "head"), [("demo", "ctc"), ("demo", "transducer"), ("demo-streaming", "transducer")]
)
def test_words_are_nearly_those_of_this_package(model: str, head: str, tmp_path: Path, speech_dir: Path) -> None:
    """Its features differ from NeMo's by design; real digits put end to end come out the same but for a few words."""
    theirs = pytest.importorskip("sherpa_onnx")
    pair = load_model(model, head, "cpu", "float32")
    folder = tmp_path / "out"
    assert max(export_onnx(pair, folder, target="sherpa-onnx").differences.values()) < 1e-4
    tokens = str(folder / "tokens.txt")
    if head == "ctc":
        recognizer = theirs.OfflineRecognizer.from_nemo_ctc(model=str(folder / "model.onnx"), tokens=tokens)
    else:
        graphs = [str(folder / f"{name}.onnx") for name in ("encoder", "decoder", "joiner")]
        recognizer = theirs.OfflineRecognizer.from_transducer(*graphs, tokens, model_type="nemo_transducer")
    paths = sorted((speech_dir / "digits").rglob("*.flac"))
    generator = np.random.default_rng(5)
    clips = [np.asarray(read_audio(path, 16000), dtype=np.float32) for path in CLIP_PATHS]
    for _ in range(20):
        chosen = generator.choice(len(paths), size=generator.integers(2, 8))
        clips.append(np.concatenate([read_audio(paths[number], 16000) for number in chosen]).astype(np.float32))
    expected = [transcript.text for transcript in transcribe(list(clips), pair)]
    found = []
    for clip in clips:
        stream = recognizer.create_stream()
        stream.accept_waveform(16000, clip)
        recognizer.decode_stream(stream)
        found.append(stream.result.text.strip())
    counts = [text.words for text in score_texts(expected, found)]
    num_errors, num_words = sum(part.num_errors for part in counts), sum(part.num_reference for part in counts)
    print(f"{model} {head}: {num_errors} of {num_words} words differ")
    assert num_errors < 0.1 * num_words
