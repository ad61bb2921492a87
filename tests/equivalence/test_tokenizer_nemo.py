"""Tokenizers read from NeMo's archives beside NeMo's own: ids of real transcripts, texts of ids."""

from __future__ import annotations

import io
import json
import random
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from transformers_fastconformer.nemo.tokenizer_map import build_tokenizer
from transformers_fastconformer.tokenization_fastconformer import FastConformerTokenizer

pytestmark = pytest.mark.nemo


def read_tokenizer(path: Path) -> FastConformerTokenizer:
    with tarfile.open(path) as archive:
        members = {member.name.removeprefix("./"): member for member in archive.getmembers()}

        def read(name: str) -> bytes:
            file = archive.extractfile(members[name])
            assert file is not None
            return file.read()

        return build_tokenizer(yaml.safe_load(io.BytesIO(read("model_config.yaml"))), read)


@pytest.fixture(scope="module")
def transcripts(speech_dir: Path) -> list[str]:
    lines = (speech_dir / "manifest.jsonl").read_text(encoding="utf-8").splitlines()
    return list(dict.fromkeys(json.loads(line)["text"] for line in lines))


@pytest.mark.parametrize(
    ("kind", "tokenizer_kind"),
    [("ctc", "bpe"), ("rnnt", "unigram"), ("tdt", "bpe"), ("hybrid_tdt_ctc", "unigram"), ("hybrid_rnnt_ctc", "bpe")],
)
def test_archives_give_nemos_ids_and_texts(
    nemo_archive: Callable[..., tuple[Any, Path]], kind: str, tokenizer_kind: str, transcripts: list[str]
) -> None:
    model, path = nemo_archive(kind, tokenizer=tokenizer_kind)
    tokenizer = read_tokenizer(path)
    decoding = model.decoding
    assert tokenizer.pad_token_id == decoding.blank_id == model.tokenizer.vocab_size
    assert tokenizer.convert_ids_to_tokens(range(decoding.blank_id)) == list(model.tokenizer.vocab)
    assert tokenizer.punctuation == frozenset(decoding.supported_punctuation)
    assert tokenizer(transcripts).input_ids == [model.tokenizer.text_to_ids(text) for text in transcripts]
    rng = random.Random(0)
    rows = [[rng.randrange(decoding.blank_id) for _ in range(rng.randrange(30))] for _ in range(300)]
    rows += [model.tokenizer.text_to_ids(text) for text in transcripts]
    for row in rows:
        assert tokenizer.decode(row) == decoding.decode_tokens_to_str_with_strip_punctuation(row)
        assert tokenizer.piece_text(row) == model.tokenizer.ids_to_text(row)


@pytest.mark.parametrize("kind", ["ctc", "rnnt", "hybrid_rnnt_ctc"])
def test_character_archives_give_nemos_ids_and_texts(
    nemo_archive: Callable[..., tuple[Any, Path]], kind: str, transcripts: list[str]
) -> None:
    from nemo.collections.common.parts.preprocessing.parsers import make_parser

    labels = [" ", *"abcdefghijklmnopqrstuvwxyz", "'", ".", ",", "<noise>"]
    model, path = nemo_archive(kind, tokenizer="char", labels=labels)
    tokenizer = read_tokenizer(path)
    assert tokenizer.pad_token_id == model.decoding.blank_id == len(labels)
    parser = make_parser(labels, name="base", unk_id=-1, blank_id=-1, do_normalize=False)
    for text in [*transcripts, "a <noise> b<noise>", "  two  spaces "]:
        assert tokenizer(text).input_ids == parser(text)
    rng = random.Random(1)
    for _ in range(300):
        row = [rng.choice((rng.randrange(len(labels)), 0, 28)) for _ in range(rng.randrange(30))]
        assert tokenizer.decode(row) == model.decoding.decode_tokens_to_str_with_strip_punctuation(row)


def test_language_tags_are_stripped_as_nemo_does(nemo_archive: Callable[..., tuple[Any, Path]]) -> None:
    labels = [" ", *"abcdefghijklmnopqrstuvwxyz", "<en-US>", "<pt-BR>", "."]
    model, path = nemo_archive("rnnt", tokenizer="char", labels=labels, decoding={"strip_lang_tags": True})
    tokenizer = read_tokenizer(path)
    rng = random.Random(2)
    for _ in range(300):
        row = [rng.choice((0, 1, 2, 27, 28, 29)) for _ in range(rng.randrange(12))]
        assert tokenizer.decode(row) == model.decoding.decode_tokens_to_str_with_strip_punctuation(row)
