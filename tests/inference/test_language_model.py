"""Language models of the demonstration's tokens: from text, in files of every kind, and of other tokenizers."""

from __future__ import annotations

import math

import pytest

from transformers_fastconformer.decoding.token_automaton import TokenAutomaton
from transformers_fastconformer.inference.language_model import NgramLanguageModel
from transformers_fastconformer.inference.loading import load_model
from transformers_fastconformer.nemo.tokenizers import character_tokenizer

TEXTS = ["one two three", "three two one", "one two three four", "  ", "nine nine"]


@pytest.fixture(scope="module")
def tokenizer():
    return load_model("demo")[1].tokenizer


@pytest.fixture(scope="module")
def language_model(tokenizer):
    return NgramLanguageModel.from_text(TEXTS, tokenizer, order=3)


def test_a_file_and_a_list_of_sentences_make_the_same_model(tokenizer, language_model, tmp_path):
    (tmp_path / "texts.txt").write_text("\n".join(TEXTS), encoding="utf-8")
    found = NgramLanguageModel.from_text(tmp_path / "texts.txt", tokenizer, order=3)
    assert repr(found) == repr(language_model)
    assert "order=3" in repr(found)


def test_files_of_every_kind_hold_the_same_model(tokenizer, language_model, tmp_path):
    language_model.save_arpa(tmp_path / "coded.arpa")
    language_model.save_arpa(tmp_path / "pieces.arpa", tokenizer)
    language_model.save(tmp_path / "model.safetensors")
    for name in ("coded.arpa", "pieces.arpa", "model.safetensors"):
        found = NgramLanguageModel.from_file(tmp_path / name, tokenizer)
        assert repr(found) == repr(language_model), name
    assert "▁one" in (tmp_path / "pieces.arpa").read_text(encoding="utf-8")
    with pytest.raises(ValueError, match="a model of from_text or from_arpa"):
        NgramLanguageModel.load(tmp_path / "model.safetensors").save_arpa(tmp_path / "again.arpa")


def test_log_probs(tokenizer, language_model):
    ids = tokenizer("one two three")["input_ids"]
    likely = language_model.log_probs(ids)
    assert likely.shape == (len(ids) + 1,)
    assert (likely < 0).all()
    assert float(likely.sum()) > float(language_model.log_probs(tokenizer("two nine one")["input_ids"]).sum())
    assert math.exp(float(likely[0])) == pytest.approx(0.4, abs=0.25)


def test_models_of_other_tokenizers_are_refused(tokenizer, language_model, tmp_path):
    letters = character_tokenizer(["a", "b", " "])
    language_model.save_arpa(tmp_path / "coded.arpa")
    language_model.save_arpa(tmp_path / "pieces.arpa", tokenizer)
    language_model.save(tmp_path / "model.safetensors")
    for name in ("coded.arpa", "pieces.arpa"):
        with pytest.raises(ValueError, match=rf"{name}.*are not tokens of this checkpoint"):
            NgramLanguageModel.from_file(tmp_path / name, letters)
    with pytest.raises(ValueError, match=r"model\.safetensors.*number of tokens"):
        NgramLanguageModel.from_file(tmp_path / "model.safetensors", letters)
    same_size = character_tokenizer([chr(300 + number) for number in range(tokenizer.blank_token_id)])
    with pytest.raises(ValueError, match=r"model\.safetensors.*hash of this tokenizer"):
        NgramLanguageModel.from_file(tmp_path / "model.safetensors", same_size)


def test_wrong_arguments_are_refused(tokenizer, tmp_path):
    with pytest.raises(ValueError, match="order=0"):
        NgramLanguageModel.from_text(TEXTS, tokenizer, order=0)
    with pytest.raises(ValueError, match="found no tokens"):
        NgramLanguageModel.from_text([" "], tokenizer)
    with pytest.raises(FileNotFoundError, match="missing"):
        NgramLanguageModel.from_text("missing.txt", tokenizer)
    with pytest.raises(ValueError, match="tokens='words'"):
        NgramLanguageModel.from_arpa("missing.arpa", tokenizer, tokens="words")
    with pytest.raises(ValueError, match="missing"):
        NgramLanguageModel.from_nemo("missing.nemo", tokenizer)
    assert NgramLanguageModel(TokenAutomaton.empty(3)).automaton.vocab_size == 3
