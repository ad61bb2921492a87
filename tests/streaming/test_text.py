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
    for num_tokens in (0, 5, 9, 13):
        tokens = draw_tokens(processor.tokenizer, rng, num_tokens)
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


def run(stream: TextStream, tokens: NewTokens, size: int = 1) -> tuple[str, list[TextUpdate], TextState]:
    """Committed text, updates and last state of tokens that come so many at a time."""
    updates, state = [], stream.start()
    for start in range(0, len(tokens.token_ids), size):
        update, state = stream.advance(state, part_of(tokens, start, start + size))
        updates.append(update)
    return "".join(update.committed for update in updates), updates, state


def tokens_of(processor: FastConformerProcessor, text: str) -> NewTokens:
    ids = processor.tokenizer(text).input_ids
    return NewTokens(ids, list(range(0, 3 * len(ids), 3)), [2] * len(ids))


def test_text_is_committed_as_soon_as_it_cannot_change() -> None:
    processor = processor_of("characters")
    stream = TextStream(processor, "rnnt")
    ids = [CHARACTERS.index(character) for character in "ab  .c "]
    _, updates, state = run(stream, NewTokens(ids, range(len(ids))))
    assert [update.committed for update in updates] == ["a", "b", "", " ", ".", "c", ""]
    assert [update.tentative for update in updates] == ["", "", " ", " ", "", "", " "]
    assert stream.advance(state, is_last=True)[0].committed == " "


def test_bytes_of_a_character_wait_for_each_other() -> None:
    processor = processor_of("bpe with bytes")
    strings = processor.tokenizer.vocabulary_tokens(range(processor.tokenizer.blank_token_id))
    euro = [strings.index(f"<0x{byte:02X}>") for byte in "€".encode()]
    stream = TextStream(processor, "ctc")
    _, updates, _ = run(stream, NewTokens([*euro, *euro[:2], euro[0]], range(6)))
    assert [update.committed for update in updates] == ["", "", "€", "", "", "\ufffd\ufffd"]
    assert [update.tentative for update in updates] == ["\ufffd", "\ufffd" * 2, "", "\ufffd", "\ufffd" * 2, "\ufffd"]


def test_language_tags_never_show() -> None:
    processor = processor_of("tags in characters")
    characters = processor.tokenizer.vocabulary_tokens(range(processor.tokenizer.blank_token_id))
    text = " a <en-US> <en-b <en-US>.\n"
    ids = [characters.index(character) for character in text]
    committed, updates, state = run(TextStream(processor, "rnnt"), NewTokens(ids, range(len(ids))))
    update, _ = TextStream(processor, "rnnt").advance(state, is_last=True)
    assert committed + update.committed == processor.tokenizer.decode(ids) == "a <en-b."
    assert "U" not in "".join(update.committed for update in updates)


def test_another_pattern_of_tags_is_refused() -> None:
    tokenizer = character_tokenizer(CHARACTERS, language_tag_pattern=r"\[.*\]")
    processor = FastConformerProcessor(FastConformerFeatureExtractor(), tokenizer)
    with pytest.raises(ValueError, match=r"language_tag_pattern=.* is not supported; expected .* in a stream"):
        TextStream(processor, "ctc")


def test_words_have_times_confidence_and_log_probability() -> None:
    processor = processor_of("bpe")
    tokens = tokens_of(processor, "the dog. Where?")
    count = len(tokens.token_ids)
    scored = NewTokens(*list(vars(tokens).values())[:3], [-0.5] * count, [0.9, *[0.5] * (count - 1)])
    stream = TextStream(processor, "tdt", "min")
    _, updates, state = run(stream, scored)
    update, _ = stream.advance(state, is_last=True)
    words = [word for item in (*updates, update) for word in item.words]
    assert [word.text for word in words] == ["the", "dog.", "Where?"]
    assert {word.confidence for word in words[1:]} == {0.5}
    assert sum(word.log_prob for word in words) == -0.5 * count
    assert words[0][1:5] == (0, 2, 0.0, 2 * 0.01 * 8)
    assert updates[0].tentative_words[0].text == "the"
    # Of a word that is known to the last token, only the next word says that it is finished.
    assert [len(item.words) for item in updates].count(1) == 2


def test_confidences_of_words_are_those_of_the_whole() -> None:
    rng = random.Random(3)
    processor = processor_of("bpe")
    stream = TextStream(processor, "rnnt", "mean")
    text = "The quick brown fox, and the dog. Where does it lead?"
    ids = processor.tokenizer(text).input_ids
    tokens = NewTokens(ids, range(len(ids)), [1] * len(ids), None, [rng.random() for _ in ids])
    whole = decode_whole(processor, tokens, "rnnt")
    stream = TextStream(processor, "rnnt", "min")
    update, _ = stream.advance(stream.start(), tokens, is_last=True)
    assert [word.confidence for word in update.words] == whole.word_confidences


def test_tokens_that_may_be_revised_leave_the_state_as_it_was() -> None:
    processor = processor_of("bpe")
    stream = TextStream(processor, "tdt")
    first, other = tokens_of(processor, "the lazy dog"), tokens_of(processor, "fox.")
    update, state = stream.advance(stream.start(), part_of(first, 0, 2))
    shown, _ = stream.advance(state, other)
    assert shown.committed + shown.tentative == " fox." or shown.committed.endswith("fox.")
    rest, _ = stream.advance(state, part_of(first, 2, None), is_last=True)
    assert update.committed + rest.committed == "the lazy dog"


def test_the_state_does_not_grow() -> None:
    processor = processor_of("bpe")
    stream = TextStream(processor, "rnnt")
    tokens = tokens_of(processor, "the quick brown fox, and the lazy dog.")
    state, sizes = stream.start(), []
    for _ in range(300):
        for start in range(0, len(tokens.token_ids), 3):
            _, state = stream.advance(state, part_of(tokens, start, start + 3))
        sizes.append(len(repr(state)))
    assert max(sizes[10:]) == max(sizes[:10])


def test_wrong_tokens_are_named() -> None:
    processor = processor_of("bpe")
    stream = TextStream(processor, "tdt")
    blank = processor.tokenizer.blank_token_id
    with pytest.raises(ValueError, match=rf"token_ids=\[{blank}\] is not supported; expected 0 to {blank - 1}"):
        stream.advance(stream.start(), NewTokens([1, blank], [0, 1], [1, 1]))
    with pytest.raises(ValueError, match="durations: found None"):
        stream.advance(stream.start(), NewTokens([1], [0]))
    with pytest.raises(ValueError, match="frame_indices has 1 values; expected one for each of 2"):
        NewTokens([1, 2], [0])
    with pytest.raises(ValueError, match="confidences: found None"):
        TextStream(processor, "ctc", "min").advance(TextState(), NewTokens([1], [0]))
    with pytest.raises(ValueError, match="decoder_type='rnn'"):
        TextStream(processor, "rnn")
