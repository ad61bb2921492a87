"""The demonstration checkpoint understands recorded digits: at most 5 % of the words are wrong, with both heads."""

from __future__ import annotations

from pathlib import Path

import jiwer
import numpy as np
import pytest

from bench_wer import join_clips, read_test_clips
from transformers_fastconformer.demonstration import CHECKPOINT_PATH
from transformers_fastconformer.inference.file import transcribe_waveforms
from transformers_fastconformer.inference.loading import load_model

NUM_CLIPS = 250
MAX_DIGITS = 8
MAX_WORD_ERRORS = 0.05
BATCH_SIZE = 32
SEED = 1  # other strings than those of the published figures


@pytest.fixture(scope="module")
def strings(speech_dir: Path) -> list[tuple[str, np.ndarray]]:
    """Text and samples: the test clips in strings of each length; every second string, to take seconds only."""
    clips = read_test_clips(speech_dir)
    assert sum(map(len, clips.values())) == NUM_CLIPS
    joined = [string for num_digits in range(1, MAX_DIGITS + 1) for string in join_clips(clips, num_digits, SEED)]
    assert sum(len(text.split()) for text, _ in joined) == MAX_DIGITS * NUM_CLIPS
    return joined[::2]


@pytest.mark.parametrize("head", ["transducer", "ctc"])
def test_at_most_five_in_a_hundred_words_are_wrong(head: str, strings: list[tuple[str, np.ndarray]]) -> None:
    model, processor = load_model(CHECKPOINT_PATH, head)
    waveforms = [waveform for _, waveform in strings]
    found = [item.text for item in transcribe_waveforms(model, processor, waveforms, batch_size=BATCH_SIZE)]
    assert jiwer.wer([text for text, _ in strings], found) <= MAX_WORD_ERRORS
