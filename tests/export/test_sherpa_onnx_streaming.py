"""Live streams in the package sherpa-onnx, and what it cannot stream."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from transformers_fastconformer import StreamingTranscriber, export_onnx, load_model, read_audio, score_texts
from transformers_fastconformer.export import sherpa_onnx_streaming
from transformers_fastconformer.export.streaming_graphs import StreamSizes


@pytest.fixture(scope="module")
def demonstration() -> tuple[Any, Any]:
    return load_model("demo-streaming", device="cpu", dtype="float32")


def test_metadata_tell_sizes(demonstration: tuple[Any, Any]) -> None:
    model, processor = demonstration
    sherpa_onnx_streaming.check_expressible(model, processor)
    entries = sherpa_onnx_streaming.metadata(model, processor)["encoder.onnx"]
    sizes = StreamSizes.of(model)
    assert entries["window_size"] == str(sizes.window_mel_frames)
    assert entries["chunk_shift"] == str(sizes.shift_mel_frames)
    assert entries["chunk_size_ms"] == str(10 * sizes.shift_mel_frames)
    assert entries["cache_last_channel_dim3"] == str(2 * model.config.hidden_size)
    assert entries["cache_last_time_dim3"] == str(model.config.conv_kernel_size - 1)
    assert entries["normalize_type"] == ""
    ctc = load_model("demo-streaming", "ctc", "cpu", "float32")
    assert (
        set(sherpa_onnx_streaming.metadata(*ctc)) == {"model.onnx"} == set(sherpa_onnx_streaming.graph_parts(ctc[0]))
    )


def test_other_models_are_refused(demonstration: tuple[Any, Any]) -> None:
    with pytest.raises(ValueError, match="head='tdt' is not supported; expected 'ctc' or 'rnnt' for a live stream"):
        sherpa_onnx_streaming.check_expressible(*load_model("demo", device="cpu", dtype="float32"))
    with pytest.raises(ValueError, match=r"feature_extractor\.normalize='per_feature'"):
        sherpa_onnx_streaming.check_expressible(*load_model("demo", "ctc", "cpu", "float32"))


@pytest.mark.slow
@pytest.mark.parametrize(("head", "int8"), [("ctc", False), ("transducer", False), ("transducer", True)])
def test_words_are_those_of_our_streams(
    demonstration: tuple[Any, Any], head: str, int8: bool, tmp_path: Path, speech_dir: Path
) -> None:
    """Real digits put end to end; its features are its own, so that a word may differ."""
    pytest.importorskip("sherpa_onnx")
    pair = load_model("demo-streaming", head, "cpu", "float32")
    folder = tmp_path / "out"
    result = export_onnx(pair, folder, target="sherpa-onnx-streaming", int8=int8, verify=True)
    assert max(result.differences.values()) < 1e-4
    assert result.tokens is not None
    assert result.tokens.differences == 0
    paths = sorted((speech_dir / "digits").rglob("*.flac"))
    chosen = np.random.default_rng(5).choice(len(paths), size=(20, 6))
    clips = [np.concatenate([read_audio(paths[number], 16000) for number in row]) for row in chosen]
    before, after = (np.zeros(round(16000 * part), np.float32) for part in sherpa_onnx_streaming.SILENCE_SECONDS)
    expected = []
    for clip in clips:
        transcriber = StreamingTranscriber(*pair)
        transcriber.finish(np.concatenate([before, clip, after]))
        expected.append(transcriber.text)
    found = sherpa_onnx_streaming.transcribe(folder, *pair, clips, int8)
    counts = [text.words for text in score_texts(expected, found)]
    num_errors, num_words = sum(part.num_errors for part in counts), sum(part.num_reference for part in counts)
    print(f"{head} int8={int8}: {num_errors} of {num_words} words differ")
    assert num_words > 60
    assert num_errors < 0.05 * num_words
