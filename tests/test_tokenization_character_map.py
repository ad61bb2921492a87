"""Normalisation by a map of characters, next to SentencePiece's own; bytes that become text."""

from __future__ import annotations

import re

import pytest
from sentencepiece_models import train_sentencepiece_model

from transformers_fastconformer.tokenization_character_map import PrecompiledCharacterMap, text_from_bytes


def test_the_map_replaces_what_sentencepiece_does() -> None:
    import sentencepiece
    from sentencepiece import sentencepiece_model_pb2

    model = sentencepiece_model_pb2.ModelProto()
    model.ParseFromString(train_sentencepiece_model())
    character_map = PrecompiledCharacterMap(model.normalizer_spec.precompiled_charsmap)
    normalizer = sentencepiece.SentencePieceNormalizer(model_proto=model.SerializeToString())
    for text in ("the dog", "\ufb01x", "\u2460\u00bd", "e\u0301", "\uff21\uff22", "Q\u0301"):
        assert character_map.normalize(text) == normalizer.normalize(text).strip("\u2581").replace("\u2581", " ")
    assert character_map.normalize("\uff21\uff22", re.compile("\uff22")) == "A\uff22"


@pytest.mark.parametrize(
    ("encoded", "is_last", "expected"),
    [
        ("\u00fc".encode(), True, ("\u00fc", 2)),
        (b"\xc3", True, ("\ufffd", 1)),
        (b"\xc3", False, ("", 0)),
        (b"a\xff\xc3", False, ("a\ufffd", 2)),
        (b"\xe4\xb8x", True, ("\ufffd\ufffdx", 3)),
    ],
)
def test_bytes_become_text(encoded: bytes, is_last: bool, expected: tuple[str, int]) -> None:
    assert text_from_bytes(encoded, is_last) == expected
