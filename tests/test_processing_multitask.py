"""Text and times of what multitask models write, with and without time tokens."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sentencepiece_models import train_sentencepiece_model

from transformers_fastconformer.feature_extraction_fastconformer import FastConformerFeatureExtractor
from transformers_fastconformer.modeling.outputs import FastConformerGenerateOutput
from transformers_fastconformer.nemo.tokenizers import aggregate_tokenizer, sentencepiece_tokenizer
from transformers_fastconformer.processing_fastconformer import FastConformerProcessor
from transformers_fastconformer.processing_multitask import word_of_each_token

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


def prompted(processor: FastConformerProcessor, learns_prompt: bool) -> FastConformerProcessor:
    tokenizer = sentencepiece_tokenizer(
        train_sentencepiece_model(user_defined_symbols=(*PROMPT_SYMBOLS, "<|pnc|>", "<|transcribe|>"), vocab_size=150)
    )
    if processor.tokenizer.text_rule == "aggregate":
        language = sentencepiece_tokenizer(train_sentencepiece_model())
        tokenizer = aggregate_tokenizer({"spl_tokens": tokenizer, "en": language})
    return FastConformerProcessor(
        FastConformerFeatureExtractor(), tokenizer, prompt_format="canary", learns_prompt=learns_prompt
    )


CLIPS = [np.zeros(16000, dtype=np.float32), np.zeros(8000, dtype=np.float32)]


@pytest.mark.parametrize("learns_prompt", [True, False])
def test_transcripts_become_labels_and_decoder_tokens(
    multitask: FastConformerProcessor, learns_prompt: bool, tmp_path: Path
) -> None:
    prompted(multitask, learns_prompt).save_pretrained(tmp_path)
    processor = FastConformerProcessor.from_pretrained(tmp_path)
    tokenizer = processor.tokenizer
    batch = processor(CLIPS, text=["the lazy dog", "the"], language="en", sampling_rate=16000)
    assert set(batch) == {"input_features", "attention_mask", "input_lengths", "labels", "decoder_input_ids"}
    options = {"language": "en"} if tokenizer.text_rule == "aggregate" else {}
    symbols = ["<|startoftranscript|>", "<|en|>", "<|transcribe|>", "<|en|>", "<|pnc|>"]
    prompt = [tokenizer.prompt_token_id(symbol) for symbol in symbols]
    if tokenizer.text_rule != "aggregate":
        prompt = [tokenizer.prompt_token_ids["▁"], *prompt]
    for text, inputs, labels in zip(
        ("the lazy dog", "the"), batch["decoder_input_ids"].tolist(), batch["labels"].tolist(), strict=True
    ):
        answer = tokenizer(text, **options).input_ids
        count = len(prompt) + len(answer)
        assert inputs[:count] == [*prompt, *answer]
        assert labels[len(prompt) - 1 : count] == [*answer, tokenizer.eos_token_id]
        assert labels[: len(prompt) - 1] == (prompt[1:] if learns_prompt else [-100] * (len(prompt) - 1))
        assert set(inputs[count:]) <= {tokenizer.pad_token_id}
        assert set(labels[count:]) <= {-100}
    padded = processor(CLIPS, text=["the", "the"], text_kwargs={"padding": "max_length", "max_length": 40})
    assert padded["labels"].shape == padded["decoder_input_ids"].shape == (2, 40)


def test_time_tokens_of_transcripts_are_tokens(multitask: FastConformerProcessor) -> None:
    processor = prompted(multitask, False)
    tokenizer = processor.tokenizer
    options = {"language": "en"} if tokenizer.text_rule == "aggregate" else {}
    batch = processor(CLIPS[:1], text=["<|3|> the <|8|><|9|> dog <|14|>"])
    times = [tokenizer.prompt_token_id(f"<|{frame}|>") for frame in (3, 8, 9, 14)]
    the, dog = (tokenizer(word, **options).input_ids for word in ("the", "dog"))
    expected = [times[0], *the, times[1], times[2], *dog, times[3], tokenizer.eos_token_id]
    assert [label for label in batch["labels"][0].tolist() if label != -100] == expected


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"source_lang": "fr"}, "source_lang='fr' is not supported by this model"),
        ({"context": "so"}, "context='so' is not supported by prompts of the format 'canary'"),
        ({"text_kwargs": {"truncation": True, "max_length": 3}}, "text_kwargs has truncation; expected some of"),
        ({"text_kwargs": {"max_length": 30}}, "max_length=30 is not supported; expected None without padding"),
        ({"text_kwargs": {"padding": "max_length", "max_length": 3}}, "max_length=3 is not supported"),
    ],
)
def test_bad_prompts_of_labels_are_refused(
    multitask: FastConformerProcessor, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        prompted(multitask, True)(CLIPS[:1], text=["the"], **options)
    with pytest.raises(ValueError, match="source_lang='en' is not supported; expected audio and text"):
        prompted(multitask, True)(CLIPS[:1], source_lang="en")


def test_tokens_know_their_word(multitask: FastConformerProcessor) -> None:
    tokenizer = multitask.tokenizer
    options = {"language": "en"} if tokenizer.text_rule == "aggregate" else {}
    rows = tokenizer(["the", "lazy", "dogs."], **options).input_ids
    ids = [token_id for row in rows for token_id in row]
    assert word_of_each_token(tokenizer, ids) == [word for word, row in enumerate(rows) for _ in row]
    assert word_of_each_token(tokenizer, []) == []


def test_words_of_tokens_are_counted_once(multitask: FastConformerProcessor, monkeypatch: pytest.MonkeyPatch) -> None:
    """As if the text up to each token were decoded, but without doing that."""
    tokenizer = multitask.tokenizer
    rng = np.random.default_rng(0)
    rows = [rng.integers(0, tokenizer.blank_token_id, 40).tolist() for _ in range(20)]
    expected = [
        [
            max(len(tokenizer.decode(row[: place + 1], skip_special_tokens=True).split()) - 1, 0)
            for place in range(len(row))
        ]
        for row in rows
    ]
    assert [word_of_each_token(tokenizer, row) for row in rows] == expected
    decode, decoded = tokenizer.decode, list[int]()

    def count(token_ids: list[int], **options: Any) -> Any:
        decoded.append(len(token_ids))
        return decode(token_ids, **options)

    monkeypatch.setattr(tokenizer, "decode", count)
    options = {"language": "en"} if tokenizer.text_rule == "aggregate" else {}
    ids = [token_id for row in tokenizer(["the", "lazy", "dogs"] * 50, **options).input_ids for token_id in row]
    word_of_each_token(tokenizer, ids)
    assert sum(decoded) < 5 * len(ids)
