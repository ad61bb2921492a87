"""Text and words of live streams: for every cutting those that the processor has for all tokens at once."""

from __future__ import annotations

import random
from functools import cache
from typing import Any

import pytest
import torch
from families import WORDPIECES
from sentencepiece_models import VARIANTS, train_sentencepiece_model

from transformers_fastconformer.feature_extraction_fastconformer import FastConformerFeatureExtractor
from transformers_fastconformer.modeling.outputs import FastConformerGenerateOutput
from transformers_fastconformer.nemo.tokenizers import (
    aggregate_tokenizer,
    character_tokenizer,
    sentencepiece_tokenizer,
    wordpiece_tokenizer,
)
from transformers_fastconformer.processing_fastconformer import FastConformerProcessor
from transformers_fastconformer.streaming.text import NewTokens, TextState, TextStream, TextUpdate
from transformers_fastconformer.tokenization_fastconformer import LANGUAGE_TAG_PATTERN, FastConformerTokenizer

TAGS = ("<en-US>", "<de-DE>", "<e", "n-", "US>", "<")
CHARACTERS = [" ", *"abcdefg", "'", ".", ",", "-", "<noise>"]
KINDS = (*VARIANTS, "tags", "tags in characters", "characters", "wordpiece", "aggregate", "aggregate with bytes")


@cache
def tokenizer_of(kind: str) -> FastConformerTokenizer:
    if kind in VARIANTS:
        return sentencepiece_tokenizer(train_sentencepiece_model(**VARIANTS[kind]))
    if kind == "tags":
        model = train_sentencepiece_model(user_defined_symbols=TAGS, remove_extra_whitespaces=False)
        return sentencepiece_tokenizer(model, language_tag_pattern=LANGUAGE_TAG_PATTERN)
    if kind == "tags in characters":
        return character_tokenizer([" ", *"abenUS<>-.", "\n"], language_tag_pattern=LANGUAGE_TAG_PATTERN)
    if kind == "characters":
        return character_tokenizer(CHARACTERS)
    if kind == "wordpiece":
        return wordpiece_tokenizer(WORDPIECES)
    first = VARIANTS["bpe with bytes"] if kind == "aggregate with bytes" else {"vocab_size": 120}
    models = [train_sentencepiece_model(**first), train_sentencepiece_model(model_type="unigram", vocab_size=130)]
    return aggregate_tokenizer(dict(zip("ek", map(sentencepiece_tokenizer, models), strict=True)))


def processor_of(kind: str, **options: Any) -> FastConformerProcessor:
    return FastConformerProcessor(FastConformerFeatureExtractor(), tokenizer_of(kind), **options)


def draw_tokens(tokenizer: FastConformerTokenizer, rng: random.Random, num_tokens: int) -> NewTokens:
    """Tokens of which marks, punctuation, bytes, tags and symbols are likelier than others."""
    strings = tokenizer.vocabulary_tokens(range(tokenizer.blank_token_id))
    odd = [token_id for token_id, string in enumerate(strings) if len(string) == 1 or string[0] in "<[#▁"]
    euro = [strings.index(f"<0x{byte:02X}>") for byte in "€".encode()] if "<0x00>" in strings else []
    ids: list[int] = []
    while len(ids) < num_tokens:
        draw = rng.random()
        ids += euro if euro and draw < 0.2 else [rng.choice(odd) if draw < 0.7 else rng.randrange(len(strings))]
    ids = ids[:num_tokens]
    frames, frame = [], 0
    for _ in ids:
        frame += rng.choice((0, 1, 1, 2, 5))
        frames.append(frame)
    return NewTokens(
        ids,
        frames,
        [rng.randrange(5) for _ in ids],
        [-rng.random() for _ in ids],
        [rng.random() for _ in ids],
    )


def part_of(tokens: NewTokens, start: int, stop: int) -> NewTokens:
    columns = vars(tokens).items()
    return NewTokens(**{name: column[start:stop] for name, column in columns if column is not None})


def decode_whole(processor: FastConformerProcessor, tokens: NewTokens, decoder_type: str) -> Any:
    output = FastConformerGenerateOutput(
        sequences=torch.tensor([tokens.token_ids], dtype=torch.int64).reshape(1, -1),
        sequence_lengths=torch.tensor([len(tokens.token_ids)]),
        frame_indices=torch.tensor([tokens.frame_indices], dtype=torch.int64).reshape(1, -1),
        durations=torch.tensor([tokens.durations], dtype=torch.int64).reshape(1, -1),
        token_confidences=torch.tensor([tokens.confidences], dtype=torch.float64).reshape(1, -1),
        confidence_aggregation="min",
        decoder_type=decoder_type,
    )
    return processor.batch_decode(output, timestamps=["word"], confidence=True)[0]


def cut(rng: random.Random, num_tokens: int) -> list[int]:
    """Ends of pieces, some of which are empty."""
    return [*sorted(rng.randrange(num_tokens + 1) for _ in range(rng.randrange(num_tokens + 3))), num_tokens]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("decoder_type", ["ctc", "rnnt", "tdt"])
def test_every_cutting_gives_the_text_and_words_of_the_whole(kind: str, decoder_type: str) -> None:
    rng = random.Random(f"{kind} {decoder_type}")
    processor = processor_of(kind)
    stream = TextStream(processor, decoder_type, "min")
    for _ in range(20):
        tokens = draw_tokens(processor.tokenizer, rng, rng.randrange(16))
        whole = decode_whole(processor, tokens, decoder_type)
        updates: list[TextUpdate] = []
        state, start, committed = stream.start(), 0, ""
        for stop in cut(rng, len(tokens.token_ids)):
            update, state = stream.advance(state, part_of(tokens, start, stop))
            updates.append(update)
            committed += update.committed
            so_far = processor.tokenizer.decode(tokens.token_ids[:stop], skip_special_tokens=True, group_tokens=False)
            assert committed + update.tentative == so_far
            words_so_far = [word for item in updates for word in item.words] + update.tentative_words
            expected = decode_whole(processor, part_of(tokens, 0, stop), decoder_type).timestamps["word"]
            assert [word._asdict() | {"word": word.text} for word in words_so_far] == [
                {**word._asdict(), **item} for word, item in zip(words_so_far, expected, strict=True)
            ]
            start = stop
        update, state = stream.advance(state, is_last=True)
        assert state == TextState()
        assert committed + update.committed == whole.text
        assert update.tentative == ""
        assert update.tentative_words == []
        assert [event.event for item in updates for event in item.events] == [item["event"] for item in whole.events]
