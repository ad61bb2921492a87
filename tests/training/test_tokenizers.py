"""Tokenizers that are trained from text, extended with pieces and joined from languages."""

from __future__ import annotations

import random
from typing import Any

import pytest
from sentencepiece_models import SENTENCES, SYMBOLS, VARIANTS, train_sentencepiece_model

from transformers_fastconformer.nemo.tokenizers import (
    character_tokenizer,
    sentencepiece_tokenizer,
    wordpiece_tokenizer,
)
from transformers_fastconformer.training.tokenizers import (
    KINDS,
    extend_tokenizer,
    join_tokenizers,
    train_tokenizer,
)

GERMAN = [
    "Der schnelle braune Fuchs springt über den faulen Hund.",
    "Die schöne Brücke führt über den Fluss, und der Hund schläft.",
    "Über den Fluss und über die Brücke springt der Hund.",
] * 3
NUM_NEW = 5  # the German characters that the English texts lack


def pieces_of(tokenizer: Any) -> list[str]:
    return tokenizer.vocabulary_tokens(range(tokenizer.blank_token_id))


# Training


@pytest.mark.parametrize("kind", KINDS)
def test_a_trained_tokenizer_is_sentencepieces(kind: str) -> None:
    import sentencepiece

    tokenizer = train_tokenizer(SENTENCES, 63 if kind == "char" else 90, kind)
    model = train_sentencepiece_model(model_type=kind, vocab_size=63 if kind == "char" else 90)
    expected = sentencepiece.SentencePieceProcessor(model_proto=model)
    if kind != "unigram":  # whose scores depend on how often the sentences are given
        assert pieces_of(tokenizer) == [expected.id_to_piece(index) for index in range(expected.get_piece_size())]
    for sentence in SENTENCES[:3]:
        assert tokenizer.decode(tokenizer(sentence)["input_ids"]) == sentence
    assert tokenizer.unk_token_id == 0
    assert tokenizer.pad_token_id == tokenizer.blank_token_id == len(pieces_of(tokenizer))


def test_options_of_training() -> None:
    folded = train_tokenizer(SENTENCES, 90, lowercase=True)
    assert folded.decode(folded("The QUICK")["input_ids"]) == "the quick"
    with_symbols = train_tokenizer(SENTENCES, 90, symbols=SYMBOLS)
    assert with_symbols.event_tokens == list(SYMBOLS)
    assert with_symbols.tokenize("the <EOU>")[-1] == "<EOU>"
    with_bytes = train_tokenizer(SENTENCES, 400, byte_fallback=True, character_coverage=0.98)
    assert with_bytes.decode(with_bytes("中 Q")["input_ids"]) == "中 Q"


def test_long_texts_are_not_dropped() -> None:
    long = "zebra " * 2000  # longer than the limit after which SentencePiece drops a line without a word
    assert "▁zebra" in pieces_of(train_tokenizer([long], 12))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"vocab_size": 0}, "vocab_size=0 is not supported"),
        ({"vocab_size": 5}, "vocab_size=5: SentencePiece cannot train .* Vocabulary size is smaller"),
        ({"vocab_size": 9000}, "vocab_size=9000: SentencePiece cannot train .* value <="),
        ({"kind": "word"}, "kind='word' is not supported; expected one of"),
        ({"texts": "one text"}, "texts='one text' is not supported; expected many texts"),
        ({"texts": ["", "  "]}, "texts: none of them has characters"),
        ({"texts": ["a", 3]}, r"texts\[1\]=3 is not supported"),
        ({"character_coverage": 0}, "character_coverage=0 is not supported"),
        ({"symbols": "<EOU>"}, "symbols='<EOU>' is not supported"),
    ],
)
def test_what_cannot_be_trained_is_named(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        train_tokenizer(**{"texts": SENTENCES, "vocab_size": 90, **arguments})


# Extending


@pytest.mark.parametrize("variant", VARIANTS)
def test_old_pieces_stay_and_new_ones_are_used(variant: str) -> None:
    old = sentencepiece_tokenizer(train_sentencepiece_model(**VARIANTS[variant]))
    is_character = "character" in variant
    new = extend_tokenizer(old, GERMAN, NUM_NEW if is_character else 12)
    size = old.blank_token_id
    assert pieces_of(new)[:size] == pieces_of(old)
    added = pieces_of(new)[size:]
    assert len(set(added)) == len(added) == (NUM_NEW if is_character else 12)
    if "folding" not in variant:
        assert {"ö", "ä"} <= set(added)
    used = {token for text in GERMAN for token in new.tokenize(text)}
    assert len(used & set(added)) >= len(added) // 2
    for text in GERMAN:
        assert new.unk_token_id not in new(text)["input_ids"]
        assert len(new(text)["input_ids"]) <= len(old(text)["input_ids"])


@pytest.mark.parametrize("kind", ["bpe", "unigram"])
def test_every_new_piece_is_encoded_as_itself(kind: str) -> None:
    old = sentencepiece_tokenizer(train_sentencepiece_model(model_type=kind))
    new = extend_tokenizer(old, GERMAN, 15)
    backend = new.complete_backend()
    for piece in pieces_of(new)[old.blank_token_id :]:
        assert [token.value for token in backend.model.tokenize(piece)] == [piece]


@pytest.mark.parametrize("kind", ["bpe", "unigram"])
def test_an_extended_tokenizer_is_sentencepieces(kind: str) -> None:
    """What is written for NeMo gives the same pieces there."""
    import json

    import sentencepiece

    from transformers_fastconformer.nemo.sentencepiece_writer import write_sentencepiece

    tokenizer = extend_tokenizer(sentencepiece_tokenizer(train_sentencepiece_model(model_type=kind)), GERMAN, 15)
    model = write_sentencepiece(tokenizer, json.loads(tokenizer.complete_backend().to_str()))
    processor = sentencepiece.SentencePieceProcessor(model_proto=model)
    words = " ".join([*GERMAN, *SENTENCES]).split()
    rng = random.Random(0)
    for _ in range(50):
        text = " ".join(rng.choices(words, k=6))
        assert tokenizer(text)["input_ids"] == processor.encode(text)


def test_characters_of_symbols_get_no_piece() -> None:
    old = sentencepiece_tokenizer(train_sentencepiece_model(user_defined_symbols=SYMBOLS))
    assert "<" not in pieces_of(extend_tokenizer(old, ["ö <EOU>", "ö <EOB>"], 1))
    with pytest.raises(ValueError, match="the texts give 1 new pieces"):
        extend_tokenizer(old, ["ö <EOU>"], 2)


def test_extending_twice_adds_twice() -> None:
    old = sentencepiece_tokenizer(train_sentencepiece_model())
    once = extend_tokenizer(old, GERMAN, 12)
    twice = extend_tokenizer(once, GERMAN, 6)
    assert pieces_of(twice)[:-6] == pieces_of(once)


def test_characters_of_a_character_tokenizer_come_by_frequency() -> None:
    old = character_tokenizer([" ", "a", "b"], language_tag_pattern="<[a-z]+>")
    new = extend_tokenizer(old, ["ccc dd", "e"], 2)
    assert pieces_of(new) == [" ", "a", "b", "c", "d"]
    assert new.language_tag_pattern == old.language_tag_pattern


def test_aggregates_are_extended_by_language() -> None:
    english = sentencepiece_tokenizer(train_sentencepiece_model())
    joined = join_tokenizers({"en": english, "de": train_tokenizer(GERMAN, 40)})
    new = extend_tokenizer(joined, SENTENCES, 7, language="de")
    assert [span.size for span in new.language_spans] == [english.blank_token_id, 47]
    third = extend_tokenizer(joined, GERMAN, 30, language="fr")
    assert third.languages_of_text == ["en", "de", "fr"]
    assert third.language_spans[-1].size == 30
    ids = third("Der Hund", language="fr")["input_ids"]
    assert min(ids) >= third.language_spans[-1].start
    assert third.decode(ids).strip() == "Der Hund"


@pytest.mark.parametrize(
    ("make", "arguments", "message"),
    [
        (lambda: character_tokenizer(["a"]), {"num_new_pieces": 99}, "num_new_pieces=99 is not supported: .* give"),
        (lambda: wordpiece_tokenizer(["[UNK]", "a"]), {}, "text_rule='wordpiece' cannot be extended"),
        (lambda: character_tokenizer(["a"]), {"num_new_pieces": 0}, "num_new_pieces=0 is not supported"),
        (lambda: character_tokenizer(["a"]), {"language": "de"}, "language='de' is not supported by a tokenizer of"),
        (lambda: join_tokenizers({"en": train_tokenizer(SENTENCES, 90)}), {}, "language=None is not supported"),
        (lambda: train_tokenizer(SENTENCES, 90), {"num_new_pieces": 9999}, "the texts give [0-9]+ new pieces"),
        (
            lambda: train_tokenizer(SENTENCES, 90, "unigram"),
            {"num_new_pieces": 9999},
            "the texts give [0-9]+ new pieces",
        ),
    ],
)
def test_what_cannot_be_extended_is_named(make: Any, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        extend_tokenizer(make(), **{"texts": GERMAN, "num_new_pieces": 1, **arguments})


def test_what_cannot_be_joined_is_named() -> None:
    with pytest.raises(ValueError, match=r"parts\['en'\].text_rule='character' is not supported"):
        join_tokenizers({"en": character_tokenizer(["a"])})
    with pytest.raises(ValueError, match=r"parts=\{\} is not supported"):
        join_tokenizers({})
