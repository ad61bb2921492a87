"""Small checkpoints that stream with a cache, and what tests of live streams do with an engine."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from models import build_model

from transformers_fastconformer import StreamingEngine, StreamOptions, StreamUpdate, load_model
from transformers_fastconformer.demonstration import CHECKPOINT_PATH

CACHED = {
    "attention_context": [4, 1],
    "attention_contexts": [[4, 1], [4, 0], [4, 3]],
    "attention_context_probabilities": [0.4, 0.3, 0.3],
    "attention_context_style": "chunked_limited",
    "causal_downsampling": True,
    "conv_context": [4, 0],
    "conv_norm_type": "layer_norm",
}


def build_live(kind: str, **options: Any) -> tuple[Any, Any]:
    """A small checkpoint with a cache, and a processor whose features are not normalised."""
    _, processor = load_model(CHECKPOINT_PATH)
    extractor = type(processor.feature_extractor)(**{**processor.feature_extractor.to_dict(), "normalize": None})
    processor = type(processor)(extractor, processor.tokenizer)
    size = processor.tokenizer.blank_token_id
    overrides = {"num_mel_bins": extractor.feature_size, "vocab_size": size + 1}
    return build_model(kind, **{**CACHED, **overrides, **options}), processor


def run(
    engine: StreamingEngine, samples: np.ndarray, sizes: Sequence[int], options: StreamOptions | None = None
) -> list[StreamUpdate]:
    """All updates of a stream that is cut into pieces of these sizes, again and again."""
    stream = engine.open(options)
    updates, start, number = [], 0, 0
    while start < len(samples):
        size = sizes[number % len(sizes)]
        updates.append(engine.step({stream: samples[start : start + size]})[stream])
        start, number = start + size, number + 1
    return [*updates, engine.finish(stream)]


def text_of(updates: Sequence[StreamUpdate]) -> str:
    return "".join(update.committed for update in updates)


def words_of(updates: Sequence[StreamUpdate]) -> list[Any]:
    return [word for update in updates for word in update.words]
