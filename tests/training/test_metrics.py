"""Error rates of ids, padding and all."""

from __future__ import annotations

import numpy as np
import pytest
from transformers import EvalPrediction

from transformers_fastconformer import FastConformerProcessor, WordErrors


def pad(rows: list[list[int]], longest: int) -> np.ndarray:
    return np.array([row + [-100] * (longest - len(row)) for row in rows])


def test_words_and_characters_are_counted_over_all_clips(processor: FastConformerProcessor) -> None:
    expected = processor.tokenizer(["one two three", "four"])["input_ids"]
    found = processor.tokenizer(["one two five", ""])["input_ids"]
    rates = WordErrors(processor)(EvalPrediction(pad(found, 30), pad(expected, 20)))
    assert rates["wer"] == pytest.approx(2 / 4)
    # "three" to "five": three replaced or left out, one more left out; "four": four left out.
    assert rates["cer"] == pytest.approx(8 / 17)


def test_equal_tokens_next_to_each_other_stay_two(processor: FastConformerProcessor) -> None:
    ids = processor.tokenizer(["one one"])["input_ids"]
    assert WordErrors(processor)(EvalPrediction(pad(ids, 9), pad(ids, 9))) == {"wer": 0.0, "cer": 0.0}


def test_texts_are_normalised_if_wanted(processor: FastConformerProcessor) -> None:
    metric = WordErrors(processor, "basic")
    ids = processor.tokenizer(["one two"])["input_ids"]
    metric.normalizer = lambda text: text.replace("two", "")
    with pytest.raises(ValueError, match="have no words"):
        metric(EvalPrediction(pad(ids, 9), pad(processor.tokenizer(["two"])["input_ids"], 9)))
    assert metric(EvalPrediction(pad(processor.tokenizer(["one"])["input_ids"], 9), pad(ids, 9)))["wer"] == 0.0
    with pytest.raises(ValueError, match="normalizer='small' is not supported"):
        WordErrors(processor, "small")
