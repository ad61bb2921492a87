"""Tokenizers written for NeMo are read back as they were."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from families import WORDPIECES, event_tokenizer
from nemo_models import train_sentencepiece

from transformers_fastconformer.nemo.tokenizer_map import build_tokenizer
from transformers_fastconformer.nemo.tokenizer_writer import describe_tokenizer, write_tokenizer
from transformers_fastconformer.nemo.tokenizers import (
    aggregate_tokenizer,
    character_tokenizer,
    sentencepiece_tokenizer,
    wordpiece_tokenizer,
)
from transformers_fastconformer.tokenization_fastconformer import FastConformerTokenizer


def trained(kind: str, folder: Path) -> FastConformerTokenizer:
    if kind == "symbols":
        event_tokenizer(folder)
    else:
        train_sentencepiece(folder, kind)
    return sentencepiece_tokenizer((folder / "tokenizer.model").read_bytes())


MAKERS: dict[str, Callable[[Path], FastConformerTokenizer]] = {
    **{kind: lambda folder, kind=kind: trained(kind, folder) for kind in ("bpe", "unigram", "char", "symbols")},
    "wordpiece": lambda folder: wordpiece_tokenizer(WORDPIECES),
    "aggregate": lambda folder: aggregate_tokenizer(
        {"en": trained("bpe", folder / "en"), "de": trained("unigram", folder / "de")}
    ),
}


@pytest.mark.parametrize("kind", MAKERS)
def test_round_trip(kind: str, tmp_path: Path) -> None:
    tokenizer = MAKERS[kind](tmp_path)
    section, artifacts = write_tokenizer(tokenizer)
    found = build_tokenizer({"tokenizer": section}, artifacts.__getitem__)
    assert describe_tokenizer(found) == describe_tokenizer(tokenizer)


def test_names_of_files_are_kept(tmp_path: Path) -> None:
    original = {"type": "wpe", "dir": "old", "vocab_path": "nemo:abc_vocab.txt"}
    section, artifacts = write_tokenizer(wordpiece_tokenizer(WORDPIECES), original)
    assert section == original
    assert artifacts["abc_vocab.txt"].decode().split("\n") == [*WORDPIECES, ""]


def test_characters_have_no_section() -> None:
    assert write_tokenizer(character_tokenizer(["a", "b"])) == (None, {})


def test_a_section_of_another_kind_is_not_kept(tmp_path: Path) -> None:
    """Its keys name files that the new archive lacks, which NeMo asks for."""
    single, joined = MAKERS["bpe"](tmp_path / "single"), MAKERS["aggregate"](tmp_path / "joined")
    section, _ = write_tokenizer(single)
    joined_section, _ = write_tokenizer(joined)
    assert section is not None
    assert joined_section is not None
    assert write_tokenizer(joined, {**section, "model_path": "nemo:gone.model"})[0] == joined_section
    assert (
        write_tokenizer(single, {**joined_section, "langs": {"en": {"model_path": "nemo:gone.model"}}})[0] == section
    )
    of_part = {"type": "wpe", "vocab_path": "nemo:gone.txt", "hf_kwargs": {"unk_token": "[UNK]"}}
    found, artifacts = write_tokenizer(joined, {"type": "agg", "langs": {"en": of_part}})
    assert found == joined_section
    assert not any("gone" in name for name in artifacts)
