"""Tokenizers of Transformers' Parakeet checkpoints, both ways, compared by running theirs."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest
from multitask_archives import SPECIAL_MODEL
from sentencepiece_models import SENTENCES, VARIANTS, train_sentencepiece_model
from their_models import class_of_transformers
from tokenizers import AddedToken
from transformers import AutoTokenizer

from transformers_fastconformer import FastConformerTokenizer
from transformers_fastconformer.interop.families import FAMILY_OF_TYPE
from transformers_fastconformer.interop.tokenizer_form import (
    OPTIONS_KEY,
    tokenizer_from_transformers,
    tokenizer_to_transformers,
)
from transformers_fastconformer.nemo.tokenizers import (
    aggregate_tokenizer,
    character_tokenizer,
    sentencepiece_tokenizer,
    wordpiece_tokenizer,
)

TEXTS = (*SENTENCES, "hello , world !", "  two  spaces ", "snow ☃ falls", "it's . a?")
LABELS = [" ", *"abcdefghijklmnopqrstuvwxyz", "'", "."]
WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "the", "quick", "##er", "dog", "##s", ",", ".", "'", "t"]


def build_ours(kind: str) -> FastConformerTokenizer:
    if kind == "labels":
        return character_tokenizer(LABELS)
    if kind == "wordpiece":
        return wordpiece_tokenizer(WORDS)
    return sentencepiece_tokenizer(train_sentencepiece_model(**VARIANTS[kind]))


def random_rows(num_tokens: int, forbidden: set[int], count: int = 100) -> list[list[int]]:
    generator = random.Random(0)
    allowed = [token for token in range(num_tokens) if token not in forbidden]
    return [[generator.choice(allowed) for _ in range(generator.randrange(1, 9))] for _ in range(count)]


def save_theirs(ours: FastConformerTokenizer, model_type: str, folder: Path) -> Any:
    backend, arguments = tokenizer_to_transformers(ours, FAMILY_OF_TYPE[model_type])
    tokenizer_class = class_of_transformers(FAMILY_OF_TYPE[model_type].tokenizer_class_name)
    tokenizer_class(tokenizer_object=backend, **arguments).save_pretrained(folder)
    return AutoTokenizer.from_pretrained(folder)


def read_ours(folder: Path, num_tokens: int | None = None, is_multitask: bool = False) -> FastConformerTokenizer:
    text, config = (folder / name for name in ("tokenizer.json", "tokenizer_config.json"))
    return tokenizer_from_transformers(
        text.read_text(), json.loads(config.read_text()), num_tokens, str(folder), is_multitask
    )


@pytest.mark.parametrize("model_type", ["parakeet_ctc", "parakeet_tdt"])
@pytest.mark.parametrize("kind", [*VARIANTS, "labels", "wordpiece"])
def test_their_class_writes_and_reads_the_same_text(kind: str, model_type: str, tmp_path: Path) -> None:
    ours = build_ours(kind)
    theirs = save_theirs(ours, model_type, tmp_path)
    assert type(theirs).__name__ == "ParakeetTokenizer"
    assert theirs.pad_token_id == ours.blank_token_id
    # Bytes that are no UTF-8 are one replacement character each here, and spoil the whole run of bytes there.
    broken = {token for token in range(ours.blank_token_id) if ours.vocabulary_tokens([token])[0].startswith("<0x")}
    for row in random_rows(ours.blank_token_id, broken):
        found = theirs.decode(row, skip_special_tokens=True, group_tokens=False)
        assert found == ours.decode(row, skip_special_tokens=True)
    for text in TEXTS:
        assert theirs(text, add_special_tokens=False)["input_ids"] == ours(text)["input_ids"]
    again = read_ours(tmp_path, ours.blank_token_id)
    assert again.text_options == ours.text_options
    assert again.event_tokens == ours.event_tokens
    assert json.loads(again.complete_backend().to_str()) == json.loads(ours.complete_backend().to_str())


def test_options_survive_a_stay_with_their_class(tmp_path: Path) -> None:
    ours = build_ours("bpe that keeps spaces")
    theirs = save_theirs(ours, "parakeet_tdt", tmp_path / "once")
    theirs.save_pretrained(tmp_path / "twice")
    assert read_ours(tmp_path / "twice").text_options == ours.text_options


@pytest.mark.parametrize("kind", ["bpe", "bpe with pad, bos, eos", "bpe with symbols", "bpe with bytes", "unigram"])
def test_a_tokenizer_of_their_script_gives_nemos_text(kind: str, tmp_path: Path) -> None:
    """Made as Transformers' conversion script makes it, and so without our options."""
    convert_slow_tokenizer = pytest.importorskip("transformers.convert_slow_tokenizer")
    pytest.importorskip("google.protobuf")
    model_bytes = train_sentencepiece_model(**VARIANTS[kind])
    (tmp_path / "tokenizer.model").write_bytes(model_bytes)
    backend = convert_slow_tokenizer.ParakeetConverter(str(tmp_path / "tokenizer.model")).converted()
    theirs = class_of_transformers("ParakeetTokenizer")(tokenizer_object=backend, clean_up_tokenization_spaces=False)
    blank = AddedToken("<blank>", normalized=False, special=True)
    theirs.add_tokens([blank])
    theirs.add_special_tokens({"pad_token": blank})
    theirs.save_pretrained(tmp_path / "theirs")
    assert OPTIONS_KEY not in json.loads((tmp_path / "theirs" / "tokenizer_config.json").read_text())

    nemos = sentencepiece_tokenizer(model_bytes)
    ours = read_ours(tmp_path / "theirs", nemos.blank_token_id)
    assert ours.blank_token_id == nemos.blank_token_id == theirs.pad_token_id
    assert ours.event_tokens == nemos.event_tokens
    for row in random_rows(nemos.blank_token_id, set()):
        assert ours.decode(row, skip_special_tokens=True) == nemos.decode(row, skip_special_tokens=True)
    for text in TEXTS:
        assert ours(text)["input_ids"] == theirs(text, add_special_tokens=False)["input_ids"]


def test_tokens_behind_the_blank_of_the_model_are_left_out(tmp_path: Path) -> None:
    """Scripts for the streaming models put `<pad>` where the model has its blank, and `<blank>` behind it."""
    nemos = build_ours("bpe")
    backend, _ = tokenizer_to_transformers(nemos, FAMILY_OF_TYPE["parakeet_ctc"])
    theirs = class_of_transformers("ParakeetTokenizer")(tokenizer_object=backend, pad_token="<pad>")
    theirs.add_tokens([AddedToken("<blank>", normalized=False, special=True)])
    theirs.save_pretrained(tmp_path)
    assert theirs.convert_tokens_to_ids("<blank>") == nemos.blank_token_id + 1
    ours = read_ours(tmp_path, nemos.blank_token_id)
    assert len(ours) == nemos.blank_token_id + 1
    assert ours.convert_ids_to_tokens(nemos.blank_token_id) == "<blank>"
    for row in random_rows(nemos.blank_token_id, set()):
        assert ours.decode(row) == nemos.decode(row)


def test_a_name_that_is_taken_is_not_the_blank(tmp_path: Path) -> None:
    ours = build_ours("bpe with pad, bos, eos")
    assert "<pad>" in ours.get_vocab()
    theirs = save_theirs(ours, "parakeet_ctc", tmp_path)
    assert theirs.pad_token == "<pad_>"
    assert theirs.convert_tokens_to_ids("<pad>") == 3


def test_what_their_class_cannot_say_is_refused() -> None:
    family = FAMILY_OF_TYPE["parakeet_ctc"]
    part = build_ours("bpe")
    with pytest.raises(ValueError, match="text_rule='aggregate' is not supported by ParakeetTokenizer"):
        tokenizer_to_transformers(aggregate_tokenizer({"en": part, "de": part}), family)


def test_language_tags_are_left_out_of_texts_there_too(tmp_path: Path) -> None:
    symbols = {"user_defined_symbols": ("<en-US>", "<de-DE>")}
    pattern = r"\s*<[a-z]{2}-[A-Z]{2}>"
    ours = sentencepiece_tokenizer(train_sentencepiece_model(**symbols), language_tag_pattern=pattern)
    theirs = save_theirs(ours, "parakeet_tdt", tmp_path)
    for row in random_rows(ours.blank_token_id, set()):
        row.insert(len(row) // 2, ours.convert_tokens_to_ids("<de-DE>"))
        found = theirs.decode(row, skip_special_tokens=True, group_tokens=False)
        assert found == ours.decode(row, skip_special_tokens=True)
        assert "<de-DE>" not in found
    assert read_ours(tmp_path, ours.blank_token_id).language_tag_pattern == pattern


def test_a_vocabulary_of_another_size_is_refused(tmp_path: Path) -> None:
    ours = build_ours("bpe")
    save_theirs(ours, "parakeet_tdt", tmp_path)
    with pytest.raises(ValueError, match=f"the vocabulary has {ours.blank_token_id} tokens; expected 7"):
        read_ours(tmp_path, 7)


def test_a_tokenizer_with_prompts_goes_there_and_back(tmp_path: Path) -> None:
    ours = sentencepiece_tokenizer(train_sentencepiece_model(**SPECIAL_MODEL))
    theirs = save_theirs(ours, "canary", tmp_path)
    roles = ("pad_token_id", "eos_token_id", "bos_token_id")
    assert len(theirs) == len(ours) == ours.blank_token_id
    for row in random_rows(len(ours), set()):
        assert theirs.decode(row, skip_special_tokens=True) == ours.decode(row, skip_special_tokens=True)
    for text in TEXTS:
        assert theirs(text, add_special_tokens=False)["input_ids"] == ours(text)["input_ids"]
    again = read_ours(tmp_path, is_multitask=True)
    assert again.text_options == ours.text_options
    assert [getattr(again, role) for role in roles] == [getattr(ours, role) for role in roles]
    assert [getattr(theirs, role) for role in roles] == [getattr(ours, role) for role in roles]
    assert again.prompt_token_ids == ours.prompt_token_ids
    assert json.loads(again.complete_backend().to_str()) == json.loads(ours.complete_backend().to_str())


def test_a_tokenizer_of_their_script_for_canary_has_its_prompts(tmp_path: Path) -> None:
    """Made as Transformers' conversion script makes it, and so without our options."""
    convert_slow_tokenizer = pytest.importorskip("transformers.convert_slow_tokenizer")
    pytest.importorskip("google.protobuf")
    if not hasattr(convert_slow_tokenizer, "CanaryConverter"):
        pytest.skip("this Transformers has no CanaryConverter")
    model_bytes = train_sentencepiece_model(**SPECIAL_MODEL)
    (tmp_path / "tokenizer.model").write_bytes(model_bytes)
    backend = convert_slow_tokenizer.CanaryConverter(str(tmp_path / "tokenizer.model")).converted()
    names = {"bos_token": "<|startoftranscript|>", "eos_token": "<|endoftext|>", "pad_token": "<pad>"}
    tokenizer_class = class_of_transformers("TokenizersBackend")
    theirs = tokenizer_class(tokenizer_object=backend, clean_up_tokenization_spaces=False, unk_token="<unk>", **names)
    theirs.save_pretrained(tmp_path / "theirs")

    nemos = sentencepiece_tokenizer(model_bytes)
    ours = read_ours(tmp_path / "theirs", is_multitask=True)
    assert ours.prompt_token_ids == nemos.prompt_token_ids
    assert (ours.pad_token_id, ours.eos_token_id, ours.bos_token_id) == (
        nemos.pad_token_id,
        nemos.eos_token_id,
        nemos.bos_token_id,
    )
    for row in random_rows(len(nemos), set()):
        for skips in (True, False):
            assert ours.decode(row, skip_special_tokens=skips) == nemos.decode(row, skip_special_tokens=skips)
    for text in SENTENCES:
        assert ours(text)["input_ids"] == nemos(text)["input_ids"]
