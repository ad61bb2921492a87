"""SentencePiece models made from tokenizers of ours give the pieces of the model that was trained."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from nemo_models import TOKENIZER_SENTENCES, train_sentencepiece

from transformers_fastconformer.nemo.sentencepiece_writer import list_pieces, write_sentencepiece
from transformers_fastconformer.nemo.tokenizers import sentencepiece_tokenizer, wordpiece_tokenizer


@pytest.mark.parametrize("kind", ["bpe", "unigram", "char"])
def test_sentencepiece_itself_cuts_alike(kind: str, tmp_path: Path) -> None:
    import sentencepiece

    content = (train_sentencepiece(tmp_path, kind) / "tokenizer.model").read_bytes()
    tokenizer = sentencepiece_tokenizer(content)
    written = write_sentencepiece(tokenizer, json.loads(tokenizer.complete_backend().to_str()))
    before, after = (sentencepiece.SentencePieceProcessor(model_proto=model) for model in (content, written))
    for text in [*TOKENIZER_SENTENCES, "  unseen ǂ, words  ", "ﬁne ½"]:
        assert after.EncodeAsIds(text) == before.EncodeAsIds(text), text
        assert after.DecodeIds(after.EncodeAsIds(text)) == before.DecodeIds(before.EncodeAsIds(text))
    assert len(list_pieces(written).decode().splitlines()) == before.GetPieceSize()


def test_another_backend_is_refused() -> None:
    tokenizer = wordpiece_tokenizer(["[UNK]", "a"])
    with pytest.raises(ValueError, match="model type 'WordPiece' is not supported"):
        write_sentencepiece(tokenizer, json.loads(tokenizer.complete_backend().to_str()))
