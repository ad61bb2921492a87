"""Forced alignment of words here and in NeMo, over random log-probabilities: times of words and of segments."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from sentencepiece_models import train_sentencepiece_model

from transformers_fastconformer.feature_extraction_fastconformer import FastConformerFeatureExtractor
from transformers_fastconformer.inference.aligner import align_words
from transformers_fastconformer.nemo.tokenizers import sentencepiece_tokenizer
from transformers_fastconformer.processing_fastconformer import FastConformerProcessor

pytestmark = pytest.mark.nemo

TEXTS = ["the quick brown fox.", "the dog. the lazy dog", "the 語 fox, the dog.", "text"]


def test_words_and_segments_have_nemos_times(tmp_path: Any) -> None:
    from nemo.collections.asr.parts.utils.rnnt_utils import Hypothesis
    from nemo.collections.asr.parts.utils.timestamp_utils import get_forced_aligned_timestamps_with_external_model
    from nemo.collections.common.tokenizers import SentencePieceTokenizer

    path = tmp_path / "a.model"
    path.write_bytes(train_sentencepiece_model())
    theirs, ours = SentencePieceTokenizer(str(path)), sentencepiece_tokenizer(path.read_bytes())
    processor = FastConformerProcessor(FastConformerFeatureExtractor(), ours)
    model = SimpleNamespace(
        tokenizer=theirs,
        blank_id=ours.blank_token_id,
        device=torch.device("cpu"),
        cfg={"preprocessor": {"window_stride": 0.01}},
        encoder=SimpleNamespace(subsampling_factor=8),
    )
    for seed in range(5):
        generator = torch.Generator().manual_seed(seed)
        log_probs = [
            (3 * torch.randn(120, ours.blank_token_id + 1, generator=generator)).log_softmax(dim=-1) for _ in TEXTS
        ]
        expected = get_forced_aligned_timestamps_with_external_model(
            audio=[Hypothesis(score=0.0, y_sequence=rows, text="") for rows in log_probs],
            external_ctc_model=model,
            main_model_predictions=[Hypothesis(score=0.0, y_sequence=[], text=text) for text in TEXTS],
            timestamp_type=["word", "segment"],
            has_hypotheses=True,
            verbose=False,
        )
        for rows, text, hypothesis in zip(log_probs, TEXTS, expected, strict=True):
            words = align_words(rows, text, ours)
            for level, spans in (("word", words), ("segment", processor.segment_words(words))):
                found = processor.timed_items(level, spans)
                theirs_of_level = hypothesis.timestamp[level]
                assert [item[level] for item in found] == [item[level] for item in theirs_of_level]
                for side in ("start", "end"):
                    assert np.allclose(
                        [item[side] for item in found], [item[side] for item in theirs_of_level], atol=1e-6
                    ), (seed, text, level, side)
