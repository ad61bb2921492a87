"""The demonstration checkpoints understand recorded digits: few words are wrong, with both heads."""

from __future__ import annotations

from pathlib import Path

import jiwer
import numpy as np
import pytest

from bench_wer import join_clips, read_test_clips
from transformers_fastconformer.demonstration import CHECKPOINT_PATH, STREAMING_CHECKPOINT_PATH
from transformers_fastconformer.inference.file import transcribe_waveforms
from transformers_fastconformer.inference.loading import load_model

NUM_CLIPS = 250
MAX_DIGITS = 8
# Checkpoint, attention context (None: its own), accepted share of wrong words.
CASES = {
    "whole files": (CHECKPOINT_PATH, None, 0.05),
    "1120 ms": (STREAMING_CHECKPOINT_PATH, [56, 13], 0.05),
    "560 ms": (STREAMING_CHECKPOINT_PATH, [56, 6], 0.05),
    "160 ms": (STREAMING_CHECKPOINT_PATH, [56, 1], 0.08),
    "80 ms": (STREAMING_CHECKPOINT_PATH, [56, 0], 0.08),
}
BATCH_SIZE = 32
SEED = 1  # other strings than those of the published figures


@pytest.fixture(scope="module")
def strings(speech_dir: Path) -> list[tuple[str, np.ndarray]]:
    """Text and samples: the test clips in strings of each length; every fifth string, to take seconds only."""
    clips = read_test_clips(speech_dir)
    assert sum(map(len, clips.values())) == NUM_CLIPS
    joined = [string for num_digits in range(1, MAX_DIGITS + 1) for string in join_clips(clips, num_digits, SEED)]
    assert sum(len(text.split()) for text, _ in joined) == MAX_DIGITS * NUM_CLIPS
    return joined[::5]


# The latencies in between are between these: `slow`.
@pytest.mark.parametrize(
    "case",
    [pytest.param(case, marks=[pytest.mark.slow] if case in ("560 ms", "160 ms") else []) for case in CASES],
)
@pytest.mark.parametrize("head", ["transducer", "ctc"])
def test_few_words_are_wrong(head: str, case: str, strings: list[tuple[str, np.ndarray]]) -> None:
    checkpoint, context, max_word_errors = CASES[case]
    model, processor = load_model(checkpoint, head)
    if context is not None:
        model.set_attention_context(context)
    waveforms = [waveform for _, waveform in strings]
    found = [item.text for item in transcribe_waveforms(model, processor, waveforms, batch_size=BATCH_SIZE)]
    assert jiwer.wer([text for text, _ in strings], found) <= max_word_errors
