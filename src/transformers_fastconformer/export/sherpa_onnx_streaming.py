"""
The form that the package sherpa-onnx loads for live streams of NeMo's cache-aware models, checked against version 2.0.

It binds inputs and outputs by their places and runs windows of a fixed size. The first window has no mel frames before
it: its overlap is the beginning of the sound, of which no text comes. Features are its own, as for whole recordings.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from ..modeling.recognizer import FastConformerRecognizer
from ..processing_fastconformer import FastConformerProcessor
from ..validation import require
from . import sherpa_onnx
from .graphs import GraphPart, joint_part, prediction_part
from .int8 import int8_name
from .streaming_graphs import StreamSizes, streaming_part

# Silence before and after a recording: the overlap of the first window, and sound that fills the last one.
SILENCE_SECONDS = (0.5, 3.0)

graph_files = sherpa_onnx.graph_files
write_settings = sherpa_onnx.write_settings


def graph_parts(model: FastConformerRecognizer) -> dict[str, GraphPart]:
    """The graphs by the names of their files."""
    parts = [streaming_part(model)]
    if model.decoder_type != "ctc":
        transducer: Any = model
        parts += [prediction_part(transducer), joint_part(transducer)]
    return dict(zip(graph_files(model), parts, strict=True))


def check_expressible(model: FastConformerRecognizer, processor: FastConformerProcessor) -> None:
    """
    Refuse a model that sherpa-onnx would not stream, or would stream wrongly.

    Raises:
        ValueError: with the name of what it cannot express, its value and what is accepted.
    """
    kind = model.decoder_type
    require(kind in ("ctc", "rnnt"), "head", kind, "'ctc' or 'rnnt' for a live stream in sherpa-onnx")
    normalize = processor.feature_extractor.normalize
    require(
        normalize is None,
        "feature_extractor.normalize",
        normalize,
        "None for a live stream, of which no mean is known; target='sherpa-onnx' takes whole recordings",
    )
    sherpa_onnx.check_expressible(model, processor)
    StreamSizes.of(model)


def metadata(model: FastConformerRecognizer, processor: FastConformerProcessor) -> dict[str, dict[str, str]]:
    """Entries that sherpa-onnx reads off the first graph, by the name of its file."""
    sizes = StreamSizes.of(model)
    entries: dict[str, Any] = {"window_size": sizes.window_mel_frames, "chunk_shift": sizes.shift_mel_frames}
    for name, shape in (("cache_last_channel", sizes.channel_cache), ("cache_last_time", sizes.time_cache)):
        entries |= {f"{name}_dim{axis}": size for axis, size in enumerate(shape, 1)}
    rate, hop = processor.feature_extractor.sampling_rate, processor.feature_extractor.hop_length
    entries["chunk_size_ms"] = 1000 * sizes.shift_mel_frames * hop // rate
    known = sherpa_onnx.metadata(model, processor)
    return {name: {**told, **{key: str(value) for key, value in entries.items()}} for name, told in known.items()}


def transcribe(
    folder: Path, model: FastConformerRecognizer, processor: FastConformerProcessor, waveforms: Any, is_int8: bool
) -> list[str]:
    """The texts that sherpa-onnx gives of waveforms at 16 kHz, streamed with silence before and after them."""
    import sherpa_onnx as package

    graphs = [str(folder / (int8_name(name) if is_int8 else name)) for name in graph_files(model)]
    tokens = str(folder / sherpa_onnx.TOKENS_FILE)
    if model.decoder_type == "ctc":
        recognizer = package.OnlineRecognizer.from_nemo_ctc(tokens=tokens, model=graphs[0])
    else:
        size = processor.feature_extractor.feature_size
        recognizer = package.OnlineRecognizer.from_transducer(tokens, *graphs, feature_dim=size)
    rate = processor.feature_extractor.sampling_rate
    before, after = (np.zeros(round(seconds * rate), dtype=np.float32) for seconds in SILENCE_SECONDS)
    texts = []
    for waveform in waveforms:
        stream = recognizer.create_stream()
        for samples in (before, np.asarray(waveform, dtype=np.float32), after):
            stream.accept_waveform(rate, samples)
            while recognizer.is_ready(stream):
                recognizer.decode_stream(stream)
        texts.append(recognizer.get_result(stream).strip())
    return texts
