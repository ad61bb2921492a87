"""Text and times of what multitask models write, with and without time tokens."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from sentencepiece_models import train_sentencepiece_model

from transformers_fastconformer.feature_extraction_fastconformer import FastConformerFeatureExtractor
from transformers_fastconformer.modeling.outputs import FastConformerGenerateOutput
from transformers_fastconformer.nemo.tokenizers import aggregate_tokenizer, sentencepiece_tokenizer
from transformers_fastconformer.processing_fastconformer import FastConformerProcessor

PROMPT_SYMBOLS = (
    "<|startoftranscript|>",
    "<|endoftext|>",
    "<pad>",
    "<|en|>",
    *(f"<|{frame}|>" for frame in range(30)),
)


@pytest.fixture(params=["single", "aggregate"])
def multitask(request: pytest.FixtureRequest) -> FastConformerProcessor:
    tokenizer = sentencepiece_tokenizer(train_sentencepiece_model(user_defined_symbols=PROMPT_SYMBOLS))
    if request.param == "aggregate":
        language = sentencepiece_tokenizer(train_sentencepiece_model())
        tokenizer = aggregate_tokenizer({"spl_tokens": tokenizer, "en": language})
    return FastConformerProcessor(FastConformerFeatureExtractor(), tokenizer)


def multitask_output(processor: FastConformerProcessor, clips: list[list[int | str]], frames: int = 29) -> Any:
    """As if a multitask model had written texts and times, with padding after them."""
    tokenizer = processor.tokenizer
    options = {"language": "en"} if tokenizer.text_rule == "aggregate" else {}
    rows: list[list[int]] = []
    for pieces in clips:
        rows.append([])
        for piece in pieces:
            is_text = isinstance(piece, str)
            rows[-1] += (
                tokenizer(piece, **options).input_ids if is_text else [tokenizer.prompt_token_id(f"<|{piece}|>")]
            )
    longest = max(map(len, rows))
    return FastConformerGenerateOutput(
        sequences=torch.tensor([row + [tokenizer.pad_token_id] * (longest - len(row)) for row in rows]),
        sequence_lengths=torch.tensor(list(map(len, rows))),
        encoder_lengths=torch.full((len(rows),), frames),
        decoder_type="multitask",
    )


def test_time_tokens_become_times_and_the_punctuation_stays(multitask: FastConformerProcessor) -> None:
    clips: list[list[int | str]] = [[3, "the", 8, 9, "dog.", 14, 15, "the", 20], ["the lazy dog."], []]
    timed, plain, empty = multitask.batch_decode(multitask_output(multitask, clips), timestamps=True)
    assert multitask.batch_decode(multitask_output(multitask, clips)) == ["the dog. the", "the lazy dog.", ""]
    assert [item.text for item in (timed, plain, empty)] == ["the dog. the", "the lazy dog.", ""]
    assert list(timed.timestamps) == ["word", "segment"]
    assert [(item["word"], item["start_offset"], item["end_offset"]) for item in timed.timestamps["word"]] == [
        ("the", 3, 8), ("dog.", 9, 14), ("the", 15, 20),
    ]  # fmt: skip
    assert timed.timestamps["word"][0]["start"] == pytest.approx(0.24)
    assert [(item["segment"], item["start_offset"], item["end_offset"]) for item in timed.timestamps["segment"]] == [
        ("the dog.", 3, 14), ("the", 15, 20),
    ]  # fmt: skip
    assert plain.timestamps["word"] == []
    assert [item["segment"] for item in plain.timestamps["segment"]] == ["the lazy dog."]
    assert plain.timestamps["segment"][0]["end_offset"] == 29
    assert empty.timestamps == {"word": [], "segment": []}
    output = multitask_output(multitask, clips[:1])
    assert multitask.decode(output, skip_special_tokens=False).replace(" ", "").startswith("<|3|>the<|8|>")
    with pytest.raises(ValueError, match=r"timestamps='char' is not supported by a multitask model.*'segment'"):
        multitask.decode(output, timestamps=["word", "char"])


def test_classes_that_pad_the_head_of_a_multitask_model_are_no_tokens(multitask: FastConformerProcessor) -> None:
    output = multitask_output(multitask, [["the dog"]])
    padding = torch.tensor([[multitask.tokenizer.blank_token_id]])
    output.sequences = torch.cat([padding, output.sequences, padding], dim=1)
    output.sequence_lengths += 2
    output.token_confidences = torch.full(output.sequences.shape, 0.5)
    output.confidence_aggregation = "mean"
    (found,) = multitask.batch_decode(output, timestamps="segment", confidence=True)
    assert found.text == "the dog"
    assert len(found.token_ids) == len(found.token_confidences) == output.sequences.shape[1] - 2
    assert found.word_confidences == [0.5, 0.5]
