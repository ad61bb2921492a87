"""Tokenizers of the kinds that NeMo has: what is refused. Texts are compared with NeMo in `equivalence/`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from sentencepiece_models import train_sentencepiece_model

from transformers_fastconformer.nemo.tokenizers import (
    character_tokenizer,
    sentencepiece_tokenizer,
    wordpiece_tokenizer,
)


@pytest.mark.parametrize(
    ("section", "key", "value"),
    [
        ("trainer_spec", "treat_whitespace_as_suffix", True),
        ("normalizer_spec", "escape_whitespaces", False),
        ("denormalizer_spec", "precompiled_charsmap", b"x"),
        ("trainer_spec", "model_type", 3),  # WORD
    ],
)
def test_sentencepiece_options_are_pinned(section: str, key: str, value: Any) -> None:
    from sentencepiece import sentencepiece_model_pb2

    model = sentencepiece_model_pb2.ModelProto()
    model.ParseFromString(train_sentencepiece_model())
    setattr(getattr(model, section), key, value)
    with pytest.raises(ValueError, match=f"{key}=.* is not supported"):
        sentencepiece_tokenizer(model.SerializeToString())


def test_pieces_that_would_be_looked_up_wrongly_are_refused() -> None:
    from sentencepiece import sentencepiece_model_pb2

    model = sentencepiece_model_pb2.ModelProto()
    model.ParseFromString(train_sentencepiece_model(user_defined_symbols=("<EOU>",)))
    model.pieces.add(piece="▁the▁", score=5.0, type=1)
    model.pieces.add(piece="e▁", score=9.0, type=1)  # now "▁the▁" is never reached: this comes first
    with pytest.raises(ValueError, match="'▁the▁' is not supported next to user-defined symbols"):
        sentencepiece_tokenizer(model.SerializeToString())


def test_unused_pieces_are_refused() -> None:
    from sentencepiece import sentencepiece_model_pb2

    model = sentencepiece_model_pb2.ModelProto()
    model.ParseFromString(train_sentencepiece_model())
    model.pieces[-1].type = 5
    with pytest.raises(ValueError, match="unused pieces"):
        sentencepiece_tokenizer(model.SerializeToString())


def set_first(**values: Any) -> Callable[[Any], None]:
    def change(model: Any) -> None:
        for name, value in values.items():
            setattr(model.pieces[5], name, value)

    return change


def set_map(blob: bytes) -> Callable[[Any], None]:
    def change(model: Any) -> None:
        model.normalizer_spec.precompiled_charsmap = blob

    return change


def add_pieces(count: int, kind: int, text: str = "") -> Callable[[Any], None]:
    def change(model: Any) -> None:
        for number in range(count):
            model.pieces.add(piece=f"{text}<{number}>", score=0.0, type=kind)

    return change


NORMAL, CONTROL, BYTE = 1, 3, 6
DAMAGED: dict[str, tuple[Callable[[Any], None], str]] = {
    "long piece": (set_first(piece="a" * 800_000), "has 800000 characters; expected 1 to 256"),
    "empty piece": (set_first(piece=""), "has 0 characters; expected 1 to 256"),
    "score": (set_first(score=float("nan")), "the score nan of .* is not supported; expected a number"),
    "infinite score": (set_first(score=float("inf")), "the score inf of"),
    "one byte": (set_first(piece="<0x41>", type=BYTE), "1 byte pieces; expected none, or '<0x00>' to '<0xFF>'"),
    "many pieces": (add_pieces(2**18, NORMAL), "pieces; expected at most 262144"),
    "many symbols": (add_pieces(2**14 + 1, CONTROL), "control pieces and symbols; expected at most 16384"),
    "many characters": (add_pieces(20_000, NORMAL, "x" * 240), "characters; expected at most 4194304"),
    "unknown text": (lambda model: setattr(model.trainer_spec, "unk_surface", "x" * 10**6), "unknown_text=.* short"),
    "map of all bits": (set_map(b"\xff\xff\xff\xff"), "precompiled_charsmap: 4 bytes with a trie of 4294967295"),
    "map of no units": (set_map(b"\0\0\0\0"), "precompiled_charsmap: 4 bytes with a trie of 0"),
    "map of odd units": (set_map(b"\7\0\0\0" + b"\0" * 8), "12 bytes with a trie of 7"),
    "short map": (set_map(b"a"), "1 bytes with a trie of 97"),
    "map that leads out": (set_map(b"\4\0\0\0" + b"\0" * 4), "a unit of its trie leads out of it"),
}


@pytest.mark.parametrize("case", DAMAGED)
def test_damaged_sentencepiece_models_are_named_and_end_nothing(case: str) -> None:
    from sentencepiece import sentencepiece_model_pb2

    change, message = DAMAGED[case]
    model: Any = sentencepiece_model_pb2.ModelProto()  # type: ignore[attr-defined]
    model.ParseFromString(train_sentencepiece_model())
    change(model)
    with pytest.raises(ValueError, match=message) as raised:
        sentencepiece_tokenizer(model.SerializeToString())
    assert str(raised.value).startswith("tokenizer.model_path")


def test_pieces_that_are_not_text_are_named() -> None:
    content = train_sentencepiece_model()
    place = content.index("▁t".encode())
    with pytest.raises(
        ValueError, match=r"tokenizer\.model_path.*(utf-8|the token b.* is not supported; expected text)"
    ):
        sentencepiece_tokenizer(content[:place] + b"\xff\xff\xff" + content[place + 3 :])


def test_other_vocabularies_have_the_same_limits() -> None:
    with pytest.raises(ValueError, match=r"labels: the token .* has 1000 characters; expected 1 to 256"):
        character_tokenizer(["a", "x" * 1000])
    with pytest.raises(ValueError, match=r"vocab_path: 300000 tokens are not supported; expected at most 262144"):
        wordpiece_tokenizer([str(number) for number in range(300_000)])
