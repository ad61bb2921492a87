"""Tokenizers of the kinds that NeMo has: what is refused. Texts are compared with NeMo in `equivalence/`."""

from __future__ import annotations

from typing import Any

import pytest
from sentencepiece_models import train_sentencepiece_model

from transformers_fastconformer.nemo.tokenizers import sentencepiece_tokenizer


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
