"""From the tokenizer section of an archive to a tokenizer: what is mapped, pinned, dropped and refused."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from sentencepiece_models import train_sentencepiece_model

from transformers_fastconformer.nemo import tokenizer_map
from transformers_fastconformer.nemo.tokenizer_map import build_tokenizer, timestamp_options


def reader(members: dict[str, bytes]) -> Callable[[str], bytes]:
    return members.__getitem__


def bpe_section(**keys: Any) -> dict[str, Any]:
    section = {
        "dir": "/data/tokenizers/bpe_v1024",
        "type": "bpe",
        "model_path": "nemo:0f1e_tokenizer.model",
        "vocab_path": "nemo:0f1e_vocab.txt",
        "spe_tokenizer_vocab": "nemo:0f1e_tokenizer.vocab",
    }
    return section | keys


@pytest.fixture
def members() -> dict[str, bytes]:
    vocabulary = "[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\nthe\ndog\n##s\n"
    return {"0f1e_tokenizer.model": train_sentencepiece_model(), "0f1e_vocab.txt": vocabulary.encode()}


def test_sentencepiece_reads_only_its_model(members: dict[str, bytes]) -> None:
    asked: list[str] = []

    def read(name: str) -> bytes:
        asked.append(name)
        return members[name]

    tokenizer = build_tokenizer({"tokenizer": bpe_section(special_tokens=None, type="BPE")}, read)
    assert asked == ["0f1e_tokenizer.model"]
    assert tokenizer.decode(tokenizer("the dog").input_ids) == "the dog"


def test_wordpiece_reads_its_vocabulary(members: dict[str, bytes]) -> None:
    section = {"dir": "x", "type": "wpe", "vocab_path": "nemo:0f1e_vocab.txt", "hf_kwargs": {"use_fast": True}}
    tokenizer = build_tokenizer({"tokenizer": section}, reader(members))
    assert tokenizer("the dogs The").input_ids == [5, 6, 7, 1]
    section["hf_kwargs"] = {"pretrained_model_name": "bert-base-uncased", "unk_token": "[UNK]"}
    # NeMo reads the name of the base model only in the parts of an aggregate.
    assert build_tokenizer({"tokenizer": section}, reader(members))("The").input_ids == [1]
    aggregate = build_tokenizer({"tokenizer": {"type": "agg", "langs": {"en": section}}}, reader(members))
    assert aggregate("The", language="en").input_ids == [5]


def test_aggregates_keep_the_order_of_the_configuration(members: dict[str, bytes]) -> None:
    wordpiece = {"dir": "x", "type": "wpe", "vocab_path": "nemo:0f1e_vocab.txt"}
    section = {"type": "agg", "dir": None, "langs": {"fr": wordpiece, "de": bpe_section()}}
    tokenizer = build_tokenizer({"tokenizer": section}, reader(members))
    assert [(span.language, span.start) for span in tokenizer.language_spans] == [("fr", 0), ("de", 8)]
    assert tokenizer("dogs", language="fr").input_ids == [6, 7]


@pytest.mark.parametrize(
    "config",
    [
        {"labels": [" ", "a", "b"]},
        {"decoder": {"vocabulary": [" ", "a", "b"]}},
        {"joint": {"vocabulary": [" ", "a", "b"]}, "decoder": {"vocabulary": None}},
    ],
)
def test_characters_are_found_where_models_keep_them(config: dict[str, Any]) -> None:
    tokenizer = build_tokenizer(config, reader({}))
    assert tokenizer.text_rule == "character"
    assert tokenizer("b a").input_ids == [2, 0, 1]


def test_language_tags_follow_the_decoding_section(members: dict[str, bytes]) -> None:
    def pattern(**decoding: Any) -> str | None:
        config = {"tokenizer": bpe_section(), "decoding": decoding}
        return build_tokenizer(config, reader(members)).language_tag_pattern

    assert pattern() is None
    assert pattern(strip_lang_tags=False, lang_tag_pattern="<..>") is None
    assert pattern(strip_lang_tags=True) == tokenizer_map.LANGUAGE_TAG_PATTERN
    assert pattern(strip_lang_tags=True, lang_tag_pattern="<..>") == "<..>"


def test_timestamp_options_follow_the_decoding_section() -> None:
    assert timestamp_options({}) == {}
    assert timestamp_options({"decoding": {"word_seperator": " ", "segment_gap_threshold": None}}) == {
        "word_separator": " "
    }
    decoding = {"segment_seperators": ["."], "segment_gap_threshold": 5, "strategy": "greedy"}
    assert timestamp_options({"decoding": decoding}) == {"segment_separators": ["."], "segment_gap_frames": 5}


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({}, "tokenizer, labels: not found"),
        ({"labels": ["a", True]}, "labels: True is not supported"),
        ({"labels": ["a", "b", "a"]}, r"labels: \['a'\] stand there twice"),
        ({"tokenizer": bpe_section(type="yttm")}, r"tokenizer.type='yttm' is not supported; expected one of \('bpe'"),
        ({"tokenizer": bpe_section(type=None)}, "tokenizer.type=None"),
        ({"tokenizer": bpe_section(legacy=True)}, "tokenizer.legacy=True is not supported; expected one of"),
        ({"tokenizer": bpe_section(special_tokens=["<a>"])}, r"tokenizer.special_tokens=\['<a>'\].*expected None"),
        ({"tokenizer": bpe_section(model_path="/data/x.model")}, "tokenizer.model_path='/data/x.model'"),
        ({"tokenizer": bpe_section(model_path="nemo:0f1e_vocab.txt")}, "bytes are not a SentencePiece model"),
        ({"tokenizer": {"type": "agg", "langs": {}}}, r"tokenizer.langs=\{\}"),
        ({"tokenizer": {"type": "agg", "langs": {"en": {"type": "agg"}}}}, "tokenizer.langs.en.type='agg'"),
        ({"tokenizer": {"type": "wpe", "vocab_path": "nemo:short"}}, r"special tokens \['\[PAD\]'"),
        (
            {"tokenizer": {"type": "wpe", "vocab_path": "nemo:0f1e_vocab.txt", "hf_kwargs": {"bos_token": "<s>"}}},
            r"special tokens \['<s>'\] are missing",
        ),
        (
            {"tokenizer": {"type": "wpe", "vocab_path": "nemo:0f1e_vocab.txt", "hf_kwargs": {"normalizer": 1}}},
            "tokenizer.hf_kwargs.normalizer=1",
        ),
    ],
)
def test_what_is_not_supported_is_refused_by_name(
    config: dict[str, Any], message: str, members: dict[str, bytes]
) -> None:
    with pytest.raises(ValueError, match=message):
        build_tokenizer(config, reader({**members, "short": b"the\ndog\n"}))
